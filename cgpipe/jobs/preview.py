"""A sheet of one photo at several strengths, sizes and looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from cgpipe.errors import UsageError
from cgpipe.jobs.sheets import at_height, labelled_sheet, read_photo, require_sheet, write_sheet
from cgpipe.media.frames import Pixels
from cgpipe.models.choose import choose_model
from cgpipe.options import Look, ModelChoice, Size
from cgpipe.storage import PathLike

LONGEST = 2048
"""Long side in pixels to which a photo is reduced before it is translated."""

STRENGTHS: tuple[float, ...] = (0.5, 1.0, 1.5)
SIZES: tuple[Size, ...] = ("auto", 512)

OnCell = Callable[[str, int], None]


def preview(
    photo: PathLike,
    sheet: PathLike,
    *,
    choices: Sequence[ModelChoice] = (),
    strengths: Sequence[float] = STRENGTHS,
    sizes: Sequence[Size] = SIZES,
    height: int = 256,
    device: str = "auto",
    on_cell: OnCell | None = None,
) -> list[str]:
    """Writes a sheet: the photo, and below it a row for each look and size, with a column for each strength.

    Args:
        photo: the picture; its long side is first reduced to 2048 pixels.
        sheet: the picture to write; its suffix selects the format.
        choices: the models; without any, the default.
        strengths: blend strengths, 0 to 2.
        sizes: working sizes, as ``size`` of :class:`cgpipe.Look`.
        height: of each picture on the sheet, in pixels.
        device: device of the models.
        on_cell: called with the title of the next picture, and the number of pictures.

    Returns:
        The title of each picture, in order.

    Raises:
        UsageError: the sheet's suffix is not a picture format, or it is the photo itself, or a strength or size is
            invalid.
        MediaError: the photo cannot be read, or the sheet cannot be written.
        ModelError: a model cannot be found or read.
    """
    from cgpipe.engine.translator import Translator

    require_sheet(sheet, photo)
    if not strengths or not sizes:
        raise UsageError("Name at least one strength and one size.")
    looks = [Look(size=size, strength=strength) for size, strength in product(sizes, strengths)]
    chosen = [choose_model(choice) for choice in choices or [ModelChoice()]]
    pixels = _read(Path(photo))
    cells = [(Path(photo).name, at_height(pixels, height))]
    for one in chosen:
        model = one.load()
        for look in looks:
            title = f"{one.domain}, size {look.size}, strength {look.strength:g}"
            if on_cell:
                on_cell(title, len(chosen) * len(looks))
            made = Translator(model, device=device, size=look.size, strength=look.strength)(pixels)
            cells.append((title, at_height(made, height)))
    blank = np.full_like(cells[0][1], 255)
    first = [cells[0], *[("", blank)] * (len(strengths) - 1)]  # a row of its own
    write_sheet(sheet, labelled_sheet([*first, *cells[1:]], len(strengths)))
    return [title for title, _ in cells[1:]]


def _read(photo: Path) -> Pixels:
    """The photo in 8 bits, reduced if it is very large."""
    pixels = read_photo(photo)
    longest = max(pixels.shape[:2])
    return pixels if longest <= LONGEST else at_height(pixels, round(pixels.shape[0] * LONGEST / longest))
