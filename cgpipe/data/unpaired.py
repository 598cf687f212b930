"""Two folders of unpaired pictures as a stream of training batches that can be taken up again anywhere.

Nothing here keeps a random state: what picture stands at which place of an epoch, and how it is cropped and flipped,
follows from the seed, the epoch and the place alone. A resumed run, with any number of workers, therefore sees exactly
what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cgpipe.data.dataset import find_training_masks
from cgpipe.data.settings import DataSettings
from cgpipe.media.pictures.masks import fit, read_mask, with_mask
from cgpipe.media.pictures.read import read_picture
from cgpipe.parallel import share


@dataclass(frozen=True, slots=True)
class Place:
    """A sample's place in a run."""

    epoch: int
    index: int


def load_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """The picture as RGB uint8 (height, width, 3), upright; 16-bit pictures are reduced to 8."""
    pixels = read_picture(path).pixels
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels  # type: ignore[return-value]


def to_network_range(pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
    """RGB uint8 (..., height, width, 3) as float32 (..., 3, height, width) in [-1, 1]."""
    return torch.from_numpy(pixels).movedim(-1, -3).float().div_(127.5).sub_(1)


def epoch_length(pictures_a: int, pictures_b: int, batch_size: int) -> int:
    """Steps of an epoch: as many whole batches as the larger set fills, at least one."""
    return max(1, max(pictures_a, pictures_b) // batch_size)


class UnpairedPictures(Dataset[dict[str, torch.Tensor]]):
    """Pairs of unrelated pictures, addressed by their :class:`Place`; each (3, height, width) in [-1, 1].

    A domain without pictures is left out. One with masks comes with those of its pictures, cropped like them, as
    ``mask_a`` or ``mask_b`` (1, height, width) in [0, 1].

    Args:
        pictures_a, pictures_b: files of both domains.
        config: says what is done to them, and where their masks are.
        multiple: of which the sides of pictures that are not cropped shall be.

    Raises:
        DataError: a picture has no mask, where the recipe names masks.
        UsageError, MediaError: there is nothing where they should be, or the one for all cannot be read.
    """

    def __init__(
        self, pictures_a: list[Path], pictures_b: list[Path], config: DataSettings, *, multiple: int = 1
    ) -> None:
        self.pictures = {"a": pictures_a, "b": pictures_b}
        self.masks = {d: find_training_masks(config, d, pictures) for d, pictures in self.pictures.items()}
        self.config = config
        self.multiple = multiple
        self._at_epoch = lru_cache(maxsize=2)(config.at_epoch)
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def __getitem__(self, place: Place) -> dict[str, torch.Tensor]:
        sample = {}
        for domain in (domain for domain, pictures in self.pictures.items() if pictures):
            crop = self._crop(domain, place)
            sample[domain] = to_network_range(crop[..., :3])
            if self.masks[domain]:
                sample[f"mask_{domain}"] = torch.from_numpy(crop[..., 3:]).movedim(-1, -3).float().div_(255)
        return sample

    def __reduce__(self) -> tuple[Any, tuple[list[Path], list[Path], DataSettings]]:
        """What worker processes are given; the caches stay behind."""
        build = partial(UnpairedPictures, multiple=self.multiple)
        return build, (self.pictures["a"], self.pictures["b"], self.config)

    def _crop(self, domain: str, place: Place) -> npt.NDArray[np.uint8]:
        order = self._order(domain, place.epoch, place.index // len(self.pictures[domain]))
        number = order[place.index % len(order)]
        pixels: Any = load_rgb(self.pictures[domain][number])
        if self.masks[domain]:
            pixels = with_mask(pixels, fit(read_mask(self.masks[domain][number]), *pixels.shape[:2]))
        random = np.random.default_rng((self.config.seed, ord(domain), place.epoch, place.index))
        return augment(pixels, self._at_epoch(place.epoch), random, multiple=self.multiple)

    def _shuffled(self, domain: str, epoch: int, round: int) -> npt.NDArray[np.intp]:
        random = np.random.default_rng((self.config.seed, ord(domain), epoch, round, 1))
        return random.permutation(len(self.pictures[domain]))


def augment(
    pixels: npt.NDArray[np.uint8], config: DataSettings, random: np.random.Generator, *, multiple: int = 1
) -> npt.NDArray[np.uint8]:
    """Brings a picture (height, width, channels) to its size, crops it at random and mirrors it, as ``config`` says.

    Without a crop, the sides become the nearest multiples of ``multiple``.
    """
    height, width = _loaded_size(pixels.shape[0], pixels.shape[1], config, random)
    if not config.crops:
        height, width = (max(1, round(side / multiple)) * multiple for side in (height, width))
    if (height, width) != pixels.shape[:2]:
        shrinks = height < pixels.shape[0]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        pixels = cv2.resize(pixels, (width, height), interpolation=interpolation)  # type: ignore[assignment]
    if config.crops:
        top = int(random.integers(0, height - config.crop_height, endpoint=True))
        left = int(random.integers(0, width - config.crop_width, endpoint=True))
        pixels = pixels[top : top + config.crop_height, left : left + config.crop_width]
    mirrored = random.random() < 0.5 and config.flip
    return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)


def _loaded_size(height: int, width: int, config: DataSettings, random: np.random.Generator) -> tuple[int, int]:
    """Height and width to which a picture of this size is brought before the crop."""
    load_height = config.load_height
    if config.load_min:
        load_height = int(random.integers(config.load_min, config.load_height, endpoint=True))
    load_width = round(config.load_width * load_height / config.load_height)
    if config.preprocess == "resize_and_crop":
        return load_height, max(config.crop_width, load_width)
    scale = 1.0
    if config.preprocess.startswith("scale_width"):
        scale = load_width / width
    elif config.preprocess.startswith("scale_shortest"):
        scale = load_height / min(height, width)
    if config.crops:
        scale = max(scale, config.crop_height / height, config.crop_width / width)
    return round(height * scale), round(width * scale)


class PlaceSampler(Sampler[list[Place]]):
    """The places of one epoch in batches, from a given step on; of several processes, each gets its share."""

    def __init__(self, epoch: int, first_step: int, steps: int, batch_size: int) -> None:
        self.epoch, self.first_step, self.steps, self.batch_size = epoch, first_step, steps, batch_size

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.first_step, self.steps):
            start = step * self.batch_size
            yield [Place(self.epoch, index) for index in share(range(start, start + self.batch_size))]

    def __len__(self) -> int:
        return self.steps - self.first_step


def training_batches(
    dataset: UnpairedPictures, epoch: int, first_step: int, steps: int
) -> DataLoader[dict[str, torch.Tensor]]:
    """The rest of ``epoch`` from ``first_step`` on, prefetched; batches of ``a`` and ``b`` (N, 3, H, W) in [-1, 1].

    Where there are masks, of ``mask_a`` and ``mask_b`` too, (N, 1, H, W) in [0, 1].
    """
    config = dataset.config
    sampler = PlaceSampler(epoch, first_step, steps, config.at_epoch(epoch).batch_size)
    # A loader draws a seed for its workers, which need none, when it begins. Drawn from the run's random numbers, it
    # would make a run that is taken up in the midst of an epoch go on with other ones.
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )
