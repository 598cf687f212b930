"""The pictures of a dataset: below a folder, or named by a list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cgpipe.errors import DataError, DataNotFoundError
from cgpipe.media.pictures.formats import PICTURE_SUFFIXES, picture_format
from cgpipe.storage import PAGE_MARK


@dataclass(frozen=True, slots=True, order=True)
class Half:
    """The left or the right half of a picture, or of each picture of a folder or list: two are stored side by side."""

    path: Path
    right: bool = False

    def __str__(self) -> str:
        return f"{self.path} ({'right' if self.right else 'left'} half)"


Place = Path | Half
"""Where a picture or a set of pictures is."""


def path_of(place: Place) -> Path:
    """The file, folder or list of a place."""
    return place.path if isinstance(place, Half) else place


def pictures_at(place: Place) -> list[Place]:
    """The pictures of a place, as :func:`find_pictures` finds them; of halves, that half of each."""
    found = find_pictures(path_of(place))
    return [Half(path, place.right) for path in found] if isinstance(place, Half) else [*found]


def find_pictures(place: Path) -> list[Path]:
    """All pictures below a folder, hidden ones aside, sorted; or those that a list names, in its order.

    Links are followed, and a loop of links ends where it closes. A list is a text file with the suffix ``.txt`` and one
    path a line, relative to the list's own folder; empty lines count for nothing.

    Raises:
        DataError: the folder or the list is missing or names no picture, or a line of it names none that is there.
    """
    if place.is_file() and place.suffix.lower() == ".txt":
        return _listed(place)
    if not place.is_dir():
        kind = "list" if place.suffix.lower() == ".txt" else "folder"
        raise DataNotFoundError(
            f"There is no {kind} {place}. A dataset has trainA and trainB, optionally testA and testB. In "
            "training, --domain-a and --domain-b, --test-a and --test-b name other folders or lists (.txt) of pictures."
        )
    found = sorted(_below(place))
    if not found:
        raise DataError(f"{place} holds no pictures ({', '.join(PICTURE_SUFFIXES)}).")
    return found


def _below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above or (folder / PAGE_MARK).exists():
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _below(path, (*above, real))
        elif picture_format(path) and not path.name.startswith("."):
            yield path


def _listed(file: Path) -> list[Path]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as a list of pictures: {error}.") from error
    found = {number: file.parent / line.strip() for number, line in enumerate(lines, 1) if line.strip()}
    if not found:
        raise DataError(f"{file} is empty: a list has one path per line.")
    for number, path in found.items():
        if not path.is_file():
            raise DataNotFoundError(f"{file}, line {number}: there is no file {path}.")
        if not picture_format(path):
            raise DataError(f"{file}, line {number}: {path} is not a picture ({', '.join(PICTURE_SUFFIXES)}).")
    return list(found.values())
