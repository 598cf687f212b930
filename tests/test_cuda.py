"""What can only be shown on a GPU; skipped without one, unless CGPIPE_REQUIRE_CUDA=1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cgpipe.engine.cuda import CudaGpu
from cgpipe.engine.translator import Translator
from cgpipe.media.frames import Batch, Failed, batched
from cgpipe.media.frames import Frame as PictureFrame

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
