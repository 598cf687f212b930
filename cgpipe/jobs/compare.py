"""Originals and translations side by side on one sheet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cgpipe.errors import UsageError
from cgpipe.jobs.sheets import GAP, at_height, read_photo, require_sheet, write_sheet
from cgpipe.media.frames import Pixels
from cgpipe.media.pictures.formats import picture_format
from cgpipe.storage import PAGE_MARK, PathLike, is_own, require_local


def compare(
    original: PathLike, translated: PathLike, sheet: PathLike, *, count: int = 12, columns: int = 3, height: int = 256
) -> list[Path]:
    """Writes a sheet of pairs, each with the original on the left and its translation on the right.

    Args:
        original, translated: two pictures, or two folders in which pairs have the same relative path, apart from the
            suffix.
        sheet: the picture to write; its suffix selects the format.
        count: most pairs on the sheet, spread evenly over all.
        columns: pairs per row.
        height: of each picture, in pixels.

    Returns:
        The originals on the sheet.

    Raises:
        UsageError: an input is missing, there are no pairs, or the sheet's suffix is not a picture format.
        MediaError: a picture cannot be read, or the sheet cannot be written.
    """
    for path in (original, translated):
        require_local(path)
    pairs = list(_pairs(Path(original), Path(translated)))
    if not pairs:
        raise UsageError(f"No picture in {original} has a translation of the same name in {translated}.")
    require_sheet(sheet, *(path for pair in pairs for path in pair))
    chosen = [pairs[index * len(pairs) // count] for index in range(count)] if len(pairs) > count else pairs
    cells = [_side_by_side(*(at_height(read_photo(path), height) for path in pair)) for pair in chosen]
    write_sheet(sheet, _grid(cells, columns))
    return [one for one, _ in chosen]


def _pairs(original: Path, translated: Path) -> Iterator[tuple[Path, Path]]:
    for path in (original, translated):
        if not path.exists():
            raise UsageError(f"{path} does not exist: check the spelling.")
    if original.is_dir() != translated.is_dir():
        raise UsageError("Give two pictures, or two folders.")
    if original.is_file():
        yield original, translated
        return
    made: dict[Path, Path] = {}
    for path in _pictures(translated):
        place = path.relative_to(translated)
        made |= {place: path, place.with_suffix(""): path}
    for path in _pictures(original):
        place = path.relative_to(original)
        other = made.get(place) or made.get(place.with_suffix(""))
        if other is not None and other != path:
            yield path, other


def _pictures(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if picture_format(path) and not is_own(path.name) and path.is_file())
    return sorted(path for path in found if not (path.parent / PAGE_MARK).exists())


def _side_by_side(*pictures: Pixels) -> Pixels:
    return np.hstack(pictures).astype(np.uint8, copy=False)


def _grid(cells: Sequence[Pixels], columns: int) -> Pixels:
    """Cells of one height in rows, on white."""
    width, height = max(cell.shape[1] for cell in cells), cells[0].shape[0]
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for index, cell in enumerate(cells):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + cell.shape[1]] = cell
    return sheet
