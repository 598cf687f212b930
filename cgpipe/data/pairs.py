"""Pairs of pictures: which picture of one domain shows the same as which of the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from cgpipe.data.pictures import Half, Place, path_of, pictures_at
from cgpipe.errors import DataError, MediaError

Key = Callable[[Path], str]


class Shaped(Protocol):
    """A picture as an array or a tensor, (height, width, channels)."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class Pairs(NamedTuple):
    """Pictures by number, and files that have no partner, with the reason."""

    a: list[Place]
    b: list[Place]
    alone: dict[Path, str]


def find_pairs(a: Place, b: Place) -> Pairs:
    """The pairs of two places.

    Halves of one set are pairs as they are. Lists are paired line by line. In folders, partners have the same path
    inside their folders: with the suffix, or without it, or also without a last ``_A`` or ``_B``.

    Raises:
        DataError: a place is missing or empty, two lists differ in length, or no picture has a partner.
    """
    first, second = pictures_at(a), pictures_at(b)
    if isinstance(a, Half) or isinstance(b, Half):
        return Pairs(first, second, {})
    if a.is_file() and b.is_file():
        if len(first) != len(second):
            raise DataError(
                f"{a} names {len(first)} pictures and {b} {len(second)}: the same line of both names a pair."
            )
        return Pairs(first, second, {})
    return _paired_by_name(a, b, [path_of(place) for place in first], [path_of(place) for place in second])


def _paired_by_name(a: Path, b: Path, first: Sequence[Path], second: Sequence[Path]) -> Pairs:
    partners: dict[Path, Path] = {}
    for key in KEYS:
        found = set(partners.values())
        left = _by_unique_name([path for path in first if path not in partners], a, key)
        right = _by_unique_name([path for path in second if path not in found], b, key)
        partners |= {left[name]: right[name] for name in left.keys() & right.keys()}
    if not partners:
        raise DataError(
            f"No picture of {a} has a partner of the same name in {b}: there are {first[0].name} and so on here, and "
            f"{second[0].name} there. Rename them, or name both sets as lists (.txt), in which the same line is a pair."
        )
    pairs = [(path, partners[path]) for path in first if path in partners]
    alone = {path: f"{path}: {b} has no picture of this name." for path in first if path not in partners}
    found = set(partners.values())
    alone |= {path: f"{path}: {a} has no picture of this name." for path in second if path not in found}
    return Pairs([path for path, _ in pairs], [path for _, path in pairs], alone)


def _by_unique_name(paths: Sequence[Path], folder: Path, key: Key) -> Mapping[str, Path]:
    """Paths by a name that only one of them has."""
    named: dict[str, list[Path]] = {}
    for path in paths:
        inside = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
        named.setdefault(key(inside), []).append(path)
    return {name: found[0] for name, found in named.items() if len(found) == 1}


def _without_suffix(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _without_side(path: Path) -> str:
    name = _without_suffix(path)
    return name[:-2] if name.lower().endswith(("_a", "_b")) else name


KEYS: Sequence[Key] = (Path.as_posix, _without_suffix, _without_side)
"""Names by which partners are found, the most exact first."""


def require_same_shape(files: Sequence[Place], pictures: Sequence[Shaped]) -> None:
    """Raises MediaError if a picture has other proportions than the first, by more than a pixel of rounding."""
    height, width = pictures[0].shape[:2]
    for file, pixels in zip(files, pictures, strict=False):
        if abs(pixels.shape[0] * width - pixels.shape[1] * height) > max(width, pixels.shape[1]):
            raise MediaError(
                f"{file} is {pixels.shape[1]}x{pixels.shape[0]} and its partner {files[0]} {width}x{height}: a pair "
                "has the same proportions."
            )
