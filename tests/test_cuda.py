"""What can only be shown on a GPU; skipped without one, unless CGPIPE_REQUIRE_CUDA=1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cgpipe.engine.translator import Translator
from cgpipe.media.frames import Batch, Unreadable, batched
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
    word = Unreadable(origin="x", reason="broken")
    items: list[Any] = [batch.pin_memory() for batch in batched(frames, 3) if isinstance(batch, Batch)]
    items.insert(2, word)
    given = list(translator.stream(items))
    assert given[2] is word
    origins = [origin for item in given if isinstance(item, Batch) for origin in item.origins]
    assert origins == list(range(10))
    together = np.concatenate([item.pixels.numpy() for item in given if isinstance(item, Batch)]).astype(int)
    alone = np.stack([translator(picture) for picture in pictures(10)]).astype(int)
    assert np.abs(together - alone).max() <= 1


def test_results_come_back_in_page_locked_memory(make_model: Any) -> None:
    batch = Batch(pixels=torch.from_numpy(pictures(2)), origins=(0, 1)).pin_memory()
    assert batch.pixels.is_pinned()
    (result,) = Translator(make_model(), device="cuda").stream([batch])
    assert isinstance(result, Batch)
    assert result.pixels.is_pinned()
    assert result.pixels.device.type == "cpu"
