"""``--steady``: a translated video whose frames are blended along the motion of the originals."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from clips import make_clip, packets_of

import cgpipe
from cgpipe.engine.steady import RUN, Steady, first_needed
from cgpipe.evaluation.steadiness import measure_frames
from cgpipe.media.frames import Pixels

FRAMES = 2 * RUN + 7


def scene(seed: int, count: int = FRAMES, width: int = 96, height: int = 72) -> list[Pixels]:
    """A camera that moves over a texture, a pixel a frame."""
    noise = np.random.default_rng(seed).standard_normal((height, width + count, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    whole = np.uint8(np.clip(128 + 50 * smooth / smooth.std(), 0, 255))
    return [np.ascontiguousarray(whole[:, index : index + width]) for index in range(count)]


def shimmering(frames: list[Pixels], amplitude: int = 20) -> list[Pixels]:
    """What a generator makes of them that paints other blotches on every frame."""
    made = []
    for index, frame in enumerate(frames):
        noise = np.random.default_rng(1000 + index).standard_normal((*frame.shape[:2], 1))
        blotches = cv2.GaussianBlur(noise, (0, 0), 3)[..., None]
        made.append(np.uint8(np.clip(frame + amplitude * blotches / blotches.std(), 0, 255)))
    return made


def steadied(frames: list[Pixels], made: list[Pixels], strength: float, first: int = 0) -> list[Pixels]:
    steady = Steady(strength, first)
    return [steady(*pair) for pair in zip(frames[first:], made[first:], strict=True)]


def excess(frames: list[Pixels], made: list[Pixels]) -> float:
    given = {frame.tobytes(): result for frame, result in zip(frames, made, strict=True)}
    # Shifted frames, which the measure tries too, are none of these.
    return measure_frames(lambda frame: given.get(frame.tobytes(), frame), frames).excess


def test_what_shimmers_is_held_still_the_more_the_stronger() -> None:
    frames = scene(0, 12)
    made = shimmering(frames)
    before, half, full = (excess(frames, steadied(frames, made, strength)) for strength in (0.0, 0.5, 1.0))
    assert half < 0.6 * before
    assert full < 0.3 * before


def test_without_strength_nothing_changes() -> None:
    frames = scene(0, 3)
    made = shimmering(frames)
    assert all((a == b).all() for a, b in zip(steadied(frames, made, 0.0), made, strict=True))


@pytest.mark.parametrize("index", [1, RUN - 1, RUN, 2 * RUN, 2 * RUN + 5])
def test_a_job_that_goes_on_gives_the_frames_of_a_whole_one(index: int) -> None:
    frames = scene(0)
    made = shimmering(frames)
    whole = steadied(frames, made, 0.8)
    first = first_needed(index)
    assert first <= index < first + 2 * RUN
    again = steadied(frames, made, 0.8, first)
    assert all((a == b).all() for a, b in zip(again[index - first :], whole[index:], strict=True))


def test_no_run_of_blending_shows_where_it_begins() -> None:
    frames = scene(0)
    steady = steadied(frames, shimmering(frames), 0.9)
    changes = [float(np.abs(b.astype(int) - a.astype(int)).mean()) for a, b in pairwise(steady)]
    settled = changes[10:]
    assert max(settled) < 1.5 * float(np.median(settled))


def test_a_new_scene_takes_nothing_from_the_one_before() -> None:
    frames = scene(0, 5) + scene(1, 1)
    made = shimmering(frames)
    assert (steadied(frames, made, 1.0)[-1] == made[-1]).all()


def test_what_a_mask_protects_stays_to_the_bit() -> None:
    frames = scene(0, 4)
    mask = np.zeros((*frames[0].shape[:2], 1), np.uint8)
    mask[:, :40] = 255
    made = [np.where(mask > 0, new, old) for new, old in zip(shimmering(frames), frames, strict=True)]
    steady = steadied([np.concatenate([frame, mask], axis=2) for frame in frames], made, 1.0)
    assert all((new[:, 40:] == old[:, 40:]).all() for new, old in zip(steady, frames, strict=True))
    assert (steady[-1][:, :40] != made[-1][:, :40]).any()


def test_sixteen_bits_are_held_as_still_as_eight() -> None:
    frames = scene(0, 6)
    made = shimmering(frames)
    deep = [np.uint16(frame) * 257 for frame in frames], [np.uint16(frame) * 257 for frame in made]
    eight, sixteen = steadied(frames, made, 0.7)[-1], steadied(*deep, 0.7)[-1]
    assert sixteen.dtype == np.uint16
    assert np.abs(sixteen / 257 - eight).max() <= 1


def test_a_frame_larger_than_the_working_size_keeps_its_own_detail() -> None:
    frames = [cv2.resize(frame, (1024, 768), interpolation=cv2.INTER_NEAREST) for frame in scene(0, 3)]
    made = [
        np.uint8(np.clip(frame.astype(int) + level, 0, 255)) for frame, level in zip(frames, (0, 30, 0), strict=True)
    ]
    steady = steadied(frames, made, 0.5)
    # A flicker of the whole frame is halved, and nothing else is touched.
    inner = np.s_[100:-100, 100:-100]
    moved = steady[1].astype(int) - frames[1].astype(int)
    assert 10 < np.median(moved[inner]) < 25
    assert np.percentile(np.abs(moved - np.median(moved))[inner], 95) <= 4


@pytest.fixture
def tiny_model(models_folder: Path, file_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file_model(models_folder, "horse", "zebra")


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.slow
def test_a_stopped_video_ends_like_one_that_was_not(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=300)
    cgpipe.translate_video(clip, tmp_path / "whole.mp4", to="zebra", steady=0.7)
    cgpipe.translate_video(clip, tmp_path / "without.mp4", to="zebra")
    written = 0

    def stop(count: int) -> None:
        nonlocal written
        written += count
        if written > 260:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cgpipe.translate_video(clip, tmp_path / "out.mp4", to="zebra", steady=0.7, on_frames=stop)
    report = cgpipe.translate_video(clip, tmp_path / "out.mp4", to="zebra", steady=0.7)
    assert report.resumed > 0
    assert report.frames == 300
    whole = packets_of(tmp_path / "whole.mp4", "video")
    assert packets_of(tmp_path / "out.mp4", "video") == whole
    assert packets_of(tmp_path / "without.mp4", "video") != whole


@pytest.mark.usefixtures("tiny_model")
def test_another_steadiness_translates_again(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=4)
    for steady, skipped in ((0.5, False), (0.5, True), (0.0, False)):
        report = cgpipe.translate_video(clip, tmp_path / "out.mp4", to="zebra", steady=steady)
        assert report.skipped is skipped
