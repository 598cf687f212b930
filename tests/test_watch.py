"""A folder that is watched: a real process, files that come, grow and go."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from clips import make_clip

from cgpipe.cli import cli
from cgpipe.errors import CgpipeError, UsageError
from cgpipe.jobs.report import FileResult
from cgpipe.jobs.watch import watch_folder
from cgpipe.media.video import VideoSink, VideoSource


@pytest.fixture(autouse=True)
def model(models_folder: Path, file_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file_model(models_folder, "horse", "zebra")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    return folder


def picture(path: Path, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), np.uint8)
    assert cv2.imwrite(str(path), cv2.blur(pixels, (5, 5)))
    return path


class EndedError(Exception):
    """Raised in a look, in place of Ctrl-C."""


def between_looks(patch: pytest.MonkeyPatch, step: Callable[[float], None]) -> None:
    """Calls ``step`` where a watch sleeps, and only there: threads of other tests may be asleep, too."""
    patch.setattr("cgpipe.jobs.watch.time", SimpleNamespace(sleep=step, monotonic=time.monotonic))


def watched(folder: Path, looks: list[Callable[[], object]], **options: Any) -> tuple[list[FileResult], list[str]]:
    """Watches with something that happens before each look; gives what was told."""
    results: list[FileResult] = []
    notices: list[str] = []
    steps: Iterator[Callable[[], object]] = iter([*looks, *[lambda: None] * 3])

    def step(_: float) -> None:
        action = next(steps, None)
        if action is None:
            raise EndedError
        action()

    patch = pytest.MonkeyPatch()
    between_looks(patch, step)
    try:
        with pytest.raises(EndedError):
            watch_folder(
                folder, folder.parent / "out", to="zebra", on_result=results.append, on_notice=notices.append, **options
            )
    finally:
        patch.undo()
    return results, notices


def told(results: list[FileResult]) -> list[tuple[str, str]]:
    return [(result.input.name, result.status) for result in results]


def test_a_clip_that_another_watch_is_translating_is_no_failure_and_is_not_forgotten(folder: Path) -> None:
    clip = make_clip(folder / "clip.mp4", count=2)
    (folder.parent / "out").mkdir()
    other = VideoSink(folder.parent / "out" / "clip.mp4", like=VideoSource(clip).info)
    results, _ = watched(folder, [lambda: None, lambda: None, other.abort, lambda: None])
    assert told(results) == [("clip.mp4", "translated")]


def test_watches_share_pictures_and_clips(folder: Path) -> None:
    for number in range(3):
        picture(folder / f"{number}.png")
        make_clip(folder / "below" / f"{number}.mp4", count=2)
    shares = [told(watched(folder, [lambda: None] * 2, shard=f"{number}/2")[0]) for number in (1, 2)]
    assert sorted(shares[0] + shares[1]) == sorted((path.name, "translated") for path in folder.rglob("*.*"))
    assert all(shares), "each has something"


def test_a_cluster_watches_no_folder(folder: Path) -> None:
    with pytest.raises(UsageError, match="omit --ray"):
        watch_folder(folder, to="zebra", ray="local")


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), 1e12])
def test_an_interval_that_cannot_be_waited_for_is_refused(folder: Path, every: float) -> None:
    with pytest.raises(UsageError, match="The interval must be"):
        watch_folder(folder, to="zebra", every=every)


def test_what_is_there_and_what_appears_is_translated_once(folder: Path, tmp_path: Path) -> None:
    picture(folder / "a.png")
    picture(folder / ".hidden.png")
    (folder / "notes.txt").write_text("no picture")
    results, notices = watched(
        folder,
        [
            lambda: picture(folder / "below" / "b.jpg"),
            lambda: None,
            lambda: os.replace(picture(tmp_path / "c.png"), folder / "c.png"),
            lambda: None,
            lambda: make_clip(folder / "clip.avi", count=4),
        ],
    )
    assert told(results) == [(name, "translated") for name in ("a.png", "b.jpg", "c.png", "clip.avi")]
    assert notices == []
    made = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*") if path.is_file())
    assert [name for name in made if "cgpipe" not in name] == ["a.png", "below/b.jpg", "c.png", "clip.mp4"]
    again, _ = watched(folder, [])
    assert told(again) == [], "what is current is skipped without a word"


def test_a_file_that_grows_is_left_until_it_is_whole(folder: Path, tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.png").read_bytes()

    def grow(to: int) -> Callable[[], object]:
        return lambda: (folder / "a.png").write_bytes(whole[:to])

    results, _ = watched(folder, [grow(100), grow(200), grow(len(whole))])
    assert told(results) == [("a.png", "translated")]


def test_a_file_that_fails_is_told_once_and_tried_again_when_it_changes(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"no picture")
    picture(folder / "b.png")
    results, _ = watched(folder, [lambda: None] * 4 + [lambda: picture(folder / "a.png")])
    assert sorted(told(results)[:2]) == [("a.png", "failed"), ("b.png", "translated")]
    assert told(results)[2:] == [("a.png", "translated")]


def test_two_files_that_would_become_one_are_told_and_stop_nothing(folder: Path) -> None:
    picture(folder / "a.png")
    picture(folder / "a.jpg")
    picture(folder / "b.png")
    looks = [lambda: None, lambda: None, lambda: (folder / "a.jpg").unlink()]
    results, _ = watched(folder, looks, format="webp")
    assert sorted(told(results)[:3]) == [("a.jpg", "failed"), ("a.png", "failed"), ("b.png", "translated")]
    assert all("would both be written" in result.reason for result in results if result.status == "failed")
    assert told(results)[3:] == [("a.png", "translated")]


def test_two_clips_that_would_become_one_are_told_and_not_replaced(folder: Path) -> None:
    make_clip(folder / "a.avi", count=2)
    results, _ = watched(folder, [lambda: None, lambda: None, lambda: make_clip(folder / "a.mp4", count=3)])
    made = folder.parent / "out" / "a.mp4"
    assert told(results) == [("a.avi", "translated"), ("a.mp4", "failed")]
    assert "a.avi would be written to" in results[1].reason and VideoSource(made).info.frames == 2


def test_a_folder_that_is_gone_is_waited_for(folder: Path, tmp_path: Path) -> None:
    picture(folder / "a.png")
    away = tmp_path / "away"

    def back() -> None:
        os.replace(away, folder)
        picture(folder / "b.png")

    results, notices = watched(folder, [lambda: None, lambda: os.replace(folder, away), lambda: None, back])
    assert told(results) == [("a.png", "translated"), ("b.png", "translated")]
    assert len(notices) == 2
    assert "waiting for it" in notices[0]
    assert "is back" in notices[1]


def test_an_output_in_the_folder_is_no_input(folder: Path) -> None:
    picture(folder / "a.png")
    results: list[FileResult] = []

    def step(_: float) -> None:
        if len(seen := [*results]) > 1 or step.looks > 5:  # type: ignore[attr-defined]
            assert len(seen) == 1
            raise EndedError
        step.looks += 1  # type: ignore[attr-defined]

    step.looks = 0  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(EndedError):
        between_looks(patch, step)
        watch_folder(folder, folder / "out", to="zebra", on_result=results.append)
    assert told(results) == [("a.png", "translated")]


@pytest.mark.parametrize("arguments", [["missing"], ["in", "-o", "in"], ["s3://bucket"], ["in", "--to", "giraffe"]])
def test_wrong_usage_is_said(folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    result = CliRunner().invoke(cli, ["watch", *arguments])
    assert result.exit_code == 2, result.output
    assert not isinstance(result.exception, CgpipeError)


def test_ctrl_c_ends_it_with_a_word(folder: Path) -> None:
    picture(folder / "a.png")
    command = [sys.executable, "-m", "cgpipe", "watch", str(folder), "--to", "zebra", "--every", "0.05", "--verbose"]
    output = folder.with_name("in-zebra")
    traced = os.environ | {"PYTHONFAULTHANDLER": "1"}  # says where, should it crash instead
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=traced) as process:
        assert process.stderr
        before = list(takewhile(lambda line: not line.startswith("Translated: "), process.stderr))
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT, said
    assert any(line.startswith("Watching") for line in before)
    assert (output / "a.png").exists()
    assert "1 translated" in said
    assert "Traceback" not in said
    assert not list(output.glob(".cgpipe-????????-*"))
    shutil.rmtree(output)
