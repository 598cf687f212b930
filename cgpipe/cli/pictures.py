"""Pictures in the terminal, above the bar: the protocols of kitty, iTerm and sixel, and half blocks elsewhere."""

from __future__ import annotations

import base64
import io
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cgpipe.cli.terminal import drain_standard_output

if TYPE_CHECKING:
    from PIL import Image

    from cgpipe.cli.bar import CountingBar
    from cgpipe.media.frames import Pixels

Protocol = Literal["kitty", "iterm", "sixel", "blocks"]

ROWS = 12
"""Lines of the terminal that a picture takes."""

CELL = 10, 20
"""Pixels of a character, where pictures are made of pixels."""

EVERY_SECONDS = 2.0
_KITTY_CHUNK = 4096


def protocol_of(environment: Mapping[str, str]) -> Protocol:
    """What the terminal takes, by the variables that it sets; inside tmux and screen, half blocks."""
    terminal, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "TMUX" in environment or terminal.startswith("screen"):
        return "blocks"
    if "KITTY_WINDOW_ID" in environment or terminal in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    if terminal.startswith(("foot", "mlterm", "contour")) or "sixel" in terminal:
        return "sixel"
    return "blocks"


class Preview:
    """Shows a picture with its translation now and then; nothing if standard output is not a terminal.

    Args:
        bar: stays the last line.
        wanted: whether anything is shown.
    """

    def __init__(self, bar: CountingBar, *, wanted: bool) -> None:
        self._bar = bar
        self._wanted = wanted and sys.stdout is not None and sys.stdout.isatty()
        self._next = 0.0

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal to show anything in."""
        return self._wanted

    def show(self, *pictures: Path | Pixels) -> None:
        """Shows pictures beside one another, unless some were shown just now; none if one cannot be read."""
        if not self._wanted or time.monotonic() < self._next:
            return
        with suppress(Exception):  # what cannot be shown is no reason to stop
            self._bar.clear()
            sys.stdout.write(drawn(_beside(pictures), protocol_of(os.environ)))
            drain_standard_output()
        self._next = time.monotonic() + EVERY_SECONDS


def _beside(pictures: Sequence[Path | Pixels]) -> Image.Image:
    """Pictures in one row, as high as the terminal shows them."""
    columns = os.get_terminal_size().columns if sys.stdout.isatty() else 80
    room = (columns - 1) * CELL[0] // len(pictures), ROWS * CELL[1]
    return in_a_row([_fitted(picture, room) for picture in pictures])


def _fitted(picture: Path | Pixels, room: tuple[int, int]) -> Image.Image:
    """A picture as large as there is room."""
    from PIL import Image, ImageOps

    if not isinstance(picture, Path):
        return ImageOps.contain(as_image(picture), room)
    with Image.open(picture) as file:
        file.draft("RGB", (2 * room[1], 2 * room[1]))
        return ImageOps.contain(ImageOps.exif_transpose(file).convert("RGB"), room)


def as_image(pixels: Pixels) -> Image.Image:
    """RGB pixels as Pillow has them, in 8 bits."""
    from PIL import Image

    from cgpipe.media.frames import in_8_bits

    return Image.fromarray(in_8_bits(pixels))


def in_a_row(shown: Sequence[Image.Image]) -> Image.Image:
    """Pictures from left to right."""
    from PIL import Image

    row = Image.new("RGB", (sum(picture.width for picture in shown), max(picture.height for picture in shown)))
    left = 0
    for picture in shown:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def drawn(picture: Image.Image, protocol: Protocol) -> str:
    """What a terminal shows as the picture; the cursor stands below it afterwards, whatever the terminal does."""
    rows = -(-picture.height // CELL[1])
    if protocol == "blocks":
        return "".join(f"{line}\x1b[0m\n" for line in _blocks(picture, rows))
    body = {"kitty": _kitty, "iterm": _iterm, "sixel": _sixel}[protocol](picture)
    return "\n" * rows + f"\x1b[{rows}A\x1b7{body}\x1b8\x1b[{rows}B\r"


def _png(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def _kitty(picture: Image.Image) -> str:
    """Its graphics protocol: a PNG in pieces."""
    data = _png(picture)
    pieces = [data[first : first + _KITTY_CHUNK] for first in range(0, len(data), _KITTY_CHUNK)]
    more = [int(index < len(pieces)) for index in range(1, len(pieces) + 1)]
    control = [f"a=T,f=100,q=2,m={more[0]}", *(f"m={last}" for last in more[1:])]
    return "".join(f"\x1b_G{keys};{piece}\x1b\\" for keys, piece in zip(control, pieces, strict=True))


def _iterm(picture: Image.Image) -> str:
    size = f"width={picture.width}px;height={picture.height}px"
    return f"\x1b]1337;File=inline=1;{size}:{_png(picture)}\x07"


def _sixel(picture: Image.Image) -> str:
    """Bands of six rows, each colour of a band in turn."""
    import numpy as np

    paletted = picture.quantize(64)
    palette = np.array((paletted.getpalette() or [])[: 3 * 64]).reshape(-1, 3)
    pixels = np.asarray(paletted)
    parts = [f"#{index};2;{r};{g};{b}" for index, (r, g, b) in enumerate(palette * 100 // 255)]
    for top in range(0, len(pixels), 6):
        band = pixels[top : top + 6]
        weights = 1 << np.arange(len(band))[:, None]
        for colour in np.unique(band):
            codes = ((band == colour) * weights).sum(axis=0) + 63
            parts.append(f"#{colour}{bytes(codes.astype(np.uint8)).decode()}$")
        parts.append("-")
    return f'\x1bP0;1q"1;1;{picture.width};{picture.height}{"".join(parts)}\x1b\\'


def _blocks(picture: Image.Image, rows: int) -> Iterator[str]:
    """Two pixels a character: the upper half in its own colour, the lower as background."""
    from PIL import Image

    small = picture.convert("RGB").resize((max(1, picture.width // CELL[0]), 2 * rows), Image.Resampling.BOX)
    data = small.tobytes()
    width = small.width
    for row in range(rows):
        cells = []
        for column in range(width):
            upper, lower = (3 * ((2 * row + half) * width + column) for half in (0, 1))
            (r, g, b), (s, h, c) = data[upper : upper + 3], data[lower : lower + 3]
            cells.append(f"\x1b[38;2;{r};{g};{b};48;2;{s};{h};{c}m▀")
        yield "".join(cells)
