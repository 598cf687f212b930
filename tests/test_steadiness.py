"""How still a video holds: the measure against drawn scenes whose motion is known."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from clips import make_clip
from shell import invoke

from cgpipe.engine.flow import agreement, flow_between, warped
from cgpipe.errors import DataError, MediaError
from cgpipe.evaluation import steadiness
from cgpipe.evaluation.evaluate import evaluate
from cgpipe.evaluation.steadiness import measure_frames, to_markdown
from cgpipe.models import find_model, load_model

Pixels = npt.NDArray[np.uint8]
SPEED = 2
"""Pixels a frame."""


def texture(width: int = 240, height: int = 128) -> Pixels:
    """Smooth noise in colour, of full contrast."""
    noise = np.random.default_rng(0).standard_normal((height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.uint8(np.clip(128 + 55 * smooth / smooth.std(), 0, 255))


def panned(count: int = 5) -> list[Pixels]:
    """A camera that moves to the right over a texture."""
    whole = texture()
    return [np.ascontiguousarray(whole[:, SPEED * index : SPEED * index + 200]) for index in range(count)]


def blinking(pixels: Pixels, amplitude: int, seed: list[int]) -> Pixels:
    """The picture with noise of its own, every pixel ``amplitude`` levels up or down."""
    seed[0] += 1
    signs = np.random.default_rng(seed[0]).choice([-amplitude, amplitude], pixels.shape[:2])[..., None]
    return np.uint8(np.clip(pixels.astype(int) + signs, 0, 255))


def test_the_flow_is_the_motion_of_the_scene() -> None:
    first, second = panned(2)
    flow = flow_between(second, first)
    inner = flow[16:-16, 16:-16]
    assert np.abs(inner - (SPEED, 0)).mean() < 0.1
    assert np.abs(warped(first, flow) - second)[16:-16, 16:-16].mean() < 1
    # What has just come in at the right is nowhere in the frame before.
    agree = agreement(flow, flow_between(first, second))
    assert agree[16:-16, 16:-16].mean() > 0.99
    assert not agree[:, -1].any()


def test_what_moves_with_the_scene_has_no_warping_error_beyond_the_sources() -> None:
    frames = panned()
    itself = measure_frames(lambda pixels: pixels, frames)
    assert itself.warping_error == itself.source_warping_error < 1
    assert itself.excess == 0
    assert itself.sharpness == itself.source_sharpness
    negative = measure_frames(lambda pixels: 255 - pixels, frames)
    assert negative.warping_error == pytest.approx(itself.warping_error, rel=0.01)


def test_noise_is_measured_at_its_size() -> None:
    seed = [0]
    flat = [np.full((96, 128, 3), 128, np.uint8)] * 9
    found = measure_frames(lambda pixels: blinking(pixels, 10, seed), flat)
    # Two pictures of it differ by 0 or 20 levels, at half of the places each.
    assert found.warping_error == pytest.approx(10, abs=0.5)
    assert found.source_warping_error == 0
    assert found.still == 1
    assert found.visible == pytest.approx(0.5, abs=0.03)
    assert found.glaring == 0
    assert measure_frames(lambda pixels: blinking(pixels, 11, seed), flat).glaring == pytest.approx(0.5, abs=0.03)


def test_a_grid_that_stays_where_it_is_while_the_scene_moves_is_an_error() -> None:
    grid = np.uint8(20 + 20 * np.sin(np.arange(200) * 2 * np.pi / 8))[None, :, None]
    stuck = measure_frames(lambda pixels: cv2.add(pixels // 2, np.broadcast_to(grid, pixels.shape).copy()), panned())
    moving = measure_frames(lambda pixels: cv2.add(pixels // 2, pixels // 4), panned())
    # Moved by a quarter of its period, a sine of 20 levels differs by 18 on average.
    assert stuck.warping_error == pytest.approx(18, abs=2)
    assert moving.warping_error < 1


def test_detail_that_stays_where_it_is_when_a_frame_is_shifted_is_stuck() -> None:
    frames = [
        cv2.add(frame // 2, np.uint8(np.random.default_rng(1).integers(0, 60, frame.shape))) for frame in panned()
    ]
    checks = np.uint8(30 * (np.indices(frames[0].shape[:2]).sum(axis=0) % 4 > 1))[..., None].repeat(3, axis=2)
    stuck = measure_frames(lambda pixels: cv2.add(pixels, checks), frames).stuck
    assert stuck > 0.6
    assert measure_frames(lambda pixels: cv2.add(pixels, checks // 3), frames).stuck == pytest.approx(stuck, abs=0.1)
    assert measure_frames(lambda pixels: 255 - pixels, frames).stuck < 1e-6
    assert measure_frames(lambda pixels: pixels, frames).stuck == 0
    both = measure_frames(lambda pixels: cv2.add(255 - pixels, checks), frames).stuck
    assert 0.02 < both < 0.6 * stuck


def test_where_the_source_itself_jumps_counts_little() -> None:
    frames = panned()
    broken = [frame.copy() for frame in frames]
    for index in (1, 3):
        broken[index][32:64, 32:96] = 255 - broken[index][32:64, 32:96]
    before, after = (measure_frames(lambda pixels: pixels, clip) for clip in (frames, broken))
    assert after.source_warping_error < before.source_warping_error + 2


def test_one_frame_is_too_few() -> None:
    with pytest.raises(DataError, match="at least two"):
        measure_frames(lambda pixels: pixels, panned(1))


def test_the_command_measures_a_clip_alone_and_records_it(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", count=6)
    found = find_model(file="horse2zebra-fast")
    model = tmp_path / "copy.safetensors"
    model.write_bytes(found.path.read_bytes())
    arguments = ["evaluate", str(model), "--video", str(clip), "--size", "64", "--record", "-o", str(tmp_path / "out")]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert "| clip.mp4, 6 frames at 96x64 |" in result.output
    values = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert values["videos"][0]["frames"] == 6
    assert "kid" not in str(values)
    quality = load_model(model).card.quality
    assert quality["video clip.mp4 at 64"]["frames"] == 6
    assert quality["video clip.mp4 at 64"]["warping_error_of_255"] == round(values["videos"][0]["warping_error"], 2)
    assert set(load_model(found.path).card.quality) - set(quality) == set()


def test_a_clip_is_reduced_and_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steadiness, "FRAMES", 4)
    clip = make_clip(tmp_path / "clip.mp4", count=12)
    report = evaluate("horse2zebra-fast", videos=[clip, clip], size=32)
    assert report.evaluation is None
    assert [(row.width, row.height) for row in report.videos] == [(48, 32)] * 2
    assert to_markdown(report.videos).count("clip.mp4") == 2


def test_what_is_no_clip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no clip")
    with pytest.raises(MediaError):
        evaluate("horse2zebra-fast", videos=[tmp_path / "clip.mp4"])
