"""The way of batches through a GPU, on a pretended one that runs its streams in every order that the waits allow."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from cgpipe.engine import scale
from cgpipe.engine import translator as translator_module
from cgpipe.engine.cuda import CudaRecorder, GpuPipeline, Graphs, Translated
from cgpipe.engine.scale import resampling
from cgpipe.engine.stream import IN_FLIGHT
from cgpipe.engine.translator import Translator
from cgpipe.media.frames import Batch, Failed
from cgpipe.networks import Generator

UP, COMPUTE, DOWN = range(3)


class PretendGpu:
    """Runs work later than it is given, stream by stream, in an order drawn by lot among those that the waits allow.

    Args:
        seed: of the lot.
        deaf: a stream that does not wait, to show that somebody notices.
    """

    def __init__(self, seed: int = 0, deaf: int | None = None, device: str = "cpu") -> None:
        self.lot = random.Random(seed)
        self.deaf = deaf
        self.where = device
        self.streams: list[deque[Any]] = []
        self.happened: set[int] = set()
        self.marks = 0
        self.log: list[str] = []

    def host_memory(self, size: int) -> torch.Tensor:
        self.log.append("host memory")
        return torch.zeros(size, dtype=torch.uint8)

    def device_memory(self, size: int) -> torch.Tensor:
        self.log.append("device memory")
        return torch.zeros(size, dtype=torch.uint8, device=self.where)

    def stream(self) -> int:
        self.streams.append(deque())
        return len(self.streams) - 1

    def run(self, stream: int, work: Callable[[], object]) -> None:
        self.log.append(("up", "compute", "down")[stream])
        self.streams[stream].append(work)
        for _ in range(self.lot.randrange(3)):
            self._step()

    def mark(self, stream: int) -> int:
        self.marks += 1
        event = self.marks
        self.streams[stream].append(lambda: self.happened.add(event))
        return event

    def wait(self, stream: int, event: int) -> None:
        if stream != self.deaf:
            self.streams[stream].append(event)

    def finish(self, event: int) -> None:
        self.log.append("finish")
        while event not in self.happened:
            self._step()

    @torch.inference_mode()
    def _step(self) -> None:
        able = [s for s in self.streams if s and (callable(s[0]) or s[0] in self.happened)]
        if able and callable(work := self.lot.choice(able).popleft()):
            work()


@pytest.fixture(autouse=True)
def all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches go as large ones do."""
    monkeypatch.setattr("cgpipe.engine.cuda.SMALL_BYTES", 0)


def negative(pixels: torch.Tensor) -> Translated:
    return Translated(255 - pixels[..., :3], torch.zeros(len(pixels)))


class Recorder:
    """Records as a CUDA graph does: later runs are the recorded one, whatever is asked of it by then."""

    def __init__(self, fails: RuntimeError | None = None) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.replays = 0
        self.fails = fails

    def __call__(self, work: Any, example: torch.Tensor) -> Any:
        if self.fails:
            raise self.fails
        self.shapes.append(tuple(example.shape))

        def replay(pixels: torch.Tensor) -> Translated:
            assert tuple(pixels.shape) in self.shapes
            self.replays += 1
            return negative(pixels)

        return replay


def graphs(recorder: Recorder, *, suits: bool = True) -> Graphs:
    return Graphs(negative, recorder, lambda *_: suits)


def test_the_second_batch_of_a_shape_is_recorded_and_all_later_ones_replayed() -> None:
    recorder = Recorder()
    work = graphs(recorder)
    for pixels in batches([2, 2, 3, 2, 2, 3]):
        assert torch.equal(work(pixels).pixels, 255 - pixels)
    assert recorder.shapes == [(2, 4, 5, 3), (3, 4, 5, 3)]
    assert recorder.replays == 4


def test_shapes_that_do_not_come_again_and_large_ones_are_not_recorded() -> None:
    recorder = Recorder()
    work = graphs(recorder)
    for pixels in batches([1, 2, 3, 4]):
        work(pixels)
    large = graphs(recorder, suits=False)
    for pixels in batches([2, 2, 2]):
        large(pixels)
    assert recorder.shapes == []


