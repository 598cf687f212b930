"""Folders of pictures, end to end, with a real model and real files."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from clips import make_clip
from PIL import Image
from shell import CGPIPE, count_and_peak, invoke, run_python, wait_until

import cgpipe
from cgpipe.errors import ModelNotFoundError, UsageError
from cgpipe.jobs.folder import translate_folder
from cgpipe.jobs.journal import NAME
from cgpipe.jobs.report import FileResult

pytestmark = pytest.mark.usefixtures("zebra_model")


def picture(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(cv2.blur(pixels, (5, 5))).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    picture(folder / "a.jpg", 41, 31, 1)
    picture(folder / "b.PNG", 64, 48, 2)
    picture(folder / "süb dir" / "c d.webp", 40, 30, 3)
    picture(folder / "süb dir" / "deep" / "e.bmp", 33, 17, 4)
    picture(folder / "süb dir" / "deep" / "f.tiff", 41, 31, 5)
    (folder / "notes.txt").write_text("no picture")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below, but the journals."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(NAME))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run(*arguments: object) -> Result:
    return invoke("translate", *arguments)


def test_the_folder_is_mirrored(photos: Path) -> None:
    report = translate_folder(photos, to="zebra")
    assert (report.translated, report.failures, report.ignored) == (5, [], 1)
    assert report.outputs[0] == photos.with_name("photos-zebra")
    pictures = [p for p in tree(photos) if p != "notes.txt"]
    assert list(tree(report.outputs[0])) == pictures
    for name in pictures:
        with Image.open(photos / name) as before, Image.open(report.outputs[0] / name) as after:
            assert (before.size, before.format) == (after.size, after.format)
            assert np.abs(np.asarray(before, int) - np.asarray(after.convert("RGB"), int)).mean() > 5


@pytest.mark.parametrize(("workers", "batch"), [(0, 1), (2, 1), (1, 4)])
def test_workers_and_batches_change_nothing(photos: Path, tmp_path: Path, workers: int, batch: int) -> None:
    expected = translate_folder(photos, tmp_path / "one", to="zebra", workers=1, format="png")
    other = translate_folder(photos, tmp_path / "other", to="zebra", workers=workers, batch_size=batch, format="png")
    assert other.translated == expected.translated == 5
    for name in tree(tmp_path / "one"):
        one, two = (np.asarray(Image.open(tmp_path / d / name).convert("RGB"), int) for d in ("one", "other"))
        assert np.abs(one - two).max() <= 1


def test_workers_start_where_opencv_runs_threads_already(photos: Path) -> None:
    """A forked worker has none of them, and must not wait for them."""
    code = f"""
import cv2, numpy, cgpipe
cv2.setNumThreads(2)
for _ in range(5):
    cv2.GaussianBlur(numpy.zeros((2000, 2000, 3), numpy.uint8), (31, 31), 0)
