"""Pictures in the terminal, and in a window."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from PIL import Image
from shell import invoke, run_python

import cgpipe
from cgpipe.cli.pictures import drawn, protocol_of
from cgpipe.cli.window import NoWindowError, Window

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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_frames_of_a_video_are_shown_beside_their_translations(
    tmp_path: Path, file_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=3, size=(40, 40))
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    from cgpipe.cli.video import command

    options = ["--model", str(file_model(tmp_path / "m")), "--device", "cpu", "--preview"]
    command.main([str(clip), str(tmp_path / "out.mp4"), *options], standalone_mode=False)
    rows = [line for line in terminal.getvalue().splitlines() if "▀" in line]
    assert len(rows) == 12 and {row.count("▀") for row in rows} == {48}  # one pair: the next is due after seconds
    assert len(re.findall(r"38;2;\d+;\d+;\d+", rows[5])) == 48


def test_a_camera_ends_when_its_viewer_says_so_and_a_file_does_not(
    tmp_path: Path, file_model: Callable[..., Path]
) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=40, size=(40, 40))
    shapes = []

    def look(before: cgpipe.Pixels, after: cgpipe.Pixels) -> bool:
        shapes.append((before.shape, after.shape))
        return len(shapes) < 3

    options = {"model": file_model(tmp_path / "m"), "device": "cpu", "on_picture": look}
    report = cgpipe.translate_video(f"camera:{clip}", tmp_path / "out.mp4", **options)
    assert 3 <= report.frames < 20 and shapes == [((40, 40, 3), (40, 40, 3))] * report.frames
    assert (tmp_path / "out.mp4").is_file()
    assert cgpipe.translate_video(clip, tmp_path / "whole.mp4", **options).frames == 40


@pytest.fixture
def display() -> Iterator[str]:
    """A display in memory. Xlib ends a process whose display goes, so what opens a window has a process of its own."""
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb")
    pytest.importorskip("tkinter")
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        yield f":{server.stdout.readline().strip()}"
        server.terminate()


WINDOW = """
import sys
import numpy as np
from PIL import ImageGrab
from cgpipe.cli import cli
from cgpipe.cli.window import Window

red, blue = (np.full((48, 64, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
with Window("cgpipe: camera:0") as window:
    assert window.show(red, blue)
    width, height = window._root.winfo_width(), window._root.winfo_height()
    assert (width, height) == (640, 240), (width, height)
    seen = ImageGrab.grab()
    assert seen.getpixel((20, 20)) == (200, 0, 0) and seen.getpixel((width - 20, 20)) == (0, 0, 200)
    window._root.focus_force()
    window._root.update()
    window._root.event_generate("<Escape>")
    assert not window.show(red, blue)
cli.main(sys.argv[1:])
"""


def test_a_window_shows_what_a_camera_sees_until_it_is_closed(
    display: str, tmp_path: Path, file_model: Callable[..., Path]
) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=3, size=(40, 40))
    words = ["video", f"camera:{clip}", tmp_path / "out.mp4", "--model", file_model(tmp_path / "m"), "--preview"]
    done = run_python(WINDOW, *words, env=os.environ | {"DISPLAY": display})
    assert done.returncode == 0, done.stderr
    assert "2 frames" in done.stdout and "No window" not in done.stderr


def test_without_a_display_that_is_said_and_the_job_goes_on(
    tmp_path: Path, file_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tkinter")
    monkeypatch.delenv("DISPLAY", raising=False)
    clip = make_clip(tmp_path / "in.mp4", count=3, size=(40, 40))
    model = ("--model", file_model(tmp_path / "m"), "--device", "cpu")
    done = invoke("video", f"camera:{clip}", tmp_path / "out.mp4", *model, "--preview")
    assert done.exit_code == 0 and "No window can be opened" in done.output and "not shown" in done.output
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(NoWindowError, match="python3-tk"):
        Window("")
