"""Batches grow as long as that pays."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import cgpipe.engine.batch_size as batch_size_module
from cgpipe.engine.batch_size import LARGEST, choose_batch_size, grown, trial
from cgpipe.engine.translator import Translator
from cgpipe.networks import Generator


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda size: 1.0, LARGEST),  # a launch costs all: the more the better
        (lambda size: float(size), 1),  # the device was full with one
        (lambda size: max(8.0, size), 8),  # full with eight
        (lambda size: 1.0 if size <= 4 else None, 4),  # no room for more than four
        (lambda size: None, 1),
    ],
)
def test_it_grows_until_it_stops_paying_or_there_is_no_room(seconds: Any, expected: int) -> None:
    assert grown(seconds) == expected


class Roomless(Generator):
    multiple = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return -x


def test_no_room_is_an_answer_and_leaves_no_limit_behind(make_model: Any) -> None:
    translator = Translator(replace(make_model(), generator=Roomless()), device="cpu", precision="fp32")
    pixels = torch.zeros((4, 8, 8, 3), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trial(translator, pixels[:2]) is not None
        assert trial(translator, pixels) is None
        assert trial(translator, pixels[:2]) is not None
    assert translator._largest is None


def test_on_a_cpu_pictures_go_one_by_one(make_model: Any) -> None:
    assert choose_batch_size(Translator(make_model(), device="cpu", precision="fp32"), 64, 64) == 1


def test_what_was_found_is_kept_for_the_model_the_size_and_what_was_asked(
    make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgpipe.engine.remembered.user_cache_path", lambda name: tmp_path / name)
    tried: list[int] = []

    def count(translator: Translator, pixels: torch.Tensor) -> float:
        tried.append(len(pixels))
        return max(4.0, len(pixels))

    monkeypatch.setattr(batch_size_module, "trial", count)
    model = make_model()

    def chosen(side: int, precision: Any = "fp32") -> int:
        translator = Translator(model, device="cpu", precision=precision)
        translator.device = torch.device("meta")  # any but the CPU
        tried.clear()
        return choose_batch_size(translator, side, side)

    assert (chosen(64), tried) == (4, [1, 2, 4, 8])
    assert (chosen(64), tried) == (4, [])
    assert (chosen(256), tried) == (4, [1, 2, 4, 8])
    assert (chosen(64, "bf16"), tried) == (4, [1, 2, 4, 8])