@pytest.mark.parametrize(
    ("shape", "size", "recorded"),
    [
        *(((16, 500, 500, 3), "full", True), ((17, 500, 500, 3), "full", False)),
        *(((1, 5792, 5792, 3), 64, True), ((1, 5793, 5793, 3), 64, False)),
    ],
)
def test_batches_that_keep_a_gpu_busy_or_do_not_pass_it_at_once_are_not_recorded(
    make_model: Any, shape: tuple[int, ...], size: Any, recorded: bool
) -> None:
    pixels = torch.empty(shape, dtype=torch.uint8, device="meta")
    assert Translator(make_model(), device="cpu", size=size)._is_small(pixels) == recorded


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("not permitted when stream is capturing\nand more"), "not permitted when stream is capturing"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much."), "not enough GPU memory"),
    ],
)
def test_what_cannot_be_recorded_runs_as_it_is(error: RuntimeError, reason: str) -> None:
    work = graphs(Recorder(fails=error))
    first, second, third = batches([2, 2, 2])
    work(first)
    with pytest.warns(UserWarning, match=rf"No CUDA graph \({reason}\): continuing without"):
        assert torch.equal(work(second).pixels, 255 - second)
    assert torch.equal(work(third).pixels, 255 - third)


def test_the_least_recently_used_graphs_go() -> None:
    recorder = Recorder()
    work = graphs(recorder)
    for count in [1, 1, *range(2, 9), 1, 9, 1]:
        work(batches([count])[0])
    assert (len(work._runs), recorder.shapes) == (8, [(1, 4, 5, 3)])
    for count in [2, 2]:
        work(batches([count])[0])
    assert recorder.shapes == [(1, 4, 5, 3), (2, 4, 5, 3)]


class PretendGraph:
    """In a pool of memory that ends with the last of its graphs, as torch's do."""

    memory: int | None = None

    def pool(self) -> int | None:
        return self.memory

    def replay(self) -> None:
        pass


def test_graphs_share_memory_as_long_as_one_of_them_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    pools, told = itertools.count(), []

    @contextmanager
    def record_in(graph: PretendGraph, *, pool: int | None, stream: str, capture_error_mode: str) -> Iterator[None]:
        graph.memory = next(pools) if pool is None else pool
        told.append((graph.memory, stream))
        yield

    pretended = {"CUDAGraph": PretendGraph, "graph": record_in, "Stream": lambda device: f"a stream of {device}"}
    pretended |= {"device": nullcontext, "stream": nullcontext, "current_stream": lambda device: None}
    for name, value in pretended.items():
        monkeypatch.setattr(torch.cuda, name, value)
    recorder = CudaRecorder(torch.device("cuda:1"))
    graphs = [recorder(lambda: "the first"), recorder(lambda: "the second")]
    assert [replay() for replay in graphs] == ["the first", "the second"]
    del graphs[0]
    graphs.append(recorder(lambda: "with the second"))
    graphs.clear()
    recorder(lambda: "alone")
    assert told == [(pool, "a stream of cuda:1") for pool in (0, 0, 0, 1)]


def test_a_result_that_is_not_finite_is_computed_again_in_fp32(make_model: Any) -> None:
    model = make_model()
    expected = Translator(model, device="cpu", precision="fp32").translate
    translator = Translator(model, device="cpu", precision="bf16")

    def overflows(pixels: torch.Tensor) -> Translated:
        return Translated(torch.zeros_like(pixels), torch.full((len(pixels),), float("nan")))

    translator._pipeline = GpuPipeline(PretendGpu(), overflows, IN_FLIGHT)
    sent = [Batch(pixels=pixels, origins=(1, 2)) for pixels in batches([2, 2])]
    with pytest.warns(UserWarning, match="again in fp32") as told:
        given = list(translator.stream(sent))
    assert len(told) == 1
    for batch, result in zip(sent, given, strict=True):
        assert isinstance(result, Batch)
        assert (result.pixels.int() - expected(batch).pixels.int()).abs().max() <= 1


def batches(counts: list[int], channels: int = 3) -> list[torch.Tensor]:
    numbers = np.random.default_rng(0)
    return [torch.from_numpy(numbers.integers(0, 255, (count, 4, 5, channels), np.uint8)) for count in counts]


def through(
    gpu: PretendGpu, sent: list[torch.Tensor], count: int = 0, there: Callable[[int], bool] = lambda index: False
) -> list[torch.Tensor]:
    """Three under way at a time, as the translator has them; some of them lie on the device."""
    pipeline, results, under_way = GpuPipeline(gpu, negative, IN_FLIGHT), [], deque[Callable[[], Translated]]()
    for index, pixels in enumerate(sent):
        send = pipeline.send_there if there(index) else pipeline.send
        under_way.append(send(pixels, count))
        if len(under_way) > IN_FLIGHT:
            results.append(under_way.popleft()().pixels)
    return results + [fetch().pixels for fetch in under_way]


