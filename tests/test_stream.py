"""Streams of batches: what fails is told apart, and the others go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_translator import Known, model_of, translator_of

from cgpipe.engine.cuda import GpuPipeline
from cgpipe.engine.memory import available_memory, bytes_a_pixel
from cgpipe.engine.stream import IN_FLIGHT
from cgpipe.engine.translator import Translator
from cgpipe.errors import MediaError, MissingDependencyError, ModelError, UsageError
from cgpipe.media.frames import Batch, Failed
from cgpipe.networks import build_generator

NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


def batch_of(*values: int, side: int = 8) -> Batch:
    """Gray pictures, each called by its value."""
    pixels = torch.stack([torch.full((side, side, 3), value, dtype=torch.uint8) for value in values])
    return Batch(pixels=pixels, origins=values)


def failing(values: set[int], error: Callable[[], Exception]) -> Known:
    """Inverts, but raises ``error`` where one of the pictures is of one of ``values``."""

    def function(x: torch.Tensor) -> torch.Tensor:
        if values & {round(float(value)) for value in (x[:, 0, 0, 0] + 1) * 127.5}:
            raise error()
        return -x

    return Known(function)


def results(given: list[Any]) -> list[Any]:
    """Origin and value of each picture; of those that failed, the reason."""
    found: list[Any] = []
    for item in given:
        if isinstance(item, Batch):
            found += [(origin, int(pixels[0, 0, 0])) for origin, pixels in zip(item.origins, item.pixels, strict=True)]
        else:
            found.append((item.origin, item.reason))
    return found


class PromptGpu:
    """Does its work when it is given; as with a real one, what cannot even be launched is raised there."""

    def host_memory(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)

    def device_memory(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)

    def stream(self) -> None:
        pass

    def run(self, stream: None, work: Callable[[], object]) -> None:
        work()

    def mark(self, stream: None) -> None:
        pass

    def wait(self, stream: None, event: None) -> None:
        pass

    def finish(self, event: None) -> None:
        pass


def through_gpu(translator: Translator) -> Translator:
    translator._pipeline = GpuPipeline(PromptGpu(), translator._within_memory, IN_FLIGHT)
    return translator


ERRORS: list[Callable[[], Exception]] = [
    lambda: RuntimeError("Padding size should be less than the corresponding input dimension"),
    lambda: ValueError("Expected more than 1 value per channel when training"),
    lambda: ZeroDivisionError("division by zero"),
    lambda: AssertionError(),
    lambda: OSError(5, "Input/output error"),
    lambda: MediaError("no"),
    lambda: StopIteration(),
    lambda: KeyError("x"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error()).__name__)
@pytest.mark.parametrize("gpu", [False, True])
def test_one_picture_that_fails_is_named_and_the_others_go_on(error: Callable[[], Exception], gpu: bool) -> None:
    translator = translator_of(failing({3}, error))
    if gpu:
        through_gpu(translator)
    given = results(list(translator.stream([batch_of(1, 2, 3, 4), batch_of(5, 6), batch_of(3), batch_of(7)])))
    reasons = [given.pop(2)[1], given.pop(5)[1]]
    assert given == [(value, 255 - value) for value in (1, 2, 4, 5, 6, 7)]
    expected = str(error()) or type(error()).__name__
    assert all(expected.strip("'") in reason for reason in reasons)


@pytest.mark.usefixtures("two_threads")
def test_an_error_beside_others_leaves_no_thread() -> None:
    translator = translator_of(failing({2}, lambda: RuntimeError("no")))
    given = list(translator.stream([batch_of(value) for value in range(1, 5)]))
    assert isinstance(given[1], Failed)
    assert [origin for origin, _ in results(given)] == [1, 2, 3, 4]
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("cgpipe")] == []


def test_each_batch_is_told_before_it_begins_and_failures_are_not() -> None:
    told: list[str] = []
    translator = translator_of(Known(lambda x: told.append("computed") or x))
    list(translator.stream([Failed(origin=0, reason="no"), batch_of(1)], lambda: told.append("begins")))
    assert told[0] == "begins" and told.count("begins") == 1 and "computed" in told


@pytest.mark.parametrize("error", [UsageError, ModelError, MissingDependencyError])
def test_what_no_picture_is_to_blame_for_ends_the_stream(error: type[Exception]) -> None:
    translator = translator_of(failing({1}, lambda: error("all fail")))
    with pytest.raises(error, match="all fail"):
        list(translator.stream([batch_of(1), batch_of(2)]))


def test_a_gpu_that_has_failed_for_good_ends_the_stream() -> None:
    lost = "CUDA error: an illegal memory access was encountered"
    translator = through_gpu(translator_of(failing({1}, lambda: RuntimeError(lost))))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(translator.stream([batch_of(1), batch_of(2)]))


@pytest.mark.parametrize(
    "error", [lambda: RuntimeError(NO_MEMORY), MemoryError, lambda: torch.OutOfMemoryError("CUDA")]
)
def test_a_picture_for_which_there_is_no_memory_fails_with_what_to_do(error: Callable[[], Exception]) -> None:
    translator = translator_of(failing({2}, error))
    given = results(list(translator.stream([batch_of(1), batch_of(2, side=1000), batch_of(3)])))
    assert given[::2] == [(1, 254), (3, 252)]
    assert given[1][0] == 2
    assert "Not enough memory" in given[1][1] and "--size 500" in given[1][1] and "1000x1000" in given[1][1]


def test_memory_of_a_real_allocator_that_is_not_there_is_a_failure_of_that_picture() -> None:
    def hungry(x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] > 8:
            torch.empty(1 << 60, dtype=torch.uint8)
        return -x

    given = results(list(translator_of(Known(hungry)).stream([batch_of(1), batch_of(2, side=16), batch_of(3)])))
    assert given[::2] == [(1, 254), (3, 252)]
    assert "--size 8" in given[1][1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_values_that_are_not_finite_fail_by_name_and_are_never_written(precision: Any) -> None:
    generator = Known(lambda x: torch.where(x.float().mean((1, 2, 3), keepdim=True) > 0, torch.nan, -x.float()).to(x))
    generator.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))
    translator = Translator(translator_of(generator).model, device="cpu", precision=precision)
    if precision == "bf16":
        with pytest.warns(UserWarning, match="again in fp32"):
            given = results(list(translator.stream([batch_of(1, 250), batch_of(2)])))
    else:
        given = results(list(translator.stream([batch_of(1, 250), batch_of(2)])))
    assert given[::2] == [(1, 254), (2, 253)]
    assert "not finite" in given[1][1]


def test_what_has_certainly_no_room_fails_before_the_system_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.engine.tiles.choice.LARGE_PIXELS", 10_000)
    monkeypatch.setattr("cgpipe.engine.tiles.choice.available_memory", lambda: 30 << 20)
    translator = Translator(
        model_of(build_generator("resnet_6blocks", ngf=16)), device="cpu", precision="fp32", tile="off"
    )
    given = results(list(translator.stream([batch_of(1), batch_of(2, side=512), batch_of(3, side=256)])))
    assert [origin for origin, _ in given] == [1, 2, 3]
    assert "Not enough memory" in given[1][1] and "--size 256" in given[1][1]
    assert not isinstance(given[0][1], str) and not isinstance(given[2][1], str)


def test_the_least_memory_of_a_network_is_known_by_its_shapes() -> None:
    resnet = build_generator("resnet_6blocks", ngf=64)
    assert bytes_a_pixel(resnet) == 4 * (64 + 64)  # a norm at full size
    assert next(resnet.parameters()).device.type == "cpu"
    assert 0 < bytes_a_pixel(build_generator("compact")) <= 4 * 16
    available = available_memory()
    assert available is None or available > 0
