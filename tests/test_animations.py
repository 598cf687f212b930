"""GIF, WebP and PNG that move, among the pictures of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageSequence

from cgpipe import translate_folder

SIZE = (48, 32)
TIMES = (100, 300, 1200)
NAMES = ("a.gif", "b.webp", "c.png")


@pytest.fixture
def folder(tmp_path: Path, zebra_model: Path) -> Path:
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "green", "blue")]
    (tmp_path / "photos").mkdir()
    for name in NAMES:
        target = tmp_path / "photos" / name
        frames[0].save(target, save_all=True, append_images=frames[1:], duration=list(TIMES), loop=0, lossless=True)
    frames[0].save(tmp_path / "photos" / "still.png")
    return tmp_path / "photos"


def test_what_moves_in_a_folder_still_moves_when_it_is_translated(folder: Path) -> None:
    report = translate_folder(folder, to="zebra")
    assert (report.translated, report.failures) == (4, [])
    for name in NAMES:
        with Image.open(report.outputs[0] / name) as made:
            assert (made.size, getattr(made, "n_frames", 1)) == (SIZE, 3), name
            seen = []
            for index in range(3):
                made.seek(index)
                made.load()
                seen.append(round(made.info["duration"]))
            assert seen == list(TIMES), name
    again = translate_folder(folder, to="zebra")
    assert (again.translated, again.skipped) == (0, 4)


def test_an_animation_whose_name_looks_like_a_numbered_pattern_stays_one_file(folder: Path) -> None:
    (folder / "a.gif").rename(folder / "100%done.gif")
    report = translate_folder(folder, to="zebra")
    assert (report.translated, report.failures) == (4, [])
    assert sorted(path.name for path in report.outputs[0].glob("[!.]*")) == [
        "100%done.gif",
        "b.webp",
        "c.png",
        "still.png",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_an_animation_is_translated_where_its_mask_is_white(folder: Path, name: str) -> None:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[:, :24] = 255
    Image.fromarray(mask).save(folder.with_name("mask.png"))
    report = translate_folder(folder / name, folder.with_name(name), to="zebra", mask=folder.with_name("mask.png"))
    assert (report.translated, report.failures) == (1, [])
    change = np.abs(frames_of(folder.with_name(name)) - frames_of(folder / name)).max(-1)
    assert (change[:, :, :24].mean((1, 2)) > 20).all()
    # Next to what changed, GIF lacks colours and WebP blurs them.
    assert change[:, :, 24 if name.endswith(".png") else 32 :].max() <= (0 if name.endswith(".png") else 4)


def frames_of(path: Path) -> np.ndarray:
    """All pictures of an animation, (N, H, W, 3)."""
    with Image.open(path) as animation:
        return np.stack([np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(animation)])


@pytest.mark.parametrize("repeats", [None, 0, 3], ids=["once", "endlessly", "three times more"])
@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_an_animation_plays_as_often_as_before(
    tmp_path: Path, zebra_model: Path, suffix: str, repeats: int | None
) -> None:
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "green", "blue")]
    source = tmp_path / f"a.{suffix}"
    asked = {} if repeats is None else {"loop": repeats}
    frames[0].save(source, save_all=True, append_images=frames[1:], duration=100, lossless=True, **asked)
    report = translate_folder(source, tmp_path / f"out.{suffix}", to="zebra")
    assert (report.translated, report.failures) == (1, [])
    with Image.open(source) as before, Image.open(tmp_path / f"out.{suffix}") as after:
        assert after.info.get("loop") == before.info.get("loop")


def test_an_animation_that_cannot_move_in_another_format_fails_alone(folder: Path) -> None:
    report = translate_folder(folder, to="zebra", format="jpg", output=folder.with_name("out"), recursive=False)
    assert report.translated == 1
    assert len(report.failures) == 3
    assert all("animation" in failure.reason for failure in report.failures)


def test_a_folder_of_animations_alone_gets_its_folder_and_a_long_profile_hides_no_frame(
    folder: Path, zebra_model: Path
) -> None:
    alone = folder / "alone"
    alone.mkdir()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = [Image.effect_noise(SIZE, 90).convert("RGB") for _ in TIMES]
    # What libav looks at first to tell a format ends before the chunk that says that a PNG is animated.
    hiding = bytes(range(256)) * 16 + np.random.default_rng(0).bytes(4096)
    frames[0].save(
        alone / "a.png", save_all=True, append_images=frames[1:], duration=list(TIMES), icc_profile=profile + hiding
    )
    report = translate_folder(alone, to="zebra", output=folder.with_name("out") / "deep")
    assert (report.translated, report.failures) == (1, [])
    with Image.open(folder.with_name("out") / "deep" / "a.png") as made:
        assert getattr(made, "n_frames", 1) == 3
