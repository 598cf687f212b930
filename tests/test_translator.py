"""The translator, with generators whose result is known."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import card_of
from PIL import Image

from cgpipe.engine.prefetch import prefetch
from cgpipe.engine.scale import pad_to_multiple
from cgpipe.engine.translator import Translator, choose_device
from cgpipe.errors import MediaError, UsageError
from cgpipe.media.frames import Batch, Failed
from cgpipe.models import Model
from cgpipe.networks import Generator, build_generator


class Known(Generator):
    """Applies a function; remembers the shapes that it saw."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], multiple: int = 4) -> None:
        super().__init__()
        self.function = function
        self.multiple = multiple
        self.seen: list[tuple[int, ...]] = []

    def __deepcopy__(self, memo: object) -> Known:
        return self  # The engine's own copy is what is watched.

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(x.shape))
        assert x.shape[2] % self.multiple == 0 == x.shape[3] % self.multiple
        assert x.min() >= -1 and x.max() <= 1
        return self.function(x)


def model_of(generator: Generator, scales: tuple[int, int] | None = None) -> Model:
    return Model(card=card_of("compact", training_size=128, working_scales=scales), generator=generator)


def translator_of(generator: Generator, scales: tuple[int, int] | None = None, **options: object) -> Translator:
    return Translator(model_of(generator, scales), device="cpu", precision="fp32", **options)  # type: ignore[arg-type]


def pictures(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (37, 53, 3), (64, 64, 3), (2, 5, 7, 3)])
def test_the_identity_gives_back_every_bit(shape: tuple[int, ...], dtype: type) -> None:
    original = pictures(*shape, dtype=dtype)
    result = translator_of(Known(lambda x: x, multiple=32))(original)
    assert result.dtype == original.dtype
    np.testing.assert_array_equal(result, original)


def test_an_array_that_may_not_be_written_is_taken_without_a_warning() -> None:
    original = np.asarray(Image.new("RGB", (8, 8), "teal"))
    assert not original.flags.writeable
    assert np.array_equal(translator_of(Known(lambda x: x))(original), original)


@pytest.mark.parametrize("low", [0, 100])
def test_16_bit_pixels_are_taken_in_the_range_that_the_model_was_trained_on(low: int) -> None:
    """12 bits in 16: the network sees the whole of [-1, 1], and the result lies in the range of its own domain."""
    seen: list[torch.Tensor] = []
    model = model_of(Known(lambda x: seen.append(x.clone()) or x))  # type: ignore[func-returns-value]
    ranges = {"value_range": {"horse": [low, 4095], "zebra": [low, 2047]}}
    model = replace(model, card=replace(model.card, made_by=ranges))
    original = np.linspace(low, 4095, 32 * 32 * 3).round().astype(np.uint16).reshape(32, 32, 3)
    result = Translator(model, device="cpu", precision="fp32")(original)
    assert (seen[-1].min(), seen[-1].max()) == (-1, 1)
    expected = low + (original.astype(float) - low) * (2047 - low) / (4095 - low)
    np.testing.assert_allclose(result, expected, atol=0.51)
    eight_bits = pictures(16, 16, 3)
    np.testing.assert_array_equal(Translator(model, device="cpu", precision="fp32")(eight_bits), eight_bits)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_negative_is_the_negative_to_the_bit(dtype: type) -> None:
    original = pictures(30, 41, 3, dtype=dtype)
    result = translator_of(Known(lambda x: -x))(original)
    np.testing.assert_array_equal(result, np.iinfo(dtype).max - original)


def test_channels_are_red_green_blue() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200

    def check(x: torch.Tensor) -> torch.Tensor:
        assert x[:, 0].mean() > 0.5
        assert x[:, 2].mean() == -1
        return x

    translator_of(Known(check))(red)


def test_results_beyond_white_and_black_are_limited() -> None:
    result = translator_of(Known(lambda x: torch.where(x > 0, 3.0, -3.0)))(pictures(16, 16, 3))
    assert set(np.unique(result)) <= {0, 255}


