"""A sheet of one picture in all available looks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cgpipe.errors import CgpipeError, CgpipeWarning, MediaError, UsageError
from cgpipe.media.frames import Pixels
from cgpipe.media.pictures.formats import picture_format
from cgpipe.media.pictures.read import read_picture
from cgpipe.media.pictures.write import write_picture
from cgpipe.models.card import GENERIC
from cgpipe.models.choose import Chosen
from cgpipe.models.zoo import Entry, Found, list_models
from cgpipe.options import ModelChoice
from cgpipe.storage import PathLike, require_local

if TYPE_CHECKING:
    pass

GAP = 8
"""White pixels around each picture."""
LINE = 22
"""Pixels for the name below each picture."""
OnLook = Callable[[str, int], None]


def looks_sheet(
    photo: PathLike,
    sheet: PathLike,
    *,
    height: int = 256,
    columns: int | None = None,
    device: str = "auto",
    on_look: OnLook | None = None,
) -> list[str]:
    """Writes a sheet with a photo and its translation by every model for any photo, each with its name.

    A look whose model cannot be used, for example for lack of an extra, is omitted with a warning.

    Args:
        photo: the picture.
        sheet: the picture to write; its suffix selects the format.
        height: of each picture, in pixels.
        columns: pictures per row; None: as many as make the sheet about square.
        device: device of the models.
        on_look: called with the name of each look before it is made, and the number of looks.

    Returns:
        The names of the looks on the sheet.

    Raises:
        UsageError: the sheet's suffix is not a picture format, or it is the photo itself.
        MediaError: the photo cannot be read, or the sheet cannot be written.
    """
    for path in (photo, sheet):
        require_local(path)
    if picture_format(sheet) is None:
        raise UsageError(f"{sheet} is not a picture's name: use one such as sheet.jpg.")
    if Path(sheet).resolve() == Path(photo).resolve():
        raise UsageError(f"{sheet} is the photo itself: choose another name.")
    frame = _reduced(Path(photo), height)
    looks = _looks()
    cells = [(Path(photo).name, frame)]
    for entry in looks:
        if on_look:
            on_look(_title(entry), len(looks))
        try:
            cells.append((_title(entry), _translated(entry, frame, device)))
        except CgpipeError as error:
            warnings.warn(f"{_title(entry)} is left out: {error}", CgpipeWarning, stacklevel=2)
    write_picture(Path(sheet), labelled_sheet(cells, columns or _square(len(cells), frame)))
    return [name for name, _ in cells[1:]]


def _looks() -> list[Entry]:
    """The models that take any photo, each pair once."""
    fitting = [entry for entry in list_models() if entry.card and entry.card.finished and not entry.shadowed]
    return [entry for entry in fitting if entry.card and entry.card.source == GENERIC]


def _title(entry: Entry) -> str:
    """What ``--to`` takes; where several models give that, the model's own name."""
    assert entry.card is not None
    return entry.card.target if entry.name in (entry.card.target, entry.card.name) else entry.name


def _reduced(photo: Path, height: int) -> Pixels:
    try:
        frame = read_picture(photo, reduced_to=height)
    except MediaError as error:
        raise MediaError(f"{photo} cannot be read: {error}") from error
    pixels = frame.pixels
    eight = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    width = max(1, round(eight.shape[1] * height / eight.shape[0]))
    return np.array(Image.fromarray(eight).resize((width, height), Image.Resampling.LANCZOS))


def _translated(entry: Entry, pixels: Pixels, device: str) -> Pixels:
    from cgpipe.engine.translator import Translator

    translator = Translator(Chosen(ModelChoice(), Found(entry=entry)).load(), device=device)
    return translator(pixels)


def _square(count: int, pixels: Pixels) -> int:
    """Columns that make a sheet of so many pictures about as wide as high."""
    height, width = pixels.shape[:2]
    return max(1, min(count, round(math.sqrt(count * (height + LINE) / (width + GAP)))))


def labelled_sheet(cells: Sequence[tuple[str, Pixels]], columns: int) -> Pixels:
    """Pictures of one size in rows on white, each with its name below."""
    height, width = cells[0][1].shape[:2]
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    down, right = height + GAP + LINE, width + GAP
    sheet = Image.new("RGB", (columns * right + GAP, rows * down + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, (name, pixels) in enumerate(cells):
        left, top = GAP + index % columns * right, GAP + index // columns * down
        sheet.paste(Image.fromarray(pixels), (left, top))
        draw.text((left, top + height + 3), _fitting(name, width, font), fill="black", font=font)
    return np.array(sheet)


def _fitting(name: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A name, cut off where it would be wider than its picture."""
    shown = name
    while shown and font.getlength(shown) > width:
        shown = shown[:-1]
    return shown
