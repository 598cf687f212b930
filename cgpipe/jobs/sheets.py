"""Sheets: several pictures of one height as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageFont, UnidentifiedImageError

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.frames import Pixels, in_8_bits
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.formats import picture_format
from cgpipe.media.pictures.planes import read_view
from cgpipe.media.pictures.tags import Tags
from cgpipe.media.pictures.write import write_picture
from cgpipe.storage import PathLike, require_local

GAP = 8
"""Pixels of white around each picture."""
LINE = 22
"""Pixels for the name below it."""
SOFTWARE, MADE_BY = ExifTags.Base.Software, "cgpipe, a sheet"
"""The tag that tells a sheet from other pictures, and its value."""


def require_sheet(sheet: PathLike, *inputs: PathLike) -> None:
    """Raises UsageError where a sheet's name is not that of a picture of this machine, or is another picture's."""
    for path in (*inputs, sheet):
        require_local(path)
    if picture_format(sheet) is None:
        raise UsageError(f"{sheet} is not a valid name for a picture: use one such as sheet.png.")
    if Path(sheet).resolve() in {Path(path).resolve() for path in inputs}:
        raise UsageError(f"{sheet} is one of the input pictures: use another name.")
    if os.path.exists(sheet) and not _is_sheet(sheet):
        raise UsageError(f"{sheet} already exists and is not a sheet of cgpipe's: use another name, or remove it.")


def _is_sheet(path: PathLike) -> bool:
    try:
        with Image.open(path) as image:
            return image.getexif().get(SOFTWARE) == MADE_BY
    except (OSError, UnidentifiedImageError):
        return False


def write_sheet(sheet: PathLike, pixels: Pixels) -> None:
    """Writes a sheet, marked as one, so that the next may take its place.

    Raises:
        MediaError: it cannot be written.
    """
    exif = Image.Exif()
    exif[SOFTWARE] = MADE_BY
    size = (pixels.shape[0], pixels.shape[1])
    extras = PictureExtras(format=picture_format(sheet) or "PNG", size=size, tags=Tags(exif=exif.tobytes()))
    write_picture(Path(sheet), pixels, extras)


def read_photo(photo: Path, *, reduced_to: int | None = None) -> Pixels:
    """A picture in 8 bits; with ``reduced_to`` as by :func:`~cgpipe.media.pictures.planes.read_view`.

    Raises:
        UsageError: it does not exist.
        MediaError: it cannot be read; the message names it.
    """
    if not os.path.exists(photo):
        raise UsageError(f"{photo} does not exist: check the spelling.")
    try:
        return in_8_bits(read_view(photo, reduced_to=reduced_to).pixels)
    except MediaError as error:
        raise MediaError(f"{photo} cannot be read: {error}") from error


def at_height(pixels: Pixels, height: int) -> Pixels:
    """A picture of 8 bits at a height."""
    width = max(1, round(pixels.shape[1] * height / pixels.shape[0]))
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


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