def test_a_batch_is_what_its_pictures_are_alone() -> None:
    translate = translator_of(build_generator("compact"))
    stack = pictures(3, 40, 56, 3)
    together = translate(stack).astype(int)
    alone = np.stack([translate(picture) for picture in stack]).astype(int)
    assert np.abs(together - alone).max() <= 1


def test_origins_and_everything_else_pass_through_in_order() -> None:
    batch = Batch(pixels=torch.zeros((2, 8, 8, 3), dtype=torch.uint8), origins=("a", "b"))
    word = Failed(origin="c", reason="broken")
    first, second = translator_of(Known(lambda x: x)).stream([batch, word])
    assert isinstance(first, Batch)
    assert first.origins == ("a", "b")
    assert second is word


def test_a_picture_beyond_the_models_scales_is_reduced_and_keeps_its_detail() -> None:
    generator = Known(lambda x: x - 0.2)
    original = np.clip(pictures(300, 400, 3), 60, 200).astype(np.uint8)
    result = translator_of(generator, scales=(64, 100))(original)
    assert generator.seen[-1][2:] == (100, 136)  # 133 padded to a multiple of 4
    change = result.astype(int) - original
    np.testing.assert_allclose(change, -0.2 * 127.5, atol=1.01)


def test_full_size_ignores_the_scales_and_a_number_overrides_them() -> None:
    generator = Known(lambda x: x)
    for size, sides in (("full", (300, 400)), (60, (60, 80)), ("auto", (100, 136))):
        translator_of(generator, scales=(64, 100), size=size)(pictures(300, 400, 3))
        assert generator.seen[-1][2:] == sides


@pytest.mark.parametrize(("strength", "expected"), [(0.0, 100), (0.5, 90), (1.0, 80), (2.0, 60)])
def test_strength_scales_the_change(strength: float, expected: int) -> None:
    grey = np.full((40, 40, 3), 100, np.uint8)
    darker = Known(lambda x: x - 20 / 127.5)
    assert set(np.unique(translator_of(darker, strength=strength)(grey))) == {expected}
    assert set(np.unique(translator_of(darker, strength=strength, size=20)(grey))) == {expected}


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 2), (5, 300), (64, 63)])
def test_padding_reaches_the_multiple_and_leaves_the_picture_where_it_was(shape: tuple[int, int]) -> None:
    x = torch.rand((1, 3, *shape))
    padded = pad_to_multiple(x, 64)
    assert padded.shape[2] % 64 == 0 == padded.shape[3] % 64
    assert torch.equal(padded[:, :, : shape[0], : shape[1]], x)


def test_padding_reflects() -> None:
    row = torch.arange(5.0)[None, None, None].expand(1, 1, 5, 5)
    assert pad_to_multiple(row, 8)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


