"""Pictures in the terminal."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from cgpipe.cli.pictures import drawn, protocol_of

HALVES = Image.fromarray(np.repeat(np.array([[[250, 0, 0]], [[0, 0, 250]]], np.uint8), 20, axis=1).repeat(10, axis=0))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "xterm-kitty", "TMUX": "1"}, "blocks"),
    ],
)
def test_the_terminal_is_known_by_its_variables(environment: dict[str, str], expected: str) -> None:
    assert protocol_of(environment) == expected


def test_half_blocks_hold_two_pixels_each() -> None:
    assert drawn(HALVES, "blocks") == "\x1b[38;2;250;0;0;48;2;0;0;250m▀" * 2 + "\x1b[0m\n"


@pytest.mark.parametrize("protocol", ["kitty", "iterm"])
def test_kitty_and_iterm_get_the_picture_as_png(protocol: str) -> None:
    text = drawn(HALVES, protocol)  # type: ignore[arg-type]
    data = re.search(r"[;:]([A-Za-z0-9+/=]{40,})", text)
    assert data is not None and text.startswith("\n\x1b[1A\x1b7") and text.endswith("\x1b8\x1b[1B\r")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1])))), np.asarray(HALVES))


def test_sixels_hold_every_pixel_once() -> None:
    body = re.search(r'"1;1;20;20(.*)\x1b\\', drawn(HALVES, "sixel"), re.DOTALL)
    assert body is not None
    bits = sum(bin(ord(code) - 63).count("1") for run in re.findall(r"#\d+([?-~]{20})\$", body[1]) for code in run)
    assert bits == HALVES.width * HALVES.height