@pytest.mark.parametrize("seed", range(20))
def test_every_order_that_the_waits_allow_gives_the_same(seed: int) -> None:
    sent = batches([2, 2, 2, 3, 2, 1, 2, 2, 1, 2])
    for pixels, result in zip(sent, through(PretendGpu(seed), sent), strict=True):
        assert torch.equal(result, 255 - pixels[..., :3])


@pytest.mark.parametrize("count", [0, 4])
@pytest.mark.parametrize("seed", range(10))
def test_batches_that_lie_on_the_device_go_with_others(seed: int, count: int) -> None:
    sent = batches([2, 2, 2, 3, 2, 1, 2, 2, 1, 2])
    given = through(PretendGpu(seed), sent, count, there=lambda index: (index + seed) % 3 > 0)
    for pixels, result in zip(sent, given, strict=True):
        assert torch.equal(result, 255 - pixels)


def test_batches_that_lie_on_the_device_stay_there() -> None:
    gpu = PretendGpu()
    through(gpu, batches([2, 2, 3, 2]), there=lambda index: True)
    assert not {"up", "down", "device memory"} & set(gpu.log)


@pytest.mark.parametrize("seed", range(5))
def test_small_batches_go_in_one_stream(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.engine.cuda.SMALL_BYTES", 2 * 4 * 5 * 3)
    gpu, sent = PretendGpu(seed), batches([2, 2, 3, 2, 3, 3, 2, 2])
    for pixels, result in zip(sent, through(gpu, sent), strict=True):
        assert torch.equal(result, negative(pixels).pixels)
    assert gpu.log.count("up") == gpu.log.count("down") == 3


@pytest.mark.parametrize("deaf", [COMPUTE, DOWN])
def test_without_one_of_the_waits_some_order_goes_wrong(deaf: int) -> None:
    sent = batches([2] * 10)

    def goes_right(seed: int) -> bool:
        try:
            results = through(PretendGpu(seed, deaf), sent)
        except (RuntimeError, AssertionError):  # nothing to copy yet
            return False
        return all(torch.equal(result, 255 - pixels[..., :3]) for pixels, result in zip(sent, results, strict=True))

    assert not all(goes_right(seed) for seed in range(20))


def test_nobody_waits_before_the_pipeline_is_full_and_then_for_one_batch_at_a_time() -> None:
    gpu = PretendGpu()
    through(gpu, batches([2] * 10))
    steps = [step for step in gpu.log if "memory" not in step]
    sent = ["up", "compute", "down"]
    assert steps == sent * (IN_FLIGHT + 1) + (["finish", *sent] * 10)[: 7 * 4] + ["finish"] * (IN_FLIGHT + 1)


def test_memory_is_made_once_and_again_only_for_larger_batches() -> None:
    gpu = PretendGpu()
    through(gpu, batches([2] * 5 + [1] * 5))
    assert gpu.log.count("host memory") == 3 * (IN_FLIGHT + 1)
    assert gpu.log.count("device memory") == IN_FLIGHT + 1
    gpu = PretendGpu()
    through(gpu, batches([2] * 5) + batches([2] * 5, channels=4))
    assert gpu.log.count("device memory") == 2 * (IN_FLIGHT + 1)


def test_a_short_batch_is_filled_up_and_gives_only_its_own_pictures() -> None:
    shapes: list[torch.Size] = []

    def seen(pixels: torch.Tensor) -> Translated:
        shapes.append(pixels.shape)
        return negative(pixels)

    (pixels,) = batches([2])
    result = GpuPipeline(PretendGpu(), seen, IN_FLIGHT).send(pixels, 8)().pixels
    assert shapes == [(8, 4, 5, 3)]
    assert torch.equal(result, 255 - pixels[..., :3])


def test_more_batches_than_places_are_kept_until_they_are_asked_for() -> None:
    sent = batches([2] * 9)
    pipeline = GpuPipeline(PretendGpu(), negative, IN_FLIGHT)
    for pixels, fetch in zip(sent, [pipeline.send(pixels) for pixels in sent], strict=True):
        assert torch.equal(fetch().pixels, 255 - pixels)


def test_a_stream_goes_over_the_pipeline_in_order_and_in_one_shape(make_model: Any) -> None:
    translator = Translator(make_model(), device="cpu", precision="fp32")
    sent = [Batch(pixels=pixels, origins=tuple(range(len(pixels)))) for pixels in batches([3, 3, 3, 3, 1])]
    expected = [translator.translate(batch).pixels.int() for batch in sent]
    shapes: list[torch.Size] = []

    def seen(pixels: torch.Tensor) -> Translated:
        shapes.append(pixels.shape)
        return translator._within_memory(pixels)

    translator._pipeline = GpuPipeline(PretendGpu(), seen, IN_FLIGHT)
    word = Failed(origin="x", reason="broken")
    given = list(translator.stream([*sent[:2], word, *sent[2:]]))
    assert given.pop(2) is word
    assert {shape[0] for shape in shapes} == {3}
    for batch, result in zip(expected, given, strict=True):
        assert isinstance(result, Batch)
        assert (result.pixels.int() - batch).abs().max() <= 1


def test_several_devices_take_batches_in_turn_and_give_them_in_order(make_model: Any) -> None:
    translator = Translator(make_model(), device="cpu,cpu", precision="fp32")
    assert translator.devices == "cpu,cpu"
    alone = Translator(translator.model, device="cpu", precision="fp32")
    took: list[int] = []
    for number, member in enumerate([translator, *translator.replicas]):
        work = member._within_memory
        member._pipeline = GpuPipeline(
            PretendGpu(number), lambda p, n=number, w=work: took.append(n) or w(p), IN_FLIGHT
        )  # type: ignore[misc]
    sent = [Batch(pixels=pixels, origins=(index,)) for index, pixels in enumerate(batches([1] * 9))]
    given = [batch for batch in translator.stream(sent) if isinstance(batch, Batch)]
    assert [batch.origins[0] for batch in given] == list(range(9))
    assert (took.count(0), took.count(1)) == (5, 4)
    for batch, result in zip(sent, given, strict=True):
        assert (result.pixels.int() - alone.translate(batch).pixels.int()).abs().max() <= 1


def test_the_precision_of_each_device_is_told_where_they_differ(make_model: Any) -> None:
    translator = Translator(make_model(), device="cpu,cpu", precision="fp32")
    assert translator.describe()["precision"] == "fp32"
    translator.replicas[0].network.precision = "bf16"
    assert translator.describe()["precision"] == "fp32,bf16"


class Negative(Generator):
    """Remembers how it, or a copy of it, saw its input."""

    multiple = 4

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, torch.dtype, bool]] = []

    def __deepcopy__(self, memo: object) -> Negative:
        copied = Negative()
        copied.seen = self.seen
        return copied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((str(x.device), x.dtype, x.is_contiguous(memory_format=torch.channels_last)))
        return -x


