"""Frames and batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cgpipe.media.frames import Batch, Failed, Frame, batched


def frame(name: str, height: int = 4, width: int = 6) -> Frame:
    return Frame(pixels=np.zeros((height, width, 3), np.uint8), origin=name)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_a_frame_of_another_shape_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="height, width, channels"):
        Frame(pixels=pixels, origin=None)


def test_a_frame_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="uint8 or uint16"):
        Frame(pixels=np.zeros((4, 4, 3), np.float32), origin=None)  # type: ignore[arg-type]


def test_a_batch_needs_an_origin_for_each_frame() -> None:
    with pytest.raises(ValueError, match="2 frames but 1 origins"):
        Batch(pixels=torch.zeros((2, 4, 4, 3), dtype=torch.uint8), origins=("a",))


def test_frames_of_one_size_are_stacked_in_order() -> None:
    batches = list(batched([frame(name) for name in "abcde"], 2))
    assert [batch.origins for batch in batches] == [("a", "b"), ("c", "d"), ("e",)]
    assert [list(batch.pixels.shape) for batch in batches] == [[2, 4, 6, 3], [2, 4, 6, 3], [1, 4, 6, 3]]


def test_a_frame_alone_is_not_copied() -> None:
    single = frame("a")
    (batch,) = batched([single], 1)
    assert isinstance(batch, Batch)
    assert np.shares_memory(batch.pixels.numpy(), single.pixels)


def test_other_sizes_wait_in_groups_of_their_own() -> None:
    frames = [frame("a"), frame("b", 6, 4), frame("c"), frame("d", 6, 4)]
    assert [batch.origins for batch in batched(frames, 2)] == [("a", "c"), ("b", "d")]


def test_types_are_not_mixed() -> None:
    deep = Frame(pixels=np.zeros((4, 6, 3), np.uint16), origin="deep")
    assert [batch.origins for batch in batched([frame("a"), deep], 2)] == [("a",), ("deep",)]


def test_an_endless_stream_of_sizes_waits_within_a_limit() -> None:
    read = 0

    def sizes() -> Iterator[Frame]:
        nonlocal read
        for side in range(1, 1000):
            read = side
            yield frame(str(side), side, 1)

    first = next(iter(batched(sizes(), 4)))
    assert len(first) == 1
    assert read <= 16


def test_few_large_frames_wait_rather_than_many() -> None:
    large = [Frame(pixels=np.zeros((side, 1 << 20, 3), np.uint8), origin=side) for side in (1, 2, 3)]
    waited = list(batched(large, 4, pending_bytes=4 << 20))
    assert [batch.origins for batch in waited] == [(1,), (2,), (3,)]


def test_word_of_an_unreadable_frame_passes_at_once() -> None:
    items = [frame("a"), Failed(origin="b", reason="broken"), frame("c")]
    passed, batch = batched(items, 2)
    assert isinstance(passed, Failed)
    assert isinstance(batch, Batch)
    assert batch.origins == ("a", "c")


def test_frames_come_back_out_of_a_batch() -> None:
    batch = next(iter(batched([frame("a"), frame("b")], 2)))
    assert isinstance(batch, Batch)
    assert [f.origin for f in batch.frames()] == ["a", "b"]
