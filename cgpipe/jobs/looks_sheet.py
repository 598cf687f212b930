"""A sheet of one picture in all available looks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

from cgpipe.errors import CgpipeError, CgpipeWarning
from cgpipe.jobs.sheets import GAP, LINE, at_height, labelled_sheet, read_photo, require_sheet, write_sheet
from cgpipe.media.frames import Pixels
from cgpipe.models.card import GENERIC
from cgpipe.models.choose import Chosen
from cgpipe.models.zoo import Entry, Found, list_models
from cgpipe.options import ModelChoice
from cgpipe.storage import PathLike

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
    require_sheet(sheet, photo)
    frame = at_height(read_photo(Path(photo), reduced_to=height), height)
    looks = _looks()
    cells = [(Path(photo).name, frame)]
    for entry in looks:
        if on_look:
            on_look(_title(entry), len(looks))
        try:
            cells.append((_title(entry), _translated(entry, frame, device)))
        except CgpipeError as error:
            warnings.warn(f"{_title(entry)} is left out: {error}", CgpipeWarning, stacklevel=2)
    write_sheet(sheet, labelled_sheet(cells, columns or _square(len(cells), frame)))
    return [name for name, _ in cells[1:]]


def _looks() -> list[Entry]:
    """The models that take any photo, each pair once."""
    fitting = [entry for entry in list_models() if entry.card and entry.card.finished and not entry.shadowed]
    return [entry for entry in fitting if entry.card and entry.card.source == GENERIC]


def _title(entry: Entry) -> str:
    """What ``--to`` takes; where several models give that, the model's own name."""
    assert entry.card is not None
    return entry.card.target if entry.name in (entry.card.target, entry.card.name) else entry.name


def _translated(entry: Entry, pixels: Pixels, device: str) -> Pixels:
    from cgpipe.engine.translator import Translator

    translator = Translator(Chosen(ModelChoice(), Found(entry=entry)).load(), device=device)
    return translator(pixels)


def _square(count: int, pixels: Pixels) -> int:
    """Columns that make a sheet of so many pictures about as wide as high."""
    height, width = pixels.shape[:2]
    return max(1, min(count, round(math.sqrt(count * (height + LINE) / (width + GAP)))))
