"""What is asked of a dataset: where its pictures are, and how each is brought to its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cgpipe.data.direction import Direction, Domain
from cgpipe.errors import UsageError
from cgpipe.recipe import setting

Preprocess = Literal[
    "resize_and_crop",
    "scale_width",
    "scale_width_and_crop",
    "scale_shortest",
    "scale_shortest_and_crop",
    "crop",
    "none",
]
Way = Literal["auto", "AtoB", "BtoA"]
"""Which domain of a dataset goes in."""

VIEWABLE = (1, 3, 4)
"""Channels of pictures that networks for RGB can look at: gray, RGB, RGB and opacity."""


def whole_side(side: int, multiple: int) -> int:
    """The largest side up to ``side`` that is a multiple of ``multiple``; that itself where there is none."""
    return max(1, side // multiple) * multiple


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """How each training picture is resized, cropped and flipped; a stage of a recipe may change it."""

    preprocess: Preprocess = setting(
        "resize_and_crop",
        "How pictures are resized and cropped. resize_and_crop: to --load-width by --load-height, whatever the shape, "
        "then a random crop. scale_width: to the width --load-width, keeping the shape. scale_shortest: the shorter "
        "side to --load-height. With _and_crop, these are cropped too. crop: a crop of the original. none: the "
        "original. A picture too small for the crop or the networks is enlarged. Without a crop, sides are rounded to "
        "what the generator accepts, and --batch-size must be 1.",
    )
    flip: bool = setting(True, "Flip half of the pictures horizontally, at random.")
    load_height: int = setting(280, "Height to which pictures are resized before the crop.", above=0)
    load_width: int = setting(280, "Width to which pictures are resized before the crop.", above=0)
    load_min: int = setting(
        140, "Resize to a random height between this and --load-height; 0: always --load-height.", at_least=0
    )
    crop_height: int = setting(128, "Height of the random crop.", above=0)
    crop_width: int = setting(128, "Width of the random crop.", above=0)
    batch_size: int = setting(2, "Pictures of each domain per step.", above=0)

    @property
    def crops(self) -> bool:
        """Whether all pictures have the size of the crop in the end."""
        return self.preprocess.endswith("crop")

    def check_sizes(self) -> None:
        """Raises UsageError where crops do not fit, or where pictures of several sizes would make a batch."""
        if not self.crops and self.batch_size > 1:
            raise UsageError(
                f"With preprocess {self.preprocess} pictures keep their own sizes and cannot be batched: set "
                "batch_size to 1, or crop."
            )
        if self.load_min > self.load_height:
            raise UsageError(
                f"Pictures cannot be resized to a height between load_min {self.load_min} and load_height "
                f"{self.load_height}: make load_min smaller, or 0 for always load_height."
            )
        if self.preprocess != "resize_and_crop":
            return
        smallest = self.load_min or self.load_height
        if self.crop_height > smallest or self.crop_width > self.load_width * smallest // self.load_height:
            raise UsageError(
                f"A crop of {self.crop_width}x{self.crop_height} does not fit into pictures of height {smallest}: "
                "make crop_height and crop_width smaller, or load_min, load_height and load_width larger."
            )


@dataclass(frozen=True, kw_only=True)
class DataSettings(PictureSettings):
    """A dataset of two domains, and how its pictures are prepared."""

    dataset_dir: Path = setting(
        Path("datasets/horse2zebra"), "Folder with trainA and trainB, optionally testA and testB."
    )
    domain_a: Path | None = setting(
        None,
        "Training pictures of domain A, instead of those in --dataset-dir: a folder, or a .txt list with one path per "
        "line, relative to the list's folder.",
        files=True,
    )
    domain_b: Path | None = setting(None, "Same, for domain B.", files=True)
    test_a: Path | None = setting(
        None, "Test pictures of domain A, for sample grids and metrics: a folder or a list.", files=True
    )
    test_b: Path | None = setting(None, "Same, for domain B.", files=True)
    pairs: Path | None = setting(
        None,
        "Training pictures with A on the left and B on the right of each, instead of those in --dataset-dir: a folder "
        "or a list. A dataset without trainA may hold such ones in train, and in test or val.",
        files=True,
    )
    test_pairs: Path | None = setting(None, "Test pictures of that kind.", files=True)
    photos: Path | None = setting(
        None, "Photos to learn a look on, with --method style: a folder or a list.", files=True
    )
    masks_a: Path | None = setting(
        None,
        "Masks for the training pictures of domain A: a folder with a picture of the same name for each, or one "
        "picture for all. White may change; changes elsewhere cost --background-weight.",
        files=True,
    )
    masks_b: Path | None = setting(None, "Same, for domain B.", files=True)
    recolour: float = setting(
        0.0,
        "Fraction of the pictures with masks that are recoloured inside the mask: lighter and grayer, or darker. A "
        "model so learns subjects of rare colours too, such as white horses.",
        at_least=0,
        below=1,
    )
    input_channels: int = setting(
        3,
        "Channels of the pictures of domain A: 1 (gray), 3 (RGB), 4 (RGB and transparency), or as many as TIFF stacks "
        "have channels or pages.",
        above=0,
    )
    output_channels: int = setting(3, "Same, for domain B.", above=0)
    source: str = setting(
        "horse",
        "Name of domain A, for --from and --to. A dataset called cats2dogs names domains that are not named, and the "
        "domains name the folders of the run.",
    )
    target: str = setting("zebra", "Name of domain B.")
    cache_mb: int = setting(
        512,
        "Memory, in MB, for decoded training pictures: as many as fit are read only once. 0: none. On a GPU, pictures "
        "also stay in a tenth of its free memory.",
        at_least=0,
    )
    value_range: str = setting(
        "auto",
        "Values of 16-bit pictures that are black and white to the networks, as LOW,HIGH. auto: the bits that the set "
        "uses, such as 0,4095 for 12 bits.",
    )

    def __post_init__(self) -> None:
        if (self.domain_a is None) != (self.domain_b is None):
            raise UsageError("One domain is named and the other is not: name both, with --domain-a and --domain-b.")
        if self.pairs is not None and self.domain_a is not None:
            raise UsageError("The training pictures are named twice: omit --pairs, or --domain-a and --domain-b.")
        if self.source == self.target:
            raise UsageError(f"Both domains are called {self.source!r}: give them different names.")
        self.named_range()

    @property
    def domains(self) -> Mapping[Domain, Path | None]:
        """Training pictures that do not lie in the dataset's own folders."""
        return {"a": self.photos or self.domain_a, "b": self.domain_b}

    @property
    def test_sets(self) -> Mapping[Domain, Path | None]:
        """Test pictures, likewise."""
        return {"a": self.test_a, "b": self.test_b}

    @property
    def channels(self) -> Mapping[Domain, int]:
        """Channels of the pictures of each domain."""
        return {"a": self.input_channels, "b": self.output_channels}

    @property
    def masks(self) -> Mapping[Domain, Path | None]:
        """Where the masks of each domain are."""
        return {"a": self.masks_a, "b": self.masks_b}

    def names(self, direction: Direction) -> tuple[str, str]:
        """What the domains of a direction are called."""
        names = {"a": self.source, "b": self.target}
        return names[direction.source], names[direction.target]

    def named_range(self) -> tuple[int, int] | None:
        """The lowest and the highest value of 16-bit pictures, where the recipe names them.

        Raises:
            UsageError: it names something else.
        """
        if self.value_range == "auto":
            return None
        words = self.value_range.split(",")
        if len(words) == 2 and all(word.strip().isdecimal() for word in words):
            low, high = int(words[0]), int(words[1])
            if low < high <= 65535:
                return low, high
        raise UsageError(f"value_range takes auto, or two values from 0 to 65535 as 0,4095, not {self.value_range!r}.")
