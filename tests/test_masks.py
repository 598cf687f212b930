"""Masks: what they let through, where they are found, and what happens where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from clips import make_clip
from PIL import Image
from shell import invoke

import cgpipe
from cgpipe.errors import MediaError, UsageError
from cgpipe.media.pictures.masks import PictureMasks, fit, read_mask

pytestmark = pytest.mark.usefixtures("zebra_model")


def pixels(height: int = 60, width: int = 81, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(top // 4, 3 * top // 4, (height, width, 3), dtype=dtype)


def half(height: int = 60, width: int = 81) -> np.ndarray:
    """White on the left."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


def save(path: Path, values: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def load(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


# --- what a mask lets through --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["full", 24])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_black_keeps_every_bit_and_white_is_the_whole_translation(dtype: type, size: Any) -> None:
    translate = cgpipe.Translator.find("zebra", size=size, precision="fp32")
    original, mask = pixels(dtype=dtype), half()
    masked, whole = translate(original, mask), translate(original)
    assert masked.dtype == dtype
    np.testing.assert_array_equal(masked[:, 40:], original[:, 40:])
    assert np.abs(masked[:, :36].astype(int) - whole[:, :36]).max() <= 1
    assert np.abs(whole[:, :36].astype(int) - original[:, :36]).mean() > 0.02 * np.iinfo(dtype).max


def test_grey_lets_its_share_through() -> None:
    translate = cgpipe.Translator.find("zebra", precision="fp32")
    original = pixels()
    whole = translate(original).astype(int) - original
    shared = translate(original, np.full((60, 81), 128, np.uint8)).astype(int) - original
    np.testing.assert_allclose(shared, whole * 128 / 255, atol=1.01)


def test_a_stack_has_a_mask_for_all() -> None:
    translate = cgpipe.Translator.find("zebra", precision="fp32")
    stack = np.stack([pixels(seed=1), pixels(seed=2)])
    masked = translate(stack, half())
    np.testing.assert_array_equal(masked[:, :, 40:], stack[:, :, 40:])
    assert (masked[:, :, :36] != stack[:, :, :36]).any((1, 2, 3)).all()


def test_a_hard_edge_becomes_soft_inside_the_white_area() -> None:
    mask = np.zeros((1000, 1000), np.uint8)
    mask[:, :500] = 255
    soft = fit(mask, 1000, 1000)[500]
    assert not soft[500:].any()
    assert (soft[:490] == 255).all()
    assert (np.diff(soft[485:505].astype(int)) <= 0).all()
    assert len(set(soft[490:500])) == 10


def test_a_slope_of_grey_stays_nearly_as_it_is() -> None:
    slope = np.tile(np.linspace(0, 255, 400).round().astype(np.uint8), (300, 1))
    assert np.abs(fit(slope, 300, 400).astype(int) - slope).max() <= 6


def test_what_is_nearly_black_or_white_counts_as_such() -> None:
    assert set(np.unique(fit(np.full((20, 20), 3, np.uint8), 20, 20))) == {0}
    assert set(np.unique(fit(np.full((20, 20), 252, np.uint8), 20, 20))) == {255}


@pytest.mark.parametrize(("height", "width"), [(30, 40), (90, 121), (1, 1)])
def test_a_mask_of_another_size_is_brought_to_the_pictures(height: int, width: int) -> None:
    assert (fit(np.full((height, width), 255, np.uint8), 60, 81 if width > 1 else 60) == 255).all()


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.zeros((81, 60), np.uint8), MediaError, "60x81 pixels and the picture 81x60"),
        (np.zeros((60, 81, 3), np.uint8), ValueError, "height, width"),
        (np.zeros((60, 81), np.float32), TypeError, "uint8"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(mask: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cgpipe.Translator.find("zebra")(pixels(), mask)


def test_four_channels_without_a_mask_are_no_picture() -> None:
    with pytest.raises(ValueError, match="height, width, 3"):
        cgpipe.Translator.find("zebra")(np.zeros((8, 8, 4), np.uint8))


# --- where masks are found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m.png", "m.jpg", "m.webp", "m.bmp", "m.tiff"])
def test_every_picture_format_can_be_a_mask(tmp_path: Path, name: str) -> None:
    mask = read_mask(save(tmp_path / name, half(64, 96)))
    assert np.abs(fit(mask, 64, 96).astype(int) - fit(half(64, 96), 64, 96)).max() <= 8


def test_masks_of_16_bits_with_opacity_or_on_their_side(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), half().astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png"), half())
    white = np.full((60, 81, 3), 255, np.uint8)
    save(tmp_path / "cut.png", np.dstack([white, half()]))
    np.testing.assert_array_equal(read_mask(tmp_path / "cut.png"), half())
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    save(tmp_path / "side.png", np.ascontiguousarray(np.rot90(half())), exif=exif.tobytes())
    np.testing.assert_array_equal(read_mask(tmp_path / "side.png"), half())


def test_a_folder_has_a_mask_of_the_same_name_for_each(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png", "scan.v2.png"):
        save(tmp_path / "in" / name, pixels(seed=len(name)))
    save(tmp_path / "masks/a.png", half())
    save(tmp_path / "masks/sub/b.BMP", half()[:, ::-1].copy())
    save(tmp_path / "masks/scan.v2.jpeg", half(), quality=95)
    report = cgpipe.translate_folder(tmp_path / "in", tmp_path / "out", to="zebra", mask=tmp_path / "masks")
    assert (report.translated, report.failures) == (3, [])
    for name in ("a.png", "scan.v2.png", "sub/b.png"):
        change = np.abs(load(tmp_path / "out" / name) - load(tmp_path / "in" / name)).max((0, 2))
        left, right = change[:30], change[-30:]
        assert not (left if "sub" in name else right).any()
        assert (right if "sub" in name else left).any()


def test_of_several_folders_each_counts_as_part_of_the_name(tmp_path: Path) -> None:
    save(tmp_path / "one/a.png", pixels())
    save(tmp_path / "two/a.png", pixels())
    save(tmp_path / "masks/one/a.png", half())
    save(tmp_path / "masks/two/a.png", np.zeros((60, 81), np.uint8))
    inputs = [tmp_path / "one", tmp_path / "two"]
    assert cgpipe.translate_folder(inputs, tmp_path / "out", to="zebra", mask=tmp_path / "masks").translated == 2
    assert (load(tmp_path / "out/one/a.png") != pixels()).any()
    assert (load(tmp_path / "out/two/a.png") == pixels()).all()


def test_a_picture_on_its_side_has_an_upright_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    save(tmp_path / "in/a.png", np.ascontiguousarray(np.rot90(pixels())), exif=exif.tobytes())
    save(tmp_path / "mask.png", half())
    cgpipe.translate_folder(tmp_path / "in", tmp_path / "out", to="zebra", mask=tmp_path / "mask.png")
    result = load(tmp_path / "out/a.png")
    assert (result[:, 40:] == pixels()[:, 40:]).all()
    assert (result[:, :36] != pixels()[:, :36]).any()


def test_opacity_and_16_bits_are_kept_under_a_mask(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    deep = np.dstack([pixels(dtype=np.uint16), pixels(dtype=np.uint16)[..., :1]])
    cv2.imwrite(str(tmp_path / "in/a.png"), deep)
    save(tmp_path / "mask.png", half())
    cgpipe.translate_folder(tmp_path / "in", tmp_path / "out", to="zebra", mask=tmp_path / "mask.png")
    result = cv2.imread(str(tmp_path / "out/a.png"), cv2.IMREAD_UNCHANGED)
    assert result is not None
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result[..., 3], deep[..., 3])
    np.testing.assert_array_equal(result[:, 40:], deep[:, 40:])
    assert (result[:, :36, :3] != deep[:, :36, :3]).any()


def test_a_picture_without_a_fitting_mask_fails_and_stops_nothing(tmp_path: Path) -> None:
    for name in ("a.png", "none.png", "shape.png", "broken.png"):
        save(tmp_path / "in" / name, pixels())
    save(tmp_path / "masks/a.png", half())
    save(tmp_path / "masks/shape.png", half(50, 20))
    (tmp_path / "masks/broken.png").write_text("I am no picture")
    report = cgpipe.translate_folder(tmp_path / "in", tmp_path / "out", to="zebra", mask=tmp_path / "masks")
    assert report.translated == 1
    reasons = {failure.input.name: failure.reason for failure in report.failures}
    assert f"There is no mask {tmp_path / 'masks' / 'none'}.png" in reasons["none.png"]
    assert "20x50" in reasons["shape.png"]
    assert "not a picture" in reasons["broken.png"]
    assert report.exit_code == 3
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["a.png"]


def test_one_mask_that_cannot_be_read_is_an_error_before_the_work(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", pixels())
    (tmp_path / "broken.png").write_text("I am no picture")
    with pytest.raises(MediaError, match=r"broken\.png cannot be used: It is not a picture"):
        cgpipe.translate_folder(tmp_path / "in", to="zebra", mask=tmp_path / "broken.png")
    with pytest.raises(UsageError, match="There is no mask"):
        cgpipe.translate_folder(tmp_path / "in", to="zebra", mask=tmp_path / "missing")
    assert not (tmp_path / "in-zebra").exists()


@pytest.mark.parametrize(("workers", "batch"), [(0, 1), (2, 1), (1, 3)])
def test_workers_and_batches_change_nothing(tmp_path: Path, workers: int, batch: int) -> None:
    for index in range(4):
        save(tmp_path / f"in/{index}.png", pixels(seed=index))
        save(tmp_path / f"masks/{index}.png", np.roll(half(), 10 * index, 1))
    for name, options in (("one", {}), ("other", {"workers": workers, "batch_size": batch})):
        cgpipe.translate_folder(tmp_path / "in", tmp_path / name, to="zebra", mask=tmp_path / "masks", **options)  # type: ignore[arg-type]
    for index in range(4):
        one, other = load(tmp_path / f"one/{index}.png"), load(tmp_path / f"other/{index}.png")
        assert np.abs(one - other).max() <= 1


def test_another_mask_makes_what_is_done_stale(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, pixels())
        save(tmp_path / "masks" / name, half())

    def translated(mask: Path | None) -> int:
        return cgpipe.translate_folder(tmp_path / "in", to="zebra", mask=mask).translated

    assert [translated(None), translated(tmp_path / "masks"), translated(tmp_path / "masks")] == [2, 2, 0]
    save(tmp_path / "masks/a.png", half()[:, ::-1].copy())
    assert [translated(tmp_path / "masks"), translated(tmp_path / "masks")] == [1, 0]
    assert [translated(tmp_path / "masks/a.png"), translated(tmp_path / "masks/a.png")] == [2, 0]
    save(tmp_path / "masks/a.png", half())
    assert translated(tmp_path / "masks/a.png") == 2


# --- videos --------------------------------------------------------------------------------------------------------


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame.pixels for frame in cgpipe.VideoSource(path)]).astype(int)


def moving_mask(path: Path, count: int, **options: Any) -> Path:
    """White columns before ``index * 8``, in a video of 96x64."""
    columns = np.arange(96)[None, :, None]
    rows = [np.where(columns < 8 * index, 255, 0).astype(np.uint8) for index in range(count)]
    grey = [np.ascontiguousarray(np.broadcast_to(row, (64, 96, 3))) for row in rows]
    return make_clip(path, pictures=grey, count=count, **options)


def change_by_column(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(before - after).mean((1, 3))


def test_a_grey_video_confines_a_video_frame_by_frame(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=12, codec="ffv1", pix_fmt="bgr0")
    mask = moving_mask(tmp_path / "mask.mp4", 12)
    output = tmp_path / "out.mkv"
    cgpipe.translate_video(clip, output, to="zebra", mask=mask, codec="ffv1", pix_fmt="bgr0")
    change = change_by_column(frames_of(clip), frames_of(output))
    for index in range(12):
        assert not change[index, 8 * index + 8 :].any()
        assert (change[index, : max(0, 8 * index - 8)] > 0).all()


def test_one_picture_confines_a_whole_video_and_stands_upright(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=4, rotation=90)
    mask = save(tmp_path / "mask.png", half(96, 64))
    output = tmp_path / "out.mkv"
    video: Any = {"mask": mask, "codec": "ffv1", "pix_fmt": "bgr0", "side_by_side": True}
    cgpipe.translate_video(clip, output, to="zebra", **video)
    both = frames_of(output)
    change = change_by_column(both[:, :, :64], both[:, :, 64:])
    assert not change[:, 32:].any()
    assert (change[:, :28] > 0).all()


def test_the_part_of_a_video_has_that_part_of_its_mask(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=12, codec="ffv1", pix_fmt="bgr0")
    mask = moving_mask(tmp_path / "mask.mp4", 12)
    video: Any = {"mask": mask, "codec": "ffv1", "pix_fmt": "bgr0", "start": 0.24, "end": 0.4}
    cgpipe.translate_video(clip, tmp_path / "out.mkv", to="zebra", **video)
    change = change_by_column(frames_of(clip)[6:10], frames_of(tmp_path / "out.mkv"))
    for index in range(4):
        assert not change[index, 8 * (6 + index) + 8 :].any()
        assert change[index, 8 * (6 + index) - 8] > 0


def test_pictures_in_a_folder_confine_pictures_in_a_folder(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path / f"frames/{index}.png", pixels(seed=index))
        save(tmp_path / f"masks/{index}.png", half() if index else 0 * half())
    result = run(tmp_path / "frames", tmp_path / "out", "--fps", 25, "--mask", tmp_path / "masks")
    assert result.exit_code == 0, result.output
    changed = [(load(tmp_path / f"out/00000{i + 1}.png") != pixels(seed=i)).any() for i in range(3)]
    assert changed == [False, True, True]


def run(*arguments: object) -> Any:
    return invoke("video", "--to", "zebra", *arguments)


def test_a_mask_that_does_not_fit_a_video_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=12)
    (tmp_path / "text.png").write_text("I am no picture")
    for mask, code, message in (
        (moving_mask(tmp_path / "short.mp4", 6), 1, "has 6 frames and the video 12"),
        (moving_mask(tmp_path / "shorter by one.mp4", 11), 1, "ends before the video does"),
        (make_clip(tmp_path / "tall.mp4", count=12, size=(64, 96)), 1, "64x96 pixels and the picture 96x64"),
        (save(tmp_path / "tall.png", half(96, 64)), 1, "64x96 pixels and the picture 96x64"),
        (tmp_path / "text.png", 1, "not a picture"),
        (tmp_path / "missing.mp4", 2, "There is no mask"),
    ):
        result = run(clip, tmp_path / "out.mp4", "--mask", mask)
        assert (result.exit_code, message in result.output) == (code, True), result.output
        assert not (tmp_path / "out.mp4").exists()


def test_another_mask_makes_a_video_stale_and_an_interrupted_job_begin_anew(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=12)
    mask = moving_mask(tmp_path / "mask.mp4", 12)
    output = tmp_path / "out.mp4"

    def skipped(mask: Path | None) -> bool:
        return cgpipe.translate_video(clip, output, to="zebra", mask=mask).skipped

    assert [skipped(None), skipped(mask), skipped(mask)] == [False, False, True]
    shutil.copy(make_clip(tmp_path / "white.mp4", pictures=[np.full((64, 96, 3), 255, np.uint8)] * 12, count=12), mask)
    assert [skipped(mask), skipped(mask)] == [False, True]


def test_an_interrupted_video_goes_on_with_the_right_masks(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mkv", count=12, codec="ffv1", pix_fmt="bgr0")
    mask = moving_mask(tmp_path / "mask.mp4", 12)
    pattern = tmp_path / "frames" / "%03d.png"

    written = 0

    def stop(frames: int) -> None:
        nonlocal written
        written += frames
        if written > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cgpipe.translate_video(clip, pattern, to="zebra", mask=mask, on_frames=stop)
    report = cgpipe.translate_video(clip, pattern, to="zebra", mask=mask)
    assert report.resumed >= 3, "fewer would not tell the mask of one frame from that of another"
    after = np.stack([load(path) for path in sorted((tmp_path / "frames").glob("*.png"))])
    change = change_by_column(frames_of(clip), after)
    for index in range(12):
        assert not change[index, 8 * index + 8 :].any()
        assert (change[index, : max(0, 8 * index - 8)] > 0).all()


def test_the_folder_of_masks_can_be_asked_for_one(tmp_path: Path) -> None:
    path = save(tmp_path / "masks/a.png", half())
    masks = PictureMasks(tmp_path / "masks")
    assert masks.path_of(Path("a.jpg")) == path
    with pytest.raises(MediaError, match="There is no mask"):
        masks.path_of(Path("b.png"))
