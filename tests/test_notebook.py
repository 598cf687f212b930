"""How cgpipe shows itself in a notebook: bars, tables, one line for each object."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

import cgpipe
from cgpipe.notebook import ProgressBar, html_table, in_notebook

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 48, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), pixels)
    return tmp_path / "photos"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, width=48, height=32, pix_fmt="yuv420p")
        for number in range(5):
            pixels = np.full((32, 48, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return tmp_path / "clip.mp4"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is taken for a notebook's kernel, without ipywidgets."""
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("cgpipe.notebook.find_spec", lambda name: None)


def test_a_script_is_no_notebook_and_neither_is_a_console(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=SimpleNamespace))
    assert not in_notebook()


def test_scripts_are_silent_unless_a_bar_is_asked_for(photos: Path, capfd: Capture) -> None:
    cgpipe.translate_folder(photos, to="zebra", size=32)
    assert capfd.readouterr() == ("", "")
    cgpipe.translate_folder(photos, to="zebra", size=32, progress=True, overwrite=True)
    assert "3/3" in capfd.readouterr().err


def test_notebooks_show_a_bar_unless_it_is_declined(kernel: None, photos: Path, clip: Path, capfd: Capture) -> None:
    cgpipe.translate_folder(photos, to="zebra", size=32)
    assert "3/3" in capfd.readouterr().err
    cgpipe.translate_video(clip, clip.with_name("out.mp4"), to="zebra", size=32)
    assert "5/5" in capfd.readouterr().err
    cgpipe.translate_folder(photos, to="zebra", size=32, progress=False)
    assert capfd.readouterr().err == ""


def test_callbacks_work_beside_a_bar(photos: Path, capfd: Capture) -> None:
    told: list[str] = []
    cgpipe.translate_folder(
        photos, to="zebra", size=32, progress=True, on_result=lambda result: told.append(result.input.name)
    )
    assert sorted(told) == ["0.png", "1.png", "2.png"]


def test_a_bar_ends_with_an_error(capfd: Capture) -> None:
    with pytest.raises(KeyError), ProgressBar("picture", True) as bar:
        bar.start(9)
        bar.advance(4)
        raise KeyError
    assert "4/9" in capfd.readouterr().err


def test_reports_and_translators_show_themselves_as_a_line_and_a_table(photos: Path, clip: Path) -> None:
    (photos / "<b>bad.png").write_bytes(b"no picture")
    folder = cgpipe.translate_folder(photos, to="zebra", size=32)
    video = cgpipe.translate_video(clip, clip.with_name("out.mp4"), to="zebra", size=32)
    translator = cgpipe.Translator.find("zebra")
    for shown, words in (
        (folder, ["3 translated", "1 failed"]),
        (video, ["5 frames", "out.mp4"]),
        (translator, ["horse to zebra", "cpu"]),
    ):
        assert "\n" not in repr(shown) and len(repr(shown)) < 250
        assert all(word in repr(shown) for word in words)
    tables: list[Callable[[], str]] = [folder._repr_html_, video._repr_html_, translator._repr_html_]
    for table in tables:
        assert table().startswith("<table>") and table().endswith("</table>")
    assert "&lt;b&gt;bad.png" in folder._repr_html_() and "<b>bad" not in folder._repr_html_()
    assert "horse to zebra" in translator._repr_html_()


def test_a_table_leaves_out_what_is_nothing() -> None:
    assert html_table("<T>", [("a", 0), ("b", ""), ("c", ["x", "y"])]).count("<tr>") == 1
    assert "&lt;T&gt;" in html_table("<T>", [])


def test_pictures_of_pillow_come_back_as_such() -> None:
    from PIL import Image

    picture = Image.new("RGB", (48, 32), (90, 120, 60))
    translated = cgpipe.Translator.find("zebra")(picture)
    assert isinstance(translated, Image.Image) and translated.size == (48, 32)


def test_a_job_without_workers_changes_nothing_of_the_process(photos: Path) -> None:
    import os
    import signal

    import torch
    from PIL import Image

    def state() -> tuple[object, ...]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        limits = Image.MAX_IMAGE_PIXELS, cv2.getNumThreads(), torch.get_num_threads(), np.geterr()
        return *limits, os.getcwd(), [signal.getsignal(number) for number in numbers]

    cv2.setNumThreads(2)
    before = state()
    cgpipe.translate_folder(photos, to="zebra", size=32, workers=0)
    assert state() == before
