"""Videos translated end to end, with a real model and real clips."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from click.testing import Result
from clips import Sound, damaged, make_clip, packets_of, picture, times_of
from runs import bytes_of
from shell import CGPIPE, count_and_peak, invoke, wait_until

import cgpipe
from cgpipe.errors import CgpipeWarning, MediaError, UsageError
from cgpipe.jobs.video_plan import plan_videos
from cgpipe.jobs.videos import translate_videos

FileModel = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("zebra_model")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "ein Pferd in Ägypten 馬.mp4", count=20, sounds=[Sound(seconds=0.8)])


def pictures_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def run(*arguments: object) -> Result:
    return invoke("video", *arguments)


def test_only_the_look_changes(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    report = cgpipe.translate_video(clip, output, to="zebra")
    assert (report.frames, report.resumed, report.exit_code) == (20, 0, 0)
    assert times_of(output) == times_of(clip)
    assert packets_of(output, "audio") == packets_of(clip, "audio")
    before, after = pictures_of(clip), pictures_of(output)
    assert before.shape == after.shape
    assert np.abs(before - after).mean() > 5


def test_frames_are_those_that_the_translator_makes(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    cgpipe.translate_video(clip, output, to="zebra", codec="ffv1")
    translate = cgpipe.Translator.find("zebra")
    expected = np.stack([translate(frame.pixels) for frame in cgpipe.VideoSource(clip)]).astype(int)
    # Lossless but for the way to YUV with half the colour resolution, or not, and back.
    assert np.abs(pictures_of(output) - expected).mean() < 3


def test_a_clip_is_not_written_over_itself(clip: Path) -> None:
    before = clip.read_bytes()
    with pytest.raises(UsageError, match="the input itself"):
        cgpipe.translate_video(clip, clip, to="zebra", overwrite=True)
    assert clip.read_bytes() == before


class StoppedError(Exception):
    """Raised in a job, in place of a kill."""


def stop_after(most: int) -> Callable[[int], None]:
    """An ``on_frames`` that ends a job once there are more frames."""
    seen = 0

    def stop(frames: int) -> None:
        nonlocal seen
        seen += frames
        if seen > most:
            raise StoppedError

    return stop


def test_pictures_of_another_folder_of_the_same_name_do_not_go_on_with_what_was_begun(tmp_path: Path) -> None:
    for seed, take in enumerate(("one", "two")):
        (tmp_path / take / "frames").mkdir(parents=True)
        for number in range(130):
            cv2.imwrite(str(tmp_path / take / "frames" / f"{number}.png"), picture(number + 50 * seed, 32, 24))
    options: dict[str, Any] = {"to": "zebra", "fps": 25}
    one, again = tmp_path / "one" / "frames", tmp_path / "again.mkv"
    with pytest.raises(StoppedError):
        cgpipe.translate_video(one, tmp_path / "out.mkv", on_frames=stop_after(125), **options)
    report = cgpipe.translate_video(tmp_path / "two" / "frames", tmp_path / "out.mkv", **options)
    assert (report.frames, report.resumed) == (130, 0)
    with pytest.raises(StoppedError):
        cgpipe.translate_video(one, again, on_frames=stop_after(125), **options)
    assert cgpipe.translate_video(one, again, **options).resumed >= 120


class Normalise(torch.nn.Module):
    """Has no result for a picture of one colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean()) / x.std() * 0.3


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:model.pt. Found")
@pytest.mark.parametrize("output", ["out.mkv", "frames"])
def test_a_job_with_a_frame_that_fails_begins_anew_after_an_interrupt(tmp_path: Path, output: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(130):
        pixels = picture(number, 32, 24) if number != 7 else np.zeros((24, 32, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "in" / f"{number}.png"), pixels)
    torch.jit.script(Normalise()).save(tmp_path / "model.pt")
    options: dict[str, Any] = {"model": tmp_path / "model.pt", "fps": 25}
    with pytest.warns(CgpipeWarning, match="A frame was dropped"), pytest.raises(StoppedError):
        cgpipe.translate_video(tmp_path / "in", tmp_path / output, on_frames=stop_after(125), **options)
    with pytest.warns(CgpipeWarning, match="A frame was dropped"):
        report = cgpipe.translate_video(tmp_path / "in", tmp_path / output, **options)
    assert (report.frames, report.failed, report.resumed) == (129, 1, 0)


def test_ctrl_c_ends_a_camera_and_keeps_what_came(tmp_path: Path) -> None:
    camera = f"camera:{make_clip(tmp_path / 'in.mp4', count=60)}"
    seen = 0

    def stop(frames: int) -> None:
        nonlocal seen
        seen += frames
        if seen == 10:
            raise KeyboardInterrupt

    with pytest.warns(CgpipeWarning, match="holds what came"), pytest.raises(KeyboardInterrupt):
        cgpipe.translate_video(camera, tmp_path / "out.mp4", to="zebra", on_frames=stop)
    assert len(times_of(tmp_path / "out.mp4")) == 10


def test_a_style_works_at_a_larger_size_on_pictures_alone(
    models_folder: Path, file_model: FileModel, tmp_path: Path
) -> None:
    file_model(models_folder, "photo", "ink", working_scales=(16, 24), large_side=64)
    photo, clip = tmp_path / "photo.png", make_clip(tmp_path / "clip.mkv", count=2, codec="ffv1", size=(216, 144))
    cv2.imwrite(str(photo), picture(0, 216, 144))
    cgpipe.translate_folder(photo, tmp_path / "out.png", to="ink", precision="fp32")
    cgpipe.translate_video(clip, tmp_path / "out.mkv", to="ink", precision="fp32", codec="ffv1")
    frame = next(iter(cgpipe.VideoSource(clip))).pixels
    at = {side: cgpipe.Translator.find("ink", size=side, precision="fp32") for side in (24, 48)}
    assert np.array_equal(cv2.imread(str(tmp_path / "out.png"))[..., ::-1], at[48](cv2.imread(str(photo))[..., ::-1]))
    far, near = (np.abs(pictures_of(tmp_path / "out.mkv")[0] - at[side](frame).astype(int)).mean() for side in (48, 24))
    assert near < 1 < far


@pytest.mark.parametrize("batch_size", [3, 64])
def test_batches_change_nothing(clip: Path, tmp_path: Path, batch_size: int) -> None:
    one, many = tmp_path / "one.mp4", tmp_path / "many.mp4"
    cgpipe.translate_video(clip, one, to="zebra", precision="fp32")
    cgpipe.translate_video(clip, many, to="zebra", precision="fp32", batch_size=batch_size)
    assert times_of(one) == times_of(many)
    assert np.abs(pictures_of(one) - pictures_of(many)).mean() < 1


def test_original_and_translation_side_by_side(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "both.mp4"
    cgpipe.translate_video(clip, output, to="zebra", side_by_side=True, crf=1)
    both, original = pictures_of(output), pictures_of(clip)
    width = original.shape[2]
    assert both.shape == (20, original.shape[1], 2 * width, 3)
    assert np.abs(both[:, :, :width] - original).mean() < 2
    assert np.abs(both[:, :, width:] - original).mean() > 5


def test_a_part_at_another_rate(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=50, sounds=[Sound(seconds=2)])
    result = run(clip, tmp_path / "out.mp4", "--to", "zebra", "--start", "0:00:00.4", "--end", "1.2", "--fps", "50")
    assert result.exit_code == 0, result.output
    times = times_of(tmp_path / "out.mp4")
    assert times == [Fraction(index, 50) for index in range(40)]


def test_a_second_run_skips_what_is_current(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    assert not cgpipe.translate_video(clip, output, to="zebra").skipped
    assert not cgpipe.translate_video(clip, output, to="zebra", strength=0.7).skipped
    assert not cgpipe.translate_video(clip, output, to="zebra").skipped
    assert cgpipe.translate_video(clip, output, to="zebra").skipped
    assert not cgpipe.translate_video(clip, output, to="zebra", strength=0.5).skipped
    assert not cgpipe.translate_video(clip, output, to="zebra", strength=0.5, overwrite=True).skipped
    os.utime(clip)
    assert not cgpipe.translate_video(clip, output, to="zebra", strength=0.5).skipped
    for moment in ((1, 1), (2, 2)):
        assert cgpipe.translate_video(clip, output, to="zebra", strength=0.5, checksum=True).skipped
        os.utime(clip, moment)


def test_damage_is_translated_around_and_said(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=60, options={"g": "10"})
    bad = damaged(clip, 0.5, 0.6, 1)
    result = run(bad, tmp_path / "out.mp4", "--to", "zebra", "--json", tmp_path / "report.json")
    assert result.exit_code == 3, result.output
    video = json.loads((tmp_path / "report.json").read_text())["videos"][0]
    assert video["bad_packets"] + video["filled"] + video["missing"] > 0
    assert video["frames"] == len(times_of(tmp_path / "out.mp4")) >= 50


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("frames/%06d.png", "frames"),
        ("frames", "frames/%06d.png"),
        ("frames", "frames/zebra %d.png"),
        ("frames/%06d.png", "frames/../frames/0%d.png"),
    ],
)
def test_numbered_pictures_are_never_written_among_those_that_are_read(
    clip: Path, tmp_path: Path, source: str, output: str
) -> None:
    assert run("--to", "zebra", str(clip), str(tmp_path / "frames")).exit_code == 0
    before = bytes_of(tmp_path / "frames")
    result = run("--to", "zebra", str(tmp_path / source), str(tmp_path / output), "--fps", "5", "--overwrite")
    assert (result.exit_code, "overwrite itself" in result.output) == (2, True), result.output
    assert bytes_of(tmp_path / "frames") == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{tmp}/missing.mp4", "{tmp}/out.mp4"], 2, "missing.mp4"),
        (["{tmp}/text.mp4", "{tmp}/out.mp4"], 1, "text.mp4"),
        (["{clip}", "{tmp}/out.xyz"], 2, "xyz"),
        (["{clip}", "{tmp}/out.webm", "--codec", "libx264"], 2, "webm"),
        (["{clip}", "{tmp}/out.mp4", "--codec", "nonsense"], 2, "nonsense"),
        (["{clip}", "{tmp}/out.mp4", "--start", "soon"], 2, "not a valid time"),
        (["{clip}", "{tmp}/out.mp4", "--start", "5"], 1, "no frame"),
        (["{clip}", "{clip}"], 2, "overwrite itself"),
        (["", "{tmp}/out.mp4"], 2, "path is empty"),
        (["{tmp}", "{tmp}/out.mp4"], 1, "-o"),
        (["{tmp}/nowhere/%05d.png", "{tmp}/out.mp4"], 2, "no folder"),
        (["{clip}", "{clip}", "{clip}"], 2, "-o"),
        (["{clip}", "{tmp}/nowhere/out.mp4", "--to", "zebar"], 2, "zebra"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(
    clip: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "text.mp4").write_text("I am no video")
    before = sorted(tmp_path.iterdir())
    result = run("--to", "zebra", *(argument.format(tmp=tmp_path, clip=clip) for argument in arguments))
    assert (result.exit_code, message in result.output) == (code, True), result.output
    assert [p for p in sorted(tmp_path.iterdir()) if p.name != "cache"] == [p for p in before if p.name != "cache"]


@pytest.mark.filterwarnings("default::cgpipe.errors.CgpipeWarning")
def test_several_videos_go_into_a_folder_and_one_that_fails_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    make_clip(tmp_path / "in" / "a.mp4", count=3)
    make_clip(tmp_path / "in" / "sub" / "b.mkv", count=3, pix_fmt="yuv420p10le")
    (tmp_path / "in" / "c.mp4").write_text("I am no video")
    result = run(tmp_path / "in", "-o", tmp_path / "out", "--to", "zebra", "--json", tmp_path / "r.json")
    assert result.exit_code == 3
    made = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("[!.]*") if p.is_file())
    assert made == ["a.mp4", "sub/b.mkv"]
    assert result.output.count("Model: ") == 1
    assert f"Warning: {tmp_path / 'in' / 'sub' / 'b.mkv'}: The clip has 10 bits" in result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert [Path(failure["input"]).name for failure in report["failures"]] == ["c.mp4"]
    steps = [list(video["first"]) for video in report["videos"]]
    of_each = ["decode", "inference", "encode", "total"]
    assert steps == [["imports", "find", "load", "prepare", *of_each], ["find", *of_each]]


def test_an_option_that_does_not_suit_one_video_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.mp4", "b.webm", "c.mp4"):
        make_clip(tmp_path / "in" / name, count=3, **({"codec": "libvpx-vp9"} if name == "b.webm" else {}))
    result = run(
        tmp_path / "in", "-o", tmp_path / "out", "--to", "zebra", "--codec", "h264", "--json", tmp_path / "r.json"
    )
    assert result.exit_code == 3, result.output
    assert f"Failed: {tmp_path / 'in' / 'b.webm'}: webm cannot hold codec" in result.output
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.mp4", "c.mp4"]
    report = json.loads((tmp_path / "r.json").read_text())
    assert (len(report["videos"]), len(report["failures"])) == (2, 1)


def test_plans(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.avi", "sub/a.mp4"):
        make = tmp_path / name
        make.parent.mkdir(exist_ok=True)
        make.touch()
    a, b, other = (str(tmp_path / name) for name in ("a.mp4", "b.avi", "sub/a.mp4"))
    assert plan_videos([a], None, "zebra") == [(a, str(tmp_path / "a-zebra.mp4"))]
    assert plan_videos([b], None, "zebra") == [(b, str(tmp_path / "b-zebra.mp4"))]
    assert plan_videos([a, b], "out", "zebra") == [(a, "out/a.mp4"), (b, "out/b.mp4")]
    assert plan_videos([a], "-", "zebra") == [(a, "-")]
    assert plan_videos([a], "OUT.MP4", "zebra") == [(a, "OUT.MP4")]
    assert plan_videos([a], "out.avi", "zebra") == [(a, "out.avi")], "to be refused, not a folder of this name"
    with pytest.raises(UsageError, match="both be written"):
        plan_videos([a, other], "out", "zebra")
    with pytest.raises(UsageError, match="does not exist"):
        plan_videos(["nothing*.mp4"], "out", "zebra")


def test_a_single_failure_is_an_error_and_of_several_none_is_a_success(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("I am no video")
    with pytest.raises(MediaError):
        translate_videos([tmp_path / "text.mp4"], tmp_path / "out", to="zebra")
    (tmp_path / "other.mp4").write_text("Nor am I")
    report = translate_videos([tmp_path / "text.mp4", tmp_path / "other.mp4"], tmp_path / "out", to="zebra")
    assert (report.videos, len(report.failures), report.exit_code) == ([], 2, 1)


def test_nothing_is_left_running_or_open(clip: Path, tmp_path: Path) -> None:
    def open_files() -> set[str]:
        return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()}

    cgpipe.translate_video(clip, tmp_path / "out.mp4", to="zebra")
    (tmp_path / "text.mp4").write_text("I am no video")
    with pytest.raises(MediaError):
        cgpipe.translate_video(tmp_path / "text.mp4", tmp_path / "out.mp4", to="zebra")
    assert [t.name for t in threading.enumerate() if t.name.startswith("cgpipe")] == []
    if sys.platform == "linux":
        assert [name for name in open_files() if name.startswith(str(tmp_path))] == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_run_that_was_stopped_goes_on_and_ends_like_one_that_was_not(zebra_model: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=720, sounds=[Sound(seconds=29)])
    whole, output = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    cgpipe.translate_video(clip, whole, to="zebra")
    words = ["video", str(clip), str(output), "--to", "zebra", "--json", str(tmp_path / "report.json")]
    chance = random.Random(0)
    for stop in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen([*CGPIPE, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            made = segments_of(output)
            wait_until(lambda made=made: segments_of(output) > made, process)
            time.sleep(chance.random() * 0.1)
            process.send_signal(stop)
        assert process.returncode in (-stop, 130), "it was to be stopped before it was done"
        assert not output.exists()
    assert invoke(*words).exit_code == 0
    video = json.loads((tmp_path / "report.json").read_text())["videos"][0]
    assert video["resumed"] >= 240
    assert times_of(output) == times_of(whole)
    assert packets_of(output, "audio") == packets_of(whole, "audio")
    assert packets_of(output, "video") == packets_of(whole, "video")
    assert not (tmp_path / ".out.mp4.cgpipe").exists()


def segments_of(output: Path) -> set[Path]:
    return set((output.parent / f".{output.name}.cgpipe").glob("*.mp4"))


def test_pictures_of_a_clip_match_its_source() -> None:
    """The clip helper's pictures are what the tests above compare with: not black, and changing."""
    assert np.abs(picture(0).astype(int) - picture(5)).mean() > 5


MEASURE = """
import sys, cgpipe
report = cgpipe.translate_video(sys.argv[1], sys.argv[2], to="zebra", device="cpu", preset="ultrafast")
print(report.frames)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in /proc")
def test_memory_does_not_grow_with_the_length_of_a_clip(tmp_path: Path) -> None:
    """The full-sized measurement, 500 against 10,000 frames, is in the benchmark."""
    peaks = []
    for count in (200, 1000):
        clip = make_clip(tmp_path / f"{count}.mp4", count=count)
        frames, peak = count_and_peak(MEASURE, clip, tmp_path / f"out {count}.mp4")
        assert frames == count
        peaks.append(peak)
    assert peaks[1] < 1.05 * peaks[0]
