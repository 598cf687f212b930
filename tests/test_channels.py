"""Pictures of other channels than RGB: gray of 16 bits, RGBA, and TIFF stacks, through training and translation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from clips import make_clip
from PIL import Image
from runs import logged, make_recipe
from shell import invoke

from cgpipe.data.loading import Form, forms_of, load_pixels, to_network_range
from cgpipe.engine.export import export_model
from cgpipe.engine.translator import Translator
from cgpipe.errors import MediaError, UsageError
from cgpipe.evaluation.evaluator import Evaluator, load_picture
from cgpipe.evaluation.paired import PairedEvaluator, PairedFigures
from cgpipe.evaluation.record import record_pairs
from cgpipe.media.frames import Frame
from cgpipe.media.pictures.planes import read_planes
from cgpipe.media.pictures.read import read_picture
from cgpipe.media.pictures.write import write_picture
from cgpipe.media.video import VideoSource
from cgpipe.models import Model, ModelCard, load_model, save_model
from cgpipe.networks import build_generator
from cgpipe.pages.thumbnails import see
from cgpipe.training.config import TrainConfig, load_config

Array = npt.NDArray[np.unsignedinteger]
SIDE = 40


def smooth(seed: int, channels: int = 1, dtype: type[np.unsignedinteger] = np.uint16) -> Array:
    """Soft shapes of so many channels, all values used."""
    noise = np.random.default_rng(seed).random((5, 5, channels), np.float32)
    planes = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).reshape(SIDE, SIDE, channels)
    return (planes.clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


def write_gray(path: Path, seed: int) -> None:
    assert cv2.imwrite(str(path), smooth(seed))


def write_rgb(path: Path, seed: int) -> None:
    assert cv2.imwrite(str(path), smooth(seed, 3, np.uint8))


def write_rgba(path: Path, seed: int) -> None:
    Image.fromarray(smooth(seed, 4, np.uint8), "RGBA").save(path)


def write_pages(path: Path, seed: int) -> None:
    assert cv2.imwritemulti(str(path), list(np.moveaxis(smooth(seed, 5), 2, 0)))


def write_samples(path: Path, seed: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, smooth(seed, 5), photometric="minisblack", planarconfig="contig")


def make_sets(root: Path, first: Callable[[Path, int], None], second: Callable[[Path, int], None], suffix: str) -> Path:
    for name, write in (("trainA", first), ("trainB", second)):
        (root / name).mkdir(parents=True)
        for index in range(3):
            write(root / name / f"{index}{suffix}", index + 10 * (name == "trainB"))
    return root


def train(tmp_path: Path, data: Path, *channels: int, **changed: object) -> Path:
    """A run of a step or two; the folder of its models."""
    settings = {"epochs": 1, "decay_epoch": 1, "stages": [], "source": "ct", "target": "mr", **changed}
    recipe, run = make_recipe(tmp_path / "recipe.toml", data, **settings), tmp_path / "run"
    ends = ["--input-channels", channels[0], "--output-channels", channels[1]]
    folders = ["--checkpoint-dir", run, "--results-dir", run / "results"]
    result = invoke("train", "--config", recipe, *ends, *folders, "--no-publish")
    assert result.exit_code == 0, result.output
    return run


NARROW: Mapping[str, Mapping[str, object]] = {
    "compact": {"channels": 16, "blocks": 1, "deep_channels": 16, "deep_blocks": 1},
    "resnet": {"ngf": 8, "blocks": 1},
    "unet": {"ngf": 8, "levels": 5},
}


def network(taken: int, given: int, architecture: str = "compact") -> Model:
    """A model of random weights for pictures of so many channels."""
    torch.manual_seed(0)
    settings = {"in_channels": taken, "out_channels": given, **NARROW[architecture]}
    generator = build_generator(architecture, **settings)
    for weight in generator.parameters():
        torch.nn.init.normal_(weight, 0, 0.05)
    card = ModelCard(
        architecture=architecture,
        settings=settings,
        source="ct",
        target="mr",
        training_size=None,
        made_by={},
        quality={},
        licence="unknown",
    )
    return Model(card, generator.eval().requires_grad_(False))


def test_what_is_recorded_of_a_gray_model_leaves_its_network_gray(tmp_path: Path) -> None:
    model, path = network(1, 1), tmp_path / "ct2mr.safetensors"
    figures = PairedFigures(
        inputs="a", reference="b", count=1, size=32, l1=1, psnr=2, ssim=0.5, unchanged_l1=1, unchanged_psnr=2
    )
    save_model(path, model)
    record_pairs(path, figures)
    after = load_model(path, as_rgb=False)
    assert after.generator.channels == (1, 1) and after.card.settings == model.card.settings
    assert after.card.quality["a in pairs at 32"]["psnr"] == 2


@pytest.mark.parametrize("part", ["signed_skip", "attention"])
def test_a_gray_network_of_more_parts_gives_the_same_on_rgb(part: str, tmp_path: Path) -> None:
    model = network(1, 1)
    settings = {**model.card.settings, part: True}
    generator = build_generator("compact", **settings)
    save_model(tmp_path / "m.safetensors", Model(replace(model.card, settings=settings), generator))
    gray = load_model(tmp_path / "m.safetensors", as_rgb=False).generator
    in_rgb = load_model(tmp_path / "m.safetensors").generator
    picture = torch.rand(1, 1, 32, 32) * 2 - 1
    expected = gray(picture).expand(-1, 3, -1, -1)
    assert torch.allclose(in_rgb(picture.expand(-1, 3, -1, -1)), expected, atol=1e-5)


# -- reading and writing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_gray_of_16_bits_is_read_as_one_plane_with_every_value(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    write_gray(path, 0)
    frame = read_planes(path, 1)
    np.testing.assert_array_equal(frame.pixels, smooth(0))
    exact = (smooth(0).astype(np.float64) / 65535 * 2 - 1).transpose(2, 0, 1)
    np.testing.assert_allclose(to_network_range(load_pixels(path, None, 1)), exact, atol=1e-6)


def test_rgb_is_seen_as_its_luma_by_a_network_on_gray(tmp_path: Path) -> None:
    write_rgb(tmp_path / "photo.png", 0)
    blue, green, red = np.moveaxis(smooth(0, 3, np.uint8).astype(float), 2, 0)
    gray = read_planes(tmp_path / "photo.png", 1).pixels[..., 0]
    np.testing.assert_allclose(gray, 0.299 * red + 0.587 * green + 0.114 * blue, atol=1)


def test_a_picture_without_opacity_is_opaque_to_a_network_on_four_channels(tmp_path: Path) -> None:
    write_rgb(tmp_path / "photo.png", 0)
    assert (read_planes(tmp_path / "photo.png", 4).pixels[..., 3] == 255).all()


@pytest.mark.parametrize("write", [write_pages, write_samples])
def test_a_stack_comes_back_as_it_was_written(tmp_path: Path, write: Callable[[Path, int], None]) -> None:
    write(tmp_path / "stack.tif", 0)
    frame = read_planes(tmp_path / "stack.tif", 5)
    np.testing.assert_array_equal(frame.pixels, smooth(0, 5))
    write_picture(tmp_path / "copy.tif", frame.pixels, frame.origin)
    again = read_planes(tmp_path / "copy.tif", 5)
    np.testing.assert_array_equal(again.pixels, frame.pixels)
    assert again.origin.stack == frame.origin.stack


def test_a_fourth_channel_that_is_no_opacity_is_kept_as_it_is(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    infrared = smooth(0, 4)
    tifffile.imwrite(tmp_path / "field.tif", infrared, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_planes(tmp_path / "field.tif", 4).pixels, infrared)


def test_tags_of_a_stack_are_kept(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(smooth(0, 5), 2, 0)]
    description = {270: "five stains"}
    pages[0].save(tmp_path / "s.tif", save_all=True, append_images=pages[1:], dpi=(300, 300), tiffinfo=description)
    frame = read_planes(tmp_path / "s.tif", 5)
    write_picture(tmp_path / "copy.tif", frame.pixels, frame.origin)
    with Image.open(tmp_path / "copy.tif") as copy:
        assert copy.n_frames == 5
        assert copy.info["dpi"] == (300, 300)
        assert copy.tag_v2[270] == "five stains"


@pytest.mark.parametrize(
    ("write", "channels", "reason"),
    [
        (write_gray, 5, "1 channel (gray), but 5 are needed"),
        (write_rgb, 5, "3 channels (RGB), but 5 are needed"),
        (write_pages, 4, "5 pages, but 4 channels are needed"),
        (write_pages, 1, "It holds 5 pictures"),
    ],
)
def test_a_picture_of_other_channels_is_refused(
    tmp_path: Path, write: Callable[[Path, int], None], channels: int, reason: str
) -> None:
    write(tmp_path / "picture.tif", 0)
    with pytest.raises(MediaError) as error:
        read_planes(tmp_path / "picture.tif", channels)
    assert reason in str(error.value)


@pytest.mark.parametrize("cut", [9, 60, 2000])
def test_a_stack_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    write_pages(tmp_path / "stack.tif", 0)
    (tmp_path / "stack.tif").write_bytes((tmp_path / "stack.tif").read_bytes()[:cut])
    with pytest.raises(MediaError):
        read_planes(tmp_path / "stack.tif", 5)


def test_gray_is_written_as_gray_where_the_format_can_and_without_a_profile_of_rgb(tmp_path: Path) -> None:
    for suffix, mode in ((".png", "I;16"), (".tif", "I;16"), (".jpg", "L"), (".webp", "RGB")):
        write_picture(tmp_path / f"x{suffix}", smooth(0))
        with Image.open(tmp_path / f"x{suffix}") as image:
            assert image.mode == mode
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png").pixels[..., :1], smooth(0))


def test_five_channels_are_written_as_tiff_alone(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="5 channels can be written as TIFF alone, not as PNG"):
        write_picture(tmp_path / "x.png", smooth(0, 5))


# -- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", [*NARROW])
@pytest.mark.parametrize("channels", [(1, 1), (1, 3), (3, 1)])
def test_a_model_of_gray_pictures_runs_on_rgb_with_the_same_result(
    tmp_path: Path, architecture: str, channels: tuple[int, int]
) -> None:
    own = network(*channels, architecture=architecture)
    save_model(tmp_path / "m.safetensors", own, dtype=torch.float32)
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.card.channels == channels
    assert loaded.generator.channels == (3, 3)
    gray = torch.rand(1, 1, 32, 32) * 2 - 1
    seen = gray if channels[0] == 1 else gray.expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        loaded.generator(gray.expand(-1, 3, -1, -1)), own.generator(seen).expand(-1, 3, -1, -1), atol=2e-4, rtol=0
    )


@pytest.mark.parametrize("channels", [(4, 4), (5, 5), (5, 2)])
def test_tiles_and_sizes_work_with_any_channels(channels: tuple[int, int]) -> None:
    model, taken = network(*channels), channels[0]
    picture = np.dstack([smooth(seed, 1) for seed in range(taken)])
    whole = Translator(model, size="full", precision="fp32")(picture)
    assert whole.shape == (SIDE, SIDE, channels[1])
    assert len(np.unique(whole)) > 256
    tiled = Translator(model, size="full", tile=24, precision="fp32")(picture)
    assert np.abs(tiled.astype(int) - whole.astype(int)).max() <= 8  # of 65535
    assert Translator(model, size=24, precision="fp32")(picture).shape == whole.shape


def test_strength_0_keeps_every_channel() -> None:
    picture = smooth(0, 5)
    np.testing.assert_array_equal(Translator(network(5, 5), strength=0, precision="fp32")(picture), picture)


def test_what_cannot_be_blended_is_refused() -> None:
    with pytest.raises(UsageError, match="1 channels of 5, which cannot be blended"):
        Translator(network(5, 1), strength=0.5)


def test_a_model_of_other_channels_refuses_rgb_arrays() -> None:
    with pytest.raises(UsageError, match="takes pictures of 5 channels, not of 3"):
        Translator(network(5, 5))(smooth(0, 3))


# -- from training to pictures ---------------------------------------------------------------------------------------


def test_16_bit_gray_from_training_to_translation(tmp_path: Path) -> None:
    data = make_sets(tmp_path / "data", write_gray, write_gray, ".png")
    for path in data.glob("*/2.png"):
        write_gray(path.with_suffix(".tif"), 7)
        path.unlink()
    run = train(tmp_path, data, 1, 1)
    assert load_model(run / "ct2mr.safetensors").card.settings == load_model(run / "mr2ct.safetensors").card.settings
    result = invoke("translate", data / "trainA", "--model", run / "ct2mr.safetensors", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for name in ("0.png", "2.tif"):
        made = cv2.imread(str(tmp_path / "out" / name), cv2.IMREAD_UNCHANGED)
        assert made.dtype == np.uint16
        assert made.shape == (SIDE, SIDE)
        assert len(np.unique(made)) > 256


@pytest.mark.slow
def test_rgba_from_training_to_translation(tmp_path: Path) -> None:
    data = make_sets(tmp_path / "data", write_rgba, write_rgba, ".png")
    run = train(tmp_path, data, 4, 4)
    write_rgb(data / "trainA" / "opaque.jpg", 3)
    result = invoke("translate", data / "trainA", "--model", run / "ct2mr.safetensors", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    model = load_model(run / "ct2mr.safetensors")
    with Image.open(tmp_path / "out" / "0.png") as made:
        assert made.mode == "RGBA"
        expected = Translator(model, precision="fp32")(smooth(0, 4, np.uint8))
        assert np.abs(np.array(made).astype(int) - expected.astype(int)).max() <= 1
    with Image.open(tmp_path / "out" / "opaque.jpg") as made:
        assert made.mode == "RGB"  # composited on white


def test_stacks_from_training_to_translation_and_one_wrong_file_is_only_that(tmp_path: Path) -> None:
    data = make_sets(tmp_path / "data", write_pages, write_pages, ".tif")
    run = train(tmp_path, data, 5, 5)
    write_rgb(data / "trainA" / "photo.png", 0)
    result = invoke("translate", data / "trainA", "--model", run / "ct2mr.safetensors", "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "3 channels (RGB), but 5 are needed" in result.output
    made = read_planes(tmp_path / "out" / "0.tif", 5).pixels
    assert made.dtype == np.uint16
    assert all(len(np.unique(made[..., channel])) > 256 for channel in range(5))


def test_a_student_of_stacks_has_the_channels_and_the_range_of_its_teacher(tmp_path: Path) -> None:
    for name in ("trainA", "trainB"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(2):
            planes = smooth(index, 5 if name == "trainA" else 2) // 16  # 12 of 16 bits
            assert cv2.imwritemulti(str(tmp_path / "data" / name / f"{index}.tif"), list(np.moveaxis(planes, 2, 0)))
    untold = network(5, 2)
    ranges = {"value_range": {"ct": [0, 4095], "mr": [0, 4095]}}
    save_model(tmp_path / "teacher.safetensors", Model(replace(untold.card, made_by=ranges), untold.generator))
    given: list[object] = ["distill", tmp_path / "teacher.safetensors", tmp_path / "data", "--student", "compact-xs"]
    given += ["--steps", 20, "--crop", 32, "--load-min", 32, "--load-max", 40, "--lr", 0.004, "--log-every", 1]
    given += ["--adversarial-weight", 0.01, "--ndf", 8]
    given += ["--checkpoint-dir", tmp_path / "run", "--results-dir", tmp_path / "run", "--threads", 1]
    result = invoke(*given)
    assert result.exit_code == 0, result.output
    assert "No features are compared" in result.output
    pixels = [line["pixels"] for line in logged(tmp_path / "run")]
    assert sum(pixels[-3:]) < 0.8 * sum(pixels[:3])
    card = load_model(tmp_path / "run" / "ct2mr-fast.safetensors").card
    assert (card.channels, card.made_by["value_range"]) == ((5, 2), ranges["value_range"])
    student = tmp_path / "run" / "ct2mr-fast.safetensors"
    assert invoke("translate", tmp_path / "data" / "trainA", "--model", student, "-o", tmp_path / "out").exit_code == 0
    made = read_planes(tmp_path / "out" / "0.tif", 2).pixels
    assert made.dtype == np.uint16 and 256 < made.max() <= 4095


@pytest.mark.slow
def test_gray_to_colour_from_training_to_translation(tmp_path: Path) -> None:
    data = make_sets(tmp_path / "data", write_gray, write_rgb, ".png")
    run = train(tmp_path, data, 1, 3, idt_coef=0.0)
    there, back = (load_model(run / f"{name}.safetensors") for name in ("ct2mr", "mr2ct"))
    assert (there.card.channels, back.card.channels) == ((1, 3), (3, 1))
    for source, model, mode in (("trainA", "ct2mr", 3), ("trainB", "mr2ct", 2)):
        out = tmp_path / model
        result = invoke("translate", data / source, "--model", run / f"{model}.safetensors", "-o", out)
        assert result.exit_code == 0, result.output
        assert cv2.imread(str(out / "0.png"), cv2.IMREAD_UNCHANGED).ndim == mode


def test_a_mask_keeps_every_channel_bit_for_bit(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_pages(tmp_path / "in" / "a.tif", 0)
    half = np.zeros((SIDE, SIDE), np.uint8)
    half[:, SIDE // 2 :] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), half)
    save_model(tmp_path / "m.safetensors", network(5, 5))
    given = ["--model", tmp_path / "m.safetensors", "-o", tmp_path / "out", "--mask", tmp_path / "mask.png"]
    assert invoke("translate", tmp_path / "in", *given, "--strength", 0.5).exit_code == 0
    made, before = read_planes(tmp_path / "out" / "a.tif", 5).pixels, smooth(0, 5)
    np.testing.assert_array_equal(made[:, : SIDE // 2], before[:, : SIDE // 2])
    assert (made[:, -4:] != before[:, -4:]).mean() > 0.9


def test_one_stain_out_of_five_is_gray_and_takes_no_mask(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_pages(tmp_path / "in" / "a.tif", 0)
    save_model(tmp_path / "m.safetensors", network(5, 1))
    given = [tmp_path / "in", "--model", tmp_path / "m.safetensors", "-o", tmp_path / "out"]
    assert invoke("translate", *given).exit_code == 0
    made = cv2.imread(str(tmp_path / "out" / "a.tif"), cv2.IMREAD_UNCHANGED)
    assert (made.shape, made.dtype) == ((SIDE, SIDE), np.uint16)
    refused = invoke("translate", *given, "--overwrite", "--mask", tmp_path / "out" / "a.tif")
    assert refused.exit_code == 2
    assert "which a mask cannot blend" in refused.output


def test_stacks_for_a_gray_picture_are_named_as_tiff(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_gray(tmp_path / "in" / "a.png", 0)
    save_model(tmp_path / "m.safetensors", network(1, 5))
    given = ["translate", tmp_path / "in", "--model", tmp_path / "m.safetensors", "-o", tmp_path / "out"]
    refused = invoke(*given)
    assert refused.exit_code == 1
    assert "5 channels can be written as TIFF alone" in refused.output
    assert invoke(*given, "--format", "tiff").exit_code == 0
    assert read_planes(tmp_path / "out" / "a.tif", 5).pixels.dtype == np.uint16


def test_a_video_is_translated_to_gray_but_not_by_a_model_of_stacks(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    make_clip(clip, count=2)
    save_model(tmp_path / "gray.safetensors", network(3, 1))
    made = invoke("video", clip, tmp_path / "gray.mp4", "--model", tmp_path / "gray.safetensors")
    assert made.exit_code == 0, made.output
    with VideoSource(tmp_path / "gray.mp4") as source:
        pixels = next(item.pixels for item in source if isinstance(item, Frame)).astype(int)
    assert np.abs(pixels - pixels[..., :1]).max() <= 4
    save_model(tmp_path / "stack.safetensors", network(5, 5))
    refused = invoke("video", clip, tmp_path / "no.mp4", "--model", tmp_path / "stack.safetensors")
    assert refused.exit_code == 2
    assert "Frames of a video are RGB, but this model makes pictures of 5 channels" in refused.output


@pytest.mark.parametrize("normalised", [False, True])
def test_a_model_of_any_channels_is_exported(tmp_path: Path, normalised: bool) -> None:
    exported = export_model(network(5, 2), tmp_path / "m.pt", "torchscript", with_normalisation=normalised)
    assert exported.error < 0.005


def test_12_of_16_bits_are_measured_in_the_range_of_training(tmp_path: Path) -> None:
    for name in ("in", "real"):
        (tmp_path / name).mkdir()
        for index in range(2):
            cv2.imwrite(str(tmp_path / name / f"{index}.png"), smooth(index) // 16)
    model = network(1, 1)
    ranges = {"value_range": {"ct": [0, 4095], "mr": [0, 4095]}}
    trained = Model(replace(model.card, made_by=ranges), model.generator)
    picture = load_picture(tmp_path / "in" / "0.png", SIDE, forms_of(trained)[0])
    np.testing.assert_allclose(picture[0], smooth(0)[..., 0] // 16 / 4095 * 2 - 1, atol=1e-6)
    evaluator = PairedEvaluator(tmp_path / "in", tmp_path / "real", size=SIDE, forms=forms_of(trained))
    assert evaluator.evaluate(lambda pictures: pictures).l1 == 0


def test_kid_of_stacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="KID, FID and classes are measured on gray"):
        Evaluator(tmp_path, tmp_path, forms=(Form(5), Form(5)))


def test_a_page_shows_a_stack(tmp_path: Path) -> None:
    write_pages(tmp_path / "a.tif", 0)
    np.testing.assert_array_equal(see(tmp_path / "a.tif").small, smooth(0, 5)[..., :3] >> 8)


# -- settings --------------------------------------------------------------------------------------------------------


def settings(**changed: object) -> TrainConfig:
    return load_config(None, changed)


def test_features_are_left_out_of_a_run_on_stacks() -> None:
    assert settings(input_channels=5, output_channels=5).feature_weight == 0
    assert settings(input_channels=1, output_channels=3).feature_weight > 0
    with pytest.raises(UsageError, match="feature_weight uses a network that sees gray"):
        settings(input_channels=5, output_channels=5, feature_weight=0.5)


@pytest.mark.parametrize("method", ["cut", "fastcut"])
def test_one_sided_training_needs_the_same_channels(method: str) -> None:
    settings(method=method, input_channels=1, output_channels=1)
    with pytest.raises(UsageError, match=f"{method} compares input and output by one network"):
        settings(method=method, input_channels=1)


def test_the_identity_loss_has_no_effect_between_other_channels() -> None:
    changed = settings(input_channels=1, output_channels=3, idt_coef=0.1)
    assert changed.without_effect()["idt_coef"] == "does nothing where the domains have other channels"