def test_a_batch_too_large_for_memory_is_halved_until_it_fits_and_stays_so() -> None:
    def no_room_for_more_than_two(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return -x

    generator = Known(no_room_for_more_than_two)
    translate = translator_of(generator)
    stack = pictures(7, 8, 8, 3)
    with pytest.warns(UserWarning, match="Out of memory"):
        np.testing.assert_array_equal(translate(stack), 255 - stack)
    generator.seen.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(translate(stack), 255 - stack)
    assert max(shape[0] for shape in generator.seen) <= 2


def test_no_room_for_one_picture_is_an_error_that_says_what_to_do() -> None:
    def no_room(x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(MediaError, match="--size 4"), pytest.warns(UserWarning, match="Out of memory"):
        translator_of(Known(no_room))(pictures(3, 8, 8, 3))


def small_batches(count: int, side: int = 8) -> list[Batch]:
    return [Batch(pixels=torch.full((1, side, side, 3), i, dtype=torch.uint8), origins=(i,)) for i in range(count)]


@pytest.mark.usefixtures("two_threads")
def test_small_batches_run_side_by_side_on_a_cpu_in_order_and_again() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def meet(x: torch.Tensor) -> torch.Tensor:
        assert torch.get_num_threads() == 1
        meeting.wait()  # Only two at a time get past this.
        return -x

    translate = translator_of(Known(meet))
    for _ in range(2):
        given = list(prefetch(translate.stream(small_batches(8)), 2))
        assert [batch.origins for batch in given if isinstance(batch, Batch)] == [(i,) for i in range(8)]
        assert [int(batch.pixels[0, 0, 0, 0]) for batch in given if isinstance(batch, Batch)] == [
            255 - i for i in range(8)
        ]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_every_lane_has_work_while_a_result_is_being_used() -> None:
    begun = threading.Semaphore(0)

    def begin(x: torch.Tensor) -> torch.Tensor:
        begun.release()
        return x

    stream = translator_of(Known(begin)).stream(small_batches(8))
    next(stream)  # Nothing is asked for from here on, as while a frame is encoded.
    assert all(begun.acquire(timeout=20) for _ in range(3))
    stream.close()


@pytest.mark.usefixtures("two_threads")
def test_a_large_picture_runs_alone_on_all_threads() -> None:
    at_work: list[int] = []

    def alone(x: torch.Tensor) -> torch.Tensor:
        at_work.append(torch.get_num_threads())
        return x

    list(translator_of(Known(alone)).stream(small_batches(2, side=1032)))
    assert at_work == [2, 2]


@pytest.mark.parametrize("engine", ["eager", "torchscript"])
@pytest.mark.parametrize("name", ["compact", "resnet_6blocks", "unet_128"])
def test_engines_agree(name: str, engine: str) -> None:
    torch.manual_seed(0)
    generator = build_generator(name, **({} if name == "compact" else {"ngf": 8}))
    expected = translator_of(generator)(pictures(1, 70, 50, 3)).astype(int)
    result = translator_of(generator, engine=engine)(pictures(1, 70, 50, 3)).astype(int)
    assert np.abs(result - expected).max() <= 1


def test_bf16_is_close_to_fp32() -> None:
    torch.manual_seed(0)
    model = model_of(build_generator("compact"))
    picture = pictures(64, 64, 3)
    exact = Translator(model, device="cpu", precision="fp32")(picture).astype(int)
    rough = Translator(model, device="cpu", precision="bf16")(picture).astype(int)
    assert 0 < np.abs(exact - rough).mean() < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "cannot compute in fp16"),
        ({"size": 0}, "at least 1 pixel"),
        ({"strength": 3.0}, "between 0 and 2"),
        ({"device": "tpu"}, "Unknown device"),
        ({"device": "hpu"}, "not supported"),
        ({"device": "mps"}, "does not exist"),
        ({"device": "xpu:1"}, "does not exist"),
        ({"device": "cuda:99"}, "does not exist"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Translator(model_of(Known(lambda x: x)), **({"device": "cpu"} | options))  # type: ignore[arg-type]


def test_auto_finds_a_device() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_it_is_found_by_domain_and_file_and_shows_itself_in_a_line() -> None:
    by_domain = Translator.find("zebra", device="cpu")
    by_both = Translator.find("zebra", source="horse", model="horse2zebra", device="cpu")
    assert by_domain.model.card == by_both.model.card == Translator.find(file="horse2zebra", device="cpu").model.card
    assert repr(by_both).startswith("<Translator horse to zebra (compact) on cpu, precision auto, engine eager, size ")
    with pytest.raises(UsageError):
        Translator.find("monet", model="horse2zebra")
    with pytest.raises(UsageError, match="one of them"):
        Translator.find(model="horse2zebra", file="zebra2horse")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_pil_pictures_are_taken_as_arrays_are(mode: str) -> None:
    picture = Image.fromarray(pictures(20, 30, 3)).convert(mode)
    translate = translator_of(Known(lambda x: -x))
    result = translate(picture)
    assert (result.mode, result.size) == ("RGB", picture.size)
    np.testing.assert_array_equal(np.asarray(result), 255 - np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("name", ["mps", "xpu", "xpu:1"])
def test_other_gpus_are_taken_where_torch_has_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.mps.device_count", lambda: 1)
    monkeypatch.setattr("torch.xpu.device_count", lambda: 2)
    assert str(choose_device(name)) == name