def fake_resampling(inputs: int, outputs: int, device: torch.device, *together: int) -> tuple[scale.Band, ...]:
    """Bands as they are, with fake weights on the device."""
    with unset_fake_temporarily():
        bands = resampling(inputs, outputs, torch.device("cpu"), *together)
    return tuple(replace(band, weights=torch.zeros(band.weights.shape, device=device)) for band in bands)


@pytest.mark.parametrize("size", ["full", 16])
def test_on_a_gpu_all_stays_there_and_integers_come_and_go(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, size: Any
) -> None:
    """By fake tensors, which have a shape, a type and a device but no values."""
    monkeypatch.setattr(translator_module, "choose_device", torch.device)
    monkeypatch.setattr(translator_module, "CudaGpu", lambda device: PretendGpu(device=str(device)))
    monkeypatch.setattr(scale, "resampling", fake_resampling)
    generator = Negative()
    model = replace(make_model(), generator=generator)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        translator = Translator(model, device="cuda:0", precision="fp16", size=size)
        pixels = torch.zeros((2, 41, 35, 4), dtype=torch.uint8, device="cuda:0")
        result = translator._translate_on_device(pixels).pixels
        assert (result.shape, result.dtype, str(result.device)) == ((2, 41, 35, 3), torch.uint8, "cuda:0")
    assert generator.seen[-1] == ("cuda:0", torch.float16, True)


def test_a_gpu_without_a_pipeline_takes_what_lies_on_the_cpu(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mps and xpu do; by fake tensors, for which only a device of type cuda can stand in."""
    monkeypatch.setattr(translator_module, "choose_device", torch.device)
    monkeypatch.setattr(translator_module, "CudaGpu", lambda device: PretendGpu(device=str(device)))
    monkeypatch.setattr(translator_module, "can_fuse", lambda device: False)
    generator = Negative()
    model = replace(make_model(), generator=generator)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        translator = Translator(model, device="cuda:0", precision="fp16", size="full")
        pixels = torch.zeros((2, 40, 32, 3), dtype=torch.uint8)
        result = translator._translate_on_device(pixels).pixels
        assert (result.shape, result.dtype, str(result.device)) == (pixels.shape, torch.uint8, "cuda:0")
    assert generator.seen[-1][:2] == ("cuda:0", torch.float16)
