"""Two folders of unpaired pictures as a stream of training batches that can be taken up again anywhere.

Nothing here keeps a random state: what picture stands at which place of an epoch, and how it is cropped and flipped,
follows from the seed, the epoch and the place alone. A resumed run, with any number of workers, therefore sees exactly
what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from cgpipe.data.direction import DOMAINS, Domain
from cgpipe.data.loading import Pixels, ValueRange, augment, load_pixels, to_network_range
from cgpipe.data.settings import PictureSettings
from cgpipe.errors import DataError, MediaError
from cgpipe.media.pictures.masks import fit, read_mask
from cgpipe.parallel import share

Pictures = dict[str, torch.Tensor]
"""A batch: ``a`` and ``b`` (N, 3, H, W) in [-1, 1]; ``mask_a`` and ``mask_b`` (N, 1, H, W) in [0, 1], where given."""


def pictures_in_epoch(pictures_a: int, pictures_b: int, batch_size: int) -> int:
    """Pictures of each domain that an epoch shows: as many whole batches as the larger set fills, at least one."""
    return max(1, max(pictures_a, pictures_b) // batch_size) * batch_size


class UnpairedPictures:
    """The training pictures of both domains; one of them may be empty, and is then left out of the batches.

    Args:
        pictures_a, pictures_b: files.
        masks: by domain, the mask of each picture; domains without masks are left out.
        ranges: by domain, the values of 16-bit pictures that are black and white.
        seed: decides the order, the crops and the flips.
        multiple: of which the sides of pictures that are not cropped shall be.

    Attributes:
        unreadable: pictures that were left out so far, with the reason; another one took the place of each.
    """

    def __init__(
        self,
        pictures_a: Sequence[Path],
        pictures_b: Sequence[Path],
        *,
        masks: Mapping[Domain, Sequence[Path]] | None = None,
        ranges: Mapping[Domain, ValueRange] | None = None,
        seed: int = 0,
        multiple: int = 1,
    ) -> None:
        self.files: dict[Domain, Sequence[Path]] = {"a": pictures_a, "b": pictures_b}
        self.masks: Mapping[Domain, Sequence[Path]] = masks or {}
        self.ranges: Mapping[Domain, ValueRange] = ranges or {}
        self.seed, self.multiple = seed, multiple
        self.unreadable: dict[Path, str] = {}

    @property
    def counts(self) -> dict[Domain, int]:
        """Pictures of each domain."""
        return {domain: len(files) for domain, files in self.files.items()}

    def length(self, batch_size: int) -> int:
        """:func:`pictures_in_epoch` of these sets."""
        return pictures_in_epoch(len(self.files["a"]), len(self.files["b"]), batch_size)

    def load(self, domain: Domain, number: int) -> Pixels:
        """A picture, (height, width, 3); with its mask as a fourth channel, where there are masks.

        Raises:
            MediaError: the picture or its mask cannot be read; the message names it.
        """
        pixels = load_pixels(self.files[domain][number], self.ranges.get(domain))
        if domain not in self.masks:
            return pixels
        mask = fit(read_mask(self.masks[domain][number]), *pixels.shape[:2])
        return np.concatenate([pixels, mask[..., None].astype(pixels.dtype)], axis=2)


class _Sample(NamedTuple):
    """One picture of each domain, as in :data:`Pictures` without the first dimension; what was unreadable on the way.

    Where nothing of a domain can be read, ``pictures`` is empty.
    """

    pictures: Pictures
    unreadable: dict[Path, str]


class Epoch(Dataset[_Sample]):
    """The pictures of one epoch, by their place in it."""

    def __init__(self, sets: UnpairedPictures, number: int, settings: PictureSettings) -> None:
        self.sets, self.number, self.settings = sets, number, settings
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def __getitem__(self, place: int) -> _Sample:
        pictures: Pictures = {}
        unreadable: dict[Path, str] = {}
        for domain in (domain for domain in DOMAINS if self.sets.files[domain]):
            crop = self._crop(domain, place, unreadable)
            if crop is None:
                return _Sample({}, unreadable)
            pictures[domain] = to_network_range(crop[..., :3])
            if domain in self.sets.masks:
                pictures[f"mask_{domain}"] = torch.from_numpy(crop[..., 3:]).movedim(-1, -3).float().div_(255)
        return _Sample(pictures, unreadable)

    def __reduce__(self) -> tuple[type[Epoch], tuple[UnpairedPictures, int, PictureSettings]]:
        """What worker processes are given; the order stays behind."""
        return Epoch, (self.sets, self.number, self.settings)

    def _crop(self, domain: Domain, place: int, unreadable: dict[Path, str]) -> Pixels | None:
        """The picture at a place or, where that cannot be read, the next one that can."""
        order = self._order(domain, place // len(self.sets.files[domain]))
        for offset in range(len(order)):
            number = int(order[(place + offset) % len(order)])
            try:
                pixels = self.sets.load(domain, number)
            except MediaError as error:
                unreadable[self.sets.files[domain][number]] = str(error)
                continue
            random = np.random.default_rng((self.sets.seed, ord(domain), self.number, place))
            return augment(pixels, self.settings, random, multiple=self.sets.multiple)
        return None

    def _shuffled(self, domain: Domain, round: int) -> npt.NDArray[np.intp]:
        random = np.random.default_rng((self.sets.seed, ord(domain), self.number, round, 1))
        return random.permutation(len(self.sets.files[domain]))


class _Places(Sampler[list[int]]):
    """The places of one epoch in whole batches, from a given one on; of several processes, each gets its share."""

    def __init__(self, first: int, end: int, batch_size: int) -> None:
        self.starts, self.batch_size = range(first, end - batch_size + 1, batch_size), batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for start in self.starts:
            yield list(share(range(start, start + self.batch_size)))

    def __len__(self) -> int:
        return len(self.starts)


def training_batches(
    sets: UnpairedPictures, settings: PictureSettings, *, epoch: int, first: int = 0, workers: int = 0
) -> Iterator[Pictures]:
    """The rest of an epoch in whole batches, prefetched by ``workers`` processes.

    Args:
        sets: the pictures; those that cannot be read are noted there, and others take their place.
        settings: those of this epoch.
        epoch: which one, counted from 0.
        first: pictures of it that were shown already.
        workers: processes that load pictures; 0: this one does.

    Raises:
        DataError: no picture of a domain can be read.
    """
    # A loader draws a seed for its workers, which need none, when it begins. Drawn from the run's random numbers, it
    # would make a run that is resumed within an epoch go on with other ones.
    loader = DataLoader(
        Epoch(sets, epoch, settings),
        batch_sampler=_Places(first, sets.length(settings.batch_size), settings.batch_size),
        num_workers=workers,
        collate_fn=_batch_of,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )
    for batch in loader:
        sets.unreadable |= batch.unreadable
        if not batch.pictures:
            raise DataError(f"No picture of a domain can be read: {next(reversed(batch.unreadable.values()))}")
        yield batch.pictures


def _batch_of(samples: list[_Sample]) -> _Sample:
    unreadable = {path: reason for sample in samples for path, reason in sample.unreadable.items()}
    whole = all(sample.pictures for sample in samples)
    return _Sample(default_collate([sample.pictures for sample in samples]) if whole else {}, unreadable)
