"""Training pictures that are read ahead and kept on a device; the CPU stands in for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from runs import make_photos

from cgpipe.data.ahead import PicturesAhead
from cgpipe.data.loading import interpolated_like_integers
from cgpipe.data.pictures import find_pictures
from cgpipe.data.unpaired import TrainingPictures, training_batches
from cgpipe.training.config import TrainConfig

CONFIG = TrainConfig(load_height=40, load_width=40, load_min=32, crop_height=32, crop_width=32, batch_size=2)
CPU = torch.device("cpu")
ONE = 48 * 48 * 3
"""Bytes of a picture."""


@pytest.fixture
def sets(tmp_path: Path) -> TrainingPictures:
    folders = [make_photos(tmp_path / name, count, 48) for name, count in (("a", 6), ("b", 4))]
    return TrainingPictures(*map(find_pictures, folders))


def batches(sets: TrainingPictures, loader: PicturesAhead | None, epoch: int) -> list[dict[str, torch.Tensor]]:
    return list(training_batches(sets, CONFIG, epoch=epoch, loader=loader))


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(("room", "read_again"), [(10 * ONE, 0), (3 * ONE, 7), (0, 10)])
def test_pictures_are_those_of_the_cpu_and_read_once_where_there_is_room(
    sets: TrainingPictures, monkeypatch: pytest.MonkeyPatch, threads: int, room: int, read_again: int
) -> None:
    expected = [batches(sets, None, epoch) for epoch in range(2)]
    read: list[tuple[str, int]] = []
    load = sets.load
    monkeypatch.setattr(sets, "load", lambda *key: read.append(key) or load(*key))
    loader = PicturesAhead(sets, CPU, room, threads)
    for epoch in range(2):
        before = len(set(read)) if epoch == 0 else len(read)
        for batch, wanted in zip(batches(sets, loader, epoch), expected[epoch], strict=True):
            assert batch.keys() == wanted.keys()
            assert all(torch.equal(batch[name], wanted[name]) for name in wanted)
        if not epoch:
            assert set(read) == {(d, n) for d, count in (("a", 6), ("b", 4)) for n in range(count)}
    shown_again = len(read) - before
    assert (shown_again == 0) if not read_again else shown_again >= read_again


def test_another_picture_stands_in_for_one_that_cannot_be_read(sets: TrainingPictures, tmp_path: Path) -> None:
    broken = tmp_path / "a" / "2.png"
    assert broken in find_pictures(tmp_path / "a")
    broken.write_bytes(b"nothing")
    expected = batches(sets, None, 0)
    sets.unreadable.clear()
    given = batches(sets, PicturesAhead(sets, CPU, 10 * ONE, 2), 0)
    assert list(sets.unreadable) == [broken]
    for batch, wanted in zip(given, expected, strict=True):
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("size", [(55, 61), (30, 20), (48, 60)])
def test_a_gpu_resizes_like_integers_are_resized_on_a_cpu(size: tuple[int, int]) -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 48, 48), np.uint8))
    expected = torch.nn.functional.interpolate(noise, size, mode="bicubic", align_corners=False, antialias=True)
    gap = (interpolated_like_integers(noise, *size) - expected.float()).abs()
    assert gap.max() <= 2
    assert gap.mean() < 0.02
