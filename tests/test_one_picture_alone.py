"""One picture never stops the others, and none vanishes, whatever a stage raises and however little room there is."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shell import run_python

import cgpipe
from cgpipe import errors
from cgpipe.engine import loader
from cgpipe.engine.translator import Translator
from cgpipe.media.frames import Batch, Frame
from cgpipe.media.pictures import sink, source

pytestmark = pytest.mark.usefixtures("zebra_model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24 + number, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


RAISED: list[Exception] = [
    OSError(errno.ENOSPC, "No space left on device"),
    StopIteration("what was raised"),
    MemoryError("what was raised"),
    ExceptionGroup("several", [ValueError("one")]),
    torch.OutOfMemoryError("what was raised"),
    subprocess.TimeoutExpired("command", 1),
    errors.MediaError("what was raised"),
]
"""Exceptions that others treat apart: of the disk, of a generator, of memory, groups, words of its own, ours."""


def failing(function: Callable[..., Any], fails: Callable[..., bool], error: BaseException) -> Callable[..., Any]:
    def instead(*args: Any, **options: Any) -> Any:
        if fails(*args):
            raise error
        return function(*args, **options)

    return instead


def one_fails(photos: Path, tmp_path: Path, **options: Any) -> str:
    """Translates, of which 2.png fails and the others do not; the reason."""
    results: list[cgpipe.FileResult] = []
    asked: dict[str, Any] = {"to": "zebra", "workers": 0, "precision": "fp32", "overwrite": True} | options
    report = cgpipe.translate_folder(photos, tmp_path / "out", on_result=results.append, **asked)
    assert (report.translated, report.exit_code, len(results)) == (3, 3, 4)
    (failure,) = report.failures
    assert failure.input.name == "2.png"
    assert failure.reason
    return failure.reason


@pytest.mark.parametrize("stage", ["decode", "network", "encode"])
def test_whatever_a_stage_raises_is_that_pictures_failure(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    read, work, write = source.read_planes, Translator._within_memory, sink.write_picture
    for error in RAISED:
        with monkeypatch.context() as patch:
            if stage == "decode":
                patch.setattr(source, "read_planes", failing(read, lambda path, *_: path.name == "2.png", error))
            elif stage == "network":
                wide = failing(work, lambda self, pixels, *_: pixels.shape[2] == 26, error)
                patch.setattr(Translator, "_within_memory", wide)
            else:
                patch.setattr(sink, "write_picture", failing(write, lambda path, *_: path.name == "2.png", error))
            reason = one_fails(photos, tmp_path)
            assert type(error).__name__ in reason or str(error) in reason or "memory" in reason or "space" in reason


@pytest.mark.parametrize(
    "error", [KeyError("x"), MemoryError(), RecursionError("deep"), OSError(5, "Input/output error")]
)
def test_whatever_is_raised_in_another_process_is_that_pictures_failure(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    read = source.read_planes
    monkeypatch.setattr(source, "read_planes", failing(read, lambda path, *_: path.name == "2.png", error))
    one_fails(photos, tmp_path, workers=2)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


def test_what_cannot_be_handed_over_is_that_pictures_failure(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = source.read_planes

    def with_luggage(path: Path, *way: Any) -> Frame:
        frame = read(path, *way)
        return Frame(pixels=frame.pixels, origin=Unpicklable()) if path.name == "2.png" else frame

    monkeypatch.setattr(source, "read_planes", with_luggage)
    assert "cannot be pickled" in one_fails(photos, tmp_path, workers=1)


def test_only_what_makes_all_fail_ends_the_job(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (errors.ModelError("broken"), errors.UsageError("no such engine")):
        with monkeypatch.context() as patch:
            patch.setattr(Translator, "_within_memory", failing(lambda *_: None, lambda *_: True, error))
            with pytest.raises(type(error)):
                cgpipe.translate_folder(photos, tmp_path / "out", to="zebra", workers=0)


def test_a_picture_that_gets_lost_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stage of ours loses one; a stage that did would be found out."""
    whole = Translator.stream

    def leaky(self: Translator, items: Any, *others: Any) -> Any:
        return (
            item for item in whole(self, items, *others) if not (isinstance(item, Batch) and item.pixels.shape[2] == 26)
        )

    monkeypatch.setattr(Translator, "stream", leaky)
    assert "lost" in one_fails(photos, tmp_path)


# --- shared memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_without_room_in_shared_memory_pixels_go_through_the_pipe(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def full(self: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(loader, "SMALL_BYTES", 100)
    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    report = cgpipe.translate_folder(photos, tmp_path / "out", to="zebra", workers=workers)
    assert (report.translated, report.exit_code) == (4, 0)


SMALL_CONTAINER = ("unshare", "--mount", "--fork", "--kill-child", "sh", "-c")
MOUNT = "mount -t tmpfs -o size=2m tmpfs /dev/shm"


def can_mount() -> bool:
    command = [*SMALL_CONTAINER, MOUNT]
    return sys.platform == "linux" and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_container_with_little_shared_memory_translates_large_pictures(tmp_path: Path, workers: int) -> None:
    """Docker gives 64 MB, and a picture may have 72: here 2 MB and pictures of 3 and of 0.2."""
    for number, (width, height) in enumerate([(1200, 900), (300, 200), (1200, 900), (1200, 901)]):
        pixels = np.full((height, width, 3), 40 * number, np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    command = f"{sys.executable} -m cgpipe translate {tmp_path}/in --to zebra --workers {workers} --size 64"
    told = subprocess.run([*SMALL_CONTAINER, f"{MOUNT} && {command}"], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert "4 translated" in told.stdout
    assert "Traceback" not in told.stderr
    assert len(list((tmp_path / "in-zebra").glob("[!.]*"))) == 4


# --- the caller's process ------------------------------------------------------------------------------------------


def test_a_job_changes_nothing_of_the_callers_process(photos: Path, tmp_path: Path) -> None:
    """In a process of its own, since other tests may have changed it already."""
    code = f"""
import cv2, torch, PIL.Image, warnings
cv2.setNumThreads(3); torch.set_num_threads(2); PIL.Image.MAX_IMAGE_PIXELS = 12345678
before = cv2.getNumThreads(), torch.get_num_threads(), PIL.Image.MAX_IMAGE_PIXELS, warnings.filters[:]
import cgpipe
report = cgpipe.translate_folder({str(photos)!r}, to="zebra", workers=0)
assert report.translated == 4, report
after = cv2.getNumThreads(), torch.get_num_threads(), PIL.Image.MAX_IMAGE_PIXELS, warnings.filters[:]
assert before == after, (before, after)
"""
    told = run_python(code)
    assert told.returncode == 0, told.stderr
