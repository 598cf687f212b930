"""Two folders of unpaired pictures as a stream of training batches that can be taken up again anywhere.

Nothing here keeps a random state: what picture stands at which place of an epoch, and how it is cropped and flipped,
follows from the seed, the epoch and the place alone. A resumed run, with any number of workers, therefore sees exactly
what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cgpipe.media.images import read_picture
from cgpipe.training.config import TrainConfig


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
    """Pairs of unrelated crops, addressed by their :class:`Place`; each (3, crop height, crop width) in [-1, 1].

    A domain without pictures is left out.
    """

    def __init__(self, pictures_a: list[Path], pictures_b: list[Path], config: TrainConfig) -> None:
        self.pictures = {"a": pictures_a, "b": pictures_b}
        self.config = config
        self._at_epoch = lru_cache(maxsize=2)(config.at_epoch)
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def __getitem__(self, place: Place) -> dict[str, torch.Tensor]:
        domains = [domain for domain, pictures in self.pictures.items() if pictures]
        return {domain: to_network_range(self._crop(domain, place)) for domain in domains}

    def __reduce__(self) -> tuple[type[UnpairedPictures], tuple[list[Path], list[Path], TrainConfig]]:
        """What worker processes are given; the caches stay behind."""
        return UnpairedPictures, (self.pictures["a"], self.pictures["b"], self.config)

    def _crop(self, domain: str, place: Place) -> npt.NDArray[np.uint8]:
        order = self._order(domain, place.epoch, place.index // len(self.pictures[domain]))
        path = self.pictures[domain][order[place.index % len(order)]]
        random = np.random.default_rng((self.config.seed, ord(domain), place.epoch, place.index))
        return augment(load_rgb(path), self._at_epoch(place.epoch), random)

    def _shuffled(self, domain: str, epoch: int, round: int) -> npt.NDArray[np.intp]:
        random = np.random.default_rng((self.config.seed, ord(domain), epoch, round, 1))
        return random.permutation(len(self.pictures[domain]))


def augment(pixels: npt.NDArray[np.uint8], config: TrainConfig, random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Resizes to the load size (or a random size from ``load_min`` up), crops at random, flips half of the time."""
    height, width = config.load_height, config.load_width
    if config.load_min:
        height = int(random.integers(config.load_min, config.load_height, endpoint=True))
        width = max(config.crop_width, round(config.load_width * height / config.load_height))
    shrinks = height < pixels.shape[0]
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    top = int(random.integers(0, height - config.crop_height, endpoint=True))
    left = int(random.integers(0, width - config.crop_width, endpoint=True))
    crop = resized[top : top + config.crop_height, left : left + config.crop_width]
    return np.ascontiguousarray(crop[:, ::-1] if random.random() < 0.5 else crop)


class PlaceSampler(Sampler[list[Place]]):
    """The places of one epoch in batches, from a given step on."""

    def __init__(self, epoch: int, first_step: int, steps: int, batch_size: int) -> None:
        self.epoch, self.first_step, self.steps, self.batch_size = epoch, first_step, steps, batch_size

    def __iter__(self) -> Iterator[list[Place]]:
        for step in range(self.first_step, self.steps):
            start = step * self.batch_size
            yield [Place(self.epoch, index) for index in range(start, start + self.batch_size)]

    def __len__(self) -> int:
        return self.steps - self.first_step


def training_batches(
    dataset: UnpairedPictures, epoch: int, first_step: int, steps: int
) -> DataLoader[dict[str, torch.Tensor]]:
    """The rest of ``epoch`` from ``first_step`` on, prefetched; batches of ``a`` and ``b`` (N, 3, H, W) in [-1, 1]."""
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
