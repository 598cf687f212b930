"""Two sets of pictures, paired or not, as a stream of training batches that can be taken up again anywhere.

Nothing here keeps a random state: what picture stands at which place of an epoch, and how it is cropped and flipped,
follows from the seed, the epoch and the place alone. A resumed run, with any number of workers, therefore sees exactly
what it would have seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from cgpipe.data.cache import PictureCache
from cgpipe.data.direction import DOMAINS, Domain
from cgpipe.data.loading import Pixels, ValueRange, augment_alike, load_pixels, naming, recolour, to_network_range
from cgpipe.data.pairs import require_same_shape
from cgpipe.data.pictures import Place, path_of
from cgpipe.data.settings import PictureSettings
from cgpipe.errors import DataError, MediaError
from cgpipe.media.pictures.masks import fit, read_mask
from cgpipe.parallel import share

Pictures = dict[str, torch.Tensor]
"""A batch: ``a`` and ``b`` (N, C, H, W) in [-1, 1]; ``mask_a`` and ``mask_b`` (N, 1, H, W) in [0, 1], where given."""


AHEAD = 24
"""Places of an epoch of which a loader is told before they are needed, whole batches of them and two at least."""


def pictures_in_epoch(pictures_a: int, pictures_b: int, batch_size: int) -> int:
    """Pictures of each domain that an epoch shows: as many whole batches as the larger set fills, at least one."""
    return max(1, max(pictures_a, pictures_b) // batch_size) * batch_size


class TrainingPictures:
    """The training pictures of both domains; one of them may be empty, and is then left out of the batches.

    Args:
        pictures_a, pictures_b: files, or halves of them.
        masks: by domain, the mask of each picture; domains without masks are left out.
        ranges: by domain, the values of 16-bit pictures that are black and white.
        channels: by domain, the channels of its pictures, if not 3.
        seed: decides the order, the crops and the flips.
        multiple, least: of which the sides of pictures that are not cropped shall be, and their smallest.
        cache: bytes of memory for decoded pictures, which are then read once.
        paired: pictures with the same number show the same: they are drawn, cropped and flipped together.
        recolour: fraction of the pictures with masks that are recoloured inside the mask.

    Attributes:
        unreadable: pictures that were left out so far, with the reason; another one took the place of each.
    """

    def __init__(
        self,
        pictures_a: Sequence[Place],
        pictures_b: Sequence[Place],
        *,
        masks: Mapping[Domain, Sequence[Path]] | None = None,
        ranges: Mapping[Domain, ValueRange] | None = None,
        channels: Mapping[Domain, int] | None = None,
        seed: int = 0,
        multiple: int = 1,
        least: int = 1,
        cache: int = 0,
        paired: bool = False,
        recolour: float = 0.0,
    ) -> None:
        self.files: dict[Domain, Sequence[Place]] = {"a": pictures_a, "b": pictures_b}
        self.masks: Mapping[Domain, Sequence[Path]] = masks or {}
        self.ranges: Mapping[Domain, ValueRange] = ranges or {}
        self.channels: Mapping[Domain, int] = {"a": 3, "b": 3, **(channels or {})}
        self.seed, self.paired, self.recolour = seed, paired, recolour
        self.multiple, self.least = multiple, least
        self.unreadable: dict[Path, str] = {}
        self._first = {"a": 0, "b": len(pictures_a)}
        self._cache = PictureCache(len(pictures_a) + len(pictures_b), cache)

    @property
    def groups(self) -> list[tuple[Domain, ...]]:
        """The domains that are drawn together; one without pictures is in none."""
        return [DOMAINS] if self.paired else [(domain,) for domain in DOMAINS if self.files[domain]]

    @property
    def counts(self) -> dict[Domain, int]:
        """Pictures of each domain."""
        return {domain: len(files) for domain, files in self.files.items()}

    def length(self, batch_size: int) -> int:
        """:func:`pictures_in_epoch` of these sets."""
        return pictures_in_epoch(len(self.files["a"]), len(self.files["b"]), batch_size)

    def load(self, domain: Domain, number: int) -> Pixels:
        """A picture, (height, width, channels); with its mask as a further channel, where there are masks.

        Raises:
            MediaError: the picture or its mask cannot be read; the message names it.
        """
        key = self._first[domain] + number
        kept = self._cache.get(key)
        if kept is None:
            kept = self._read(domain, number)
            self._cache.put(key, kept)
        return kept

    def _read(self, domain: Domain, number: int) -> Pixels:
        pixels = load_pixels(self.files[domain][number], self.ranges.get(domain), self.channels[domain])
        if domain not in self.masks:
            return pixels
        with naming(self.files[domain][number]):
            mask = fit(read_mask(self.masks[domain][number]), *pixels.shape[:2])
        return np.concatenate([pixels, mask[..., None].astype(pixels.dtype)], axis=2)


class _Sample(NamedTuple):
    """One picture of each domain, as in :data:`Pictures` without the first dimension; what was unreadable on the way.

    Where nothing of a domain can be read, ``pictures`` is empty.
    """

    pictures: Pictures
    unreadable: dict[Path, str]


class Loader(Protocol):
    """Loads pictures of a set to a device, (height, width, channels)."""

    def expect(self, domain: Domain, number: int) -> None:
        """Tells of a picture that will be asked for."""

    def load(self, domain: Domain, number: int) -> torch.Tensor:
        """A picture, not to be changed; MediaError if it cannot be read."""


class Epoch(Dataset[_Sample]):
    """The pictures of one epoch, by their place in it, on the CPU or where ``loader`` loads them to."""

    def __init__(
        self, sets: TrainingPictures, number: int, settings: PictureSettings, loader: Loader | None = None
    ) -> None:
        self.sets, self.number, self.settings = sets, number, settings
        self._loader = loader
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def __getitem__(self, place: int) -> _Sample:
        pictures: Pictures = {}
        unreadable: dict[Path, str] = {}
        for group in self.sets.groups:
            crops = self._crops(group, place, unreadable)
            if not crops:
                return _Sample({}, unreadable)
            for domain, crop in zip(group, crops, strict=True):
                channels = self.sets.channels[domain]
                pictures[domain] = to_network_range(crop[..., :channels])
                if domain in self.sets.masks:
                    pictures[f"mask_{domain}"] = crop[..., channels:].movedim(-1, -3).float().div(255)
        return _Sample(pictures, unreadable)

    def __reduce__(self) -> tuple[type[Epoch], tuple[TrainingPictures, int, PictureSettings]]:
        """What worker processes are given; the order stays behind."""
        return Epoch, (self.sets, self.number, self.settings)

    def expect(self, place: int) -> None:
        """Tells the loader of the pictures at a place."""
        assert self._loader is not None
        for group in self.sets.groups:
            for domain in group:
                self._loader.expect(domain, next(self._numbers(group[0], place)))

    def _numbers(self, domain: Domain, place: int) -> Iterator[int]:
        """The number of the picture at a place, then those of its stand-ins."""
        order = self._order(domain, place // len(self.sets.files[domain]))
        return (int(order[(place + offset) % len(order)]) for offset in range(len(order)))

    def _crops(self, group: tuple[Domain, ...], place: int, unreadable: dict[Path, str]) -> list[torch.Tensor]:
        """A picture of each domain at a place or, where one cannot be read, the next that can; none if none can."""
        first = group[0]
        for number in self._numbers(first, place):
            pictures = self._load(group, number, unreadable)
            if pictures:
                random = np.random.default_rng((self.sets.seed, ord(first), self.number, place))
                sides = {"multiple": self.sets.multiple, "least": self.sets.least}
                crops = augment_alike(pictures, self.settings, random, **sides)
                return [self._recoloured(domain, crop, random) for domain, crop in zip(group, crops, strict=True)]
        return []

    def _recoloured(self, domain: Domain, crop: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        """A crop, and now and then another colour for what its mask shows."""
        if domain not in self.sets.masks or random.random() >= self.sets.recolour:
            return crop
        channels = self.sets.channels[domain]
        mask = crop[..., channels:]
        return torch.cat([recolour(crop[..., :channels], mask, random), mask], dim=2)

    def _load(self, group: tuple[Domain, ...], number: int, unreadable: dict[Path, str]) -> list[torch.Tensor]:
        """The pictures of this number; none, with the reason in ``unreadable``, where they cannot be used."""
        files = [self.sets.files[domain][number] for domain in group]
        pictures: list[torch.Tensor] = []
        for domain, file in zip(group, files, strict=True):
            try:
                pictures.append(self._picture(domain, number))
                require_same_shape(files, pictures)
            except MediaError as error:
                unreadable[path_of(file)] = str(error)
                return []
        return pictures

    def _picture(self, domain: Domain, number: int) -> torch.Tensor:
        return self._loader.load(domain, number) if self._loader else torch.from_numpy(self.sets.load(domain, number))

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
    sets: TrainingPictures,
    settings: PictureSettings,
    *,
    epoch: int,
    first: int = 0,
    end: int | None = None,
    workers: int = 0,
    loader: Loader | None = None,
) -> Iterator[Pictures]:
    """The rest of an epoch, or a part of it, in whole batches, prefetched by ``workers`` processes or by a loader.

    Args:
        sets: the pictures; those that cannot be read are noted there, and others take their place.
        settings: those of this epoch.
        epoch: which one, counted from 0.
        first: pictures of it that were shown already.
        end: place of the picture before which to stop, if not at the epoch's end.
        workers: processes that load pictures; 0: this one does.
        loader: loads pictures instead of workers.

    Raises:
        DataError: no picture of a domain can be read.
    """
    pictures = Epoch(sets, epoch, settings, loader)
    length = sets.length(settings.batch_size)
    places = _Places(first, length if end is None else end, settings.batch_size)
    for batch in _expecting(pictures, places) if loader else _in_workers(pictures, places, workers):
        sets.unreadable |= batch.unreadable
        if not batch.pictures:
            raise DataError(f"No picture of a domain can be read: {next(reversed(batch.unreadable.values()))}")
        yield batch.pictures


def _expecting(pictures: Epoch, places: _Places) -> Iterator[_Sample]:
    """Batches of pictures that the loader has been told of some batches before."""
    coming = deque(places)
    expected: deque[list[int]] = deque()
    while coming or expected:
        while coming and len(expected) < max(2, AHEAD // places.batch_size):
            expected.append(coming.popleft())
            for place in expected[-1]:
                pictures.expect(place)
        yield _batch_of([pictures[place] for place in expected.popleft()])


def _in_workers(pictures: Epoch, places: _Places, workers: int) -> Iterator[_Sample]:
    # A loader draws a seed for its workers, which need none, when it begins. Drawn from the run's random numbers, it
    # would make a run that is resumed within an epoch go on with other ones.
    yield from DataLoader(
        pictures,
        batch_sampler=places,
        num_workers=workers,
        collate_fn=_batch_of,
        generator=torch.Generator(),
    )


def _batch_of(samples: list[_Sample]) -> _Sample:
    unreadable = {path: reason for sample in samples for path, reason in sample.unreadable.items()}
    whole = all(sample.pictures for sample in samples)
    return _Sample(default_collate([sample.pictures for sample in samples]) if whole else {}, unreadable)