print(cgpipe.translate_folder({str(photos)!r}, to="zebra", workers=1).translated)
"""
    result = run_python(code, timeout=60)
    assert result.stdout.split() == ["5"], result.stderr


def test_a_second_run_skips_what_is_current_and_redoes_what_is_not(photos: Path, zebra_model: Path) -> None:
    assert translate_folder(photos, to="zebra").translated == 5
    again = translate_folder(photos, to="zebra")
    assert (again.translated, again.skipped) == (0, 5)
    picture(photos / "a.jpg", 50, 20, 9)
    third = translate_folder(photos, to="zebra")
    assert (third.translated, third.skipped) == (1, 4)
    assert translate_folder(photos, to="zebra", overwrite=True).translated == 5


def test_another_model_or_strength_makes_everything_stale(photos: Path, zebra_model: Path, file_model: Any) -> None:
    translate_folder(photos, to="zebra")
    assert translate_folder(photos, to="zebra", strength=0.5).translated == 5
    assert translate_folder(photos, to="zebra", strength=0.5).skipped == 5
    file_model(zebra_model.parent, "horse", "zebra")
    assert translate_folder(photos, to="zebra", strength=0.5).translated == 5


def test_one_file_of_each_kind_of_damage_stops_nothing(photos: Path) -> None:
    whole = (photos / "a.jpg").read_bytes()
    (photos / "empty.jpg").touch()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.png").write_text("I am no picture")
    (photos / "bomb.png").write_bytes(png_header(1 << 17, 1 << 17))
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    results: list[FileResult] = []
    report = translate_folder(photos, to="zebra", on_result=results.append)
    assert report.translated == 5
    assert sorted(f.input.name for f in report.failures) == ["bomb.png", "cut.jpg", "empty.jpg", "gone.jpg", "text.png"]
    assert all(failure.reason for failure in report.failures)
    assert report.exit_code == 3
    assert len(tree(report.outputs[0])) == 5
    assert len(results) == 10


def png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_exit_codes_and_messages(photos: Path, tmp_path: Path) -> None:
    assert run(photos, "--to", "zebra").exit_code == 0
    (photos / "empty.jpg").touch()
    some = run(photos, "--to", "zebra")
    assert some.exit_code == 3
    assert "empty.jpg" in some.output
    nothing = run(photos / "empty.jpg", "--to", "zebra", "-o", tmp_path / "x")
    assert nothing.exit_code == 1
    assert run(tmp_path / "missing", "--to", "zebra").exit_code == 2
    assert run(photos, "--to", "zebar").exit_code == 2
    assert "Did you mean zebra?" in run(photos, "--to", "zebar").output
    assert run().exit_code == 2
    assert run(photos, "--compile", "--torchscript").exit_code == 2


def test_two_inputs_for_one_file_are_an_error_before_work_begins(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        picture(tmp_path / "in" / name)
    with pytest.raises(UsageError, match=r"a\.(jpg|png)"):
        translate_folder(tmp_path / "in", tmp_path / "out", to="zebra", format="png")
    assert not (tmp_path / "out").exists()


def test_an_unknown_domain_writes_nothing(photos: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        translate_folder(photos, to="dragon")
    assert [p.name for p in photos.parent.iterdir() if p.name.startswith("photos")] == ["photos"]


def test_the_command_says_which_model_it_took(photos: Path) -> None:
    assert "horse2zebra: horse to zebra (your own" in run(photos, "--to", "zebra").output


def test_the_report_names_every_file(photos: Path, tmp_path: Path) -> None:
    (photos / "empty.jpg").touch()
    result = run(photos, "--to", "zebra", "--json", tmp_path / "report.json", "--batch_size", 2)
    assert result.exit_code == 3
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (report["translated"], report["failed"], report["skipped"]) == (5, 1, 0)
    assert report["settings"]["batch_size"] == 2
    assert set(report["seconds"]) >= {"decode", "inference", "encode", "total"}
    steps = report["first"]
    assert list(steps) == ["imports", "find", "load", "prepare", "decode", "inference", "encode", "total"]
    assert steps.pop("total") == pytest.approx(sum(steps.values()), abs=0.01)
    files = {Path(file["input"]).name: file for file in report["files"]}
    assert len(files) == 6
    assert files["empty.jpg"]["status"] == "failed"
    assert files["empty.jpg"]["reason"]
    assert (files["a.jpg"]["width"], files["a.jpg"]["height"]) == (41, 31)
    assert run(photos, "--to", "zebra", "--json", tmp_path / "report.json").exit_code == 3
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["skipped"] == 5


def test_a_report_that_cannot_be_written_is_wrong_usage(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run(photos, "--to", "zebra", "--json", tmp_path / "file" / "report.json")
    assert result.exit_code == 2
    assert "The report cannot be written" in result.output
    assert not photos.with_name("photos-zebra").exists()


@pytest.mark.parametrize("command", ["translate", "video", "report"])
def test_a_file_that_is_no_report_is_not_lost_to_one(photos: Path, tmp_path: Path, command: str) -> None:
    before = (photos / "a.jpg").read_bytes()
    result = invoke(command, photos, "--json", photos / "a.jpg")
    assert result.exit_code == 2
    assert "a.jpg is not a report and would be lost" in result.output.replace("\n", " ")
    assert (photos / "a.jpg").read_bytes() == before
    (tmp_path / "package.json").write_text('{"name": "mine"}')
    result = invoke(command, photos, "--json", tmp_path / "package.json")
    assert result.exit_code == 2 and "package.json is not a report" in result.output.replace("\n", " ")
    assert (tmp_path / "package.json").read_text() == '{"name": "mine"}'


@pytest.mark.parametrize("command", ["translate", "video"])
def test_a_report_does_not_replace_the_result_of_its_own_name(photos: Path, tmp_path: Path, command: str) -> None:
    source = photos / "a.jpg" if command == "translate" else make_clip(tmp_path / "in.mp4", count=2)
    output = tmp_path / f"out{source.suffix}"
    result = invoke(command, source, "-o", output, "--to", "zebra", "--json", output)
    assert result.exit_code == 2
    assert f"{output.name} is not a report and would be lost" in result.output.replace("\n", " ")
    assert output.read_bytes()[:1] != b"{"


def test_pictures_are_not_written_to_standard_output(photos: Path, tmp_path: Path) -> None:
    result = run(photos, "-o", "-", "--to", "zebra")
    assert result.exit_code == 2
    assert "not written to standard output" in result.output


def test_options_come_from_the_environment_too(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGPIPE_TRANSLATE_TO", "zebra")
    monkeypatch.setenv("CGPIPE_TRANSLATE_FORMAT", "png")
    assert run(photos, "-o", tmp_path / "out").exit_code == 0
    assert {Path(name).suffix.lower() for name in tree(tmp_path / "out")} == {".png"}


def test_it_works_from_python_by_the_packages_name(photos: Path) -> None:
    assert cgpipe.translate_folder([photos / "a.jpg"], photos.parent / "out", to="zebra").translated == 1
    translate = cgpipe.Translator.find("zebra")
    assert translate(np.zeros((20, 30, 3), np.uint8)).shape == (20, 30, 3)


def test_nothing_is_left_running(photos: Path) -> None:
    translate_folder(photos, to="zebra", workers=2)
    assert [t.name for t in threading.enumerate() if t.name.startswith("cgpipe")] == []


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    for index in range(60):
        picture(folder / f"{index % 3}" / f"{index:03d}.jpg", 64 + index % 2, 48, index)
    return folder


def start(folder: Path, output: Path) -> subprocess.Popen[bytes]:
    command = [*CGPIPE, "translate", str(folder), "-o", str(output), "--to", "zebra"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_run_killed_again_and_again_ends_with_the_same_bytes(many: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    translate_folder(many, whole, to="zebra")
    chance = random.Random(0)
    for attempt in range(2):
        process = start(many, killed)
        wait_until(lambda n=12 * attempt: sum(1 for _ in killed.rglob("*.jpg")) > n, process)
        time.sleep(chance.random() * 0.02)
        process.kill()
        process.wait()
        for path in killed.rglob("[!.]*.jpg"):
            with Image.open(path) as image:
                image.load()  # Whatever stands under its name is whole.
    assert len(tree(killed)) < 60, "the last run was to find something left to do"
    translate_folder(many, killed, to="zebra")
    assert tree(killed) == tree(whole)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_cleanly(many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for index in range(60, 600):
        shutil.copy(many / "0" / "000.jpg", many / f"{index}.jpg")
    with start(many, output) as process:
        wait_until(lambda: sum(1 for _ in output.rglob("*.jpg")) >= 3, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    assert 3 <= len(tree(output)) < 600
    assert [path for path in output.rglob(".*") if not path.name.startswith(NAME)] == []
    assert list(workers_of(process.pid)) == []


def workers_of(pid: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield int(entry.parent.name)


MEASURE = """
import sys, cgpipe
report = cgpipe.translate_folder(sys.argv[1], sys.argv[2], to="zebra", device="cpu")
assert not report.failures
print(report.translated)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in /proc")
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    """The full-sized measurement, 2,000 against 20,000 pictures, is in the benchmark."""
    peaks = []
    for count in (150, 1500):
        folder = tmp_path / str(count)
        folder.mkdir()
        for index in range(count):
            cv2.imwrite(str(folder / f"{index}.bmp"), np.full((16, 16, 3), index % 256, np.uint8))
        translated, peak = count_and_peak(MEASURE, folder, tmp_path / f"out {count}")
        assert translated == count
        peaks.append(peak)
    assert peaks[1] < 1.05 * peaks[0]
