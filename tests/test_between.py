"""When kernels of our own run: not in the first batch of a process, during which they are built. No GPU is needed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from types import ModuleType
from unittest.mock import Mock

import pytest
import torch

from cgpipe.engine import between
from cgpipe.engine.between import can_fuse, prepare_gpu, prepare_kernels, without_kernels_at_first
from cgpipe.errors import CgpipeWarning

GPU = torch.device("cuda:0")


@pytest.fixture(autouse=True)
def _a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def forget() -> None:
        between._prepared.cache_clear()
        between._are_built.cache_clear()

    forget()
    monkeypatch.setattr(between, "_bodies", itertools.count())
    monkeypatch.setattr(between, "_load_convolutions", lambda index: None)
    monkeypatch.setattr(between, "may_fuse", lambda device: device.type == "cuda")
    yield
    forget()


def test_only_the_first_batch_runs_without_kernels_however_soon_they_are_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between, "_build", lambda index: None)
    prepare_kernels(GPU)
    assert can_fuse(GPU)
    with without_kernels_at_first():
        assert not can_fuse(GPU)
    assert can_fuse(GPU)
    with without_kernels_at_first():
        assert can_fuse(GPU)
    assert not can_fuse(torch.device("cpu"))


def test_a_gpu_that_does_not_exist_is_not_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between, "_build", lambda index: pytest.fail("tried"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    prepare_gpu(1)
    assert between._prepared.cache_info().misses == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_process_forks_when_all_libraries_of_all_gpus_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def slowly() -> ModuleType:
        time.sleep(0.2)
        done.append("imported")
        return ModuleType("kernels")

    monkeypatch.setattr(between, "kernels", slowly)
    monkeypatch.setattr(between, "upsampling", slowly)
    monkeypatch.setattr(between, "_load_convolutions", lambda index: done.append("loaded"))
    prepare_kernels(GPU)
    prepare_kernels(torch.device("cuda:1"))
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(len(done)))
    process.start()
    process.join()
    assert process.exitcode == 2 * 3


@pytest.mark.parametrize("lacking", ["between_convolutions", "add_change_up"])
def test_if_one_kernel_cannot_be_built_none_is_used(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"no {lacking}")

    module = Mock(spec_set=["between_convolutions", "add_change_up"], **{lacking: fail})
    monkeypatch.setattr(between, "kernels", lambda: module)
    monkeypatch.setattr(between, "upsampling", lambda: module)
    monkeypatch.setattr(torch, "zeros", lambda *size, **_: torch.ones(size))
    with pytest.warns(CgpipeWarning, match=rf"cannot build kernels \(no {lacking}\)"):
        assert not can_fuse(GPU)


def test_kernels_that_cannot_be_built_are_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(index: int) -> None:
        raise RuntimeError(f"no compiler for {index}\nand much more")

    monkeypatch.setattr(between, "_build", fail)
    prepare_kernels(GPU)  # in a thread, which says nothing
    with without_kernels_at_first():
        assert not can_fuse(GPU)
    with pytest.warns(CgpipeWarning, match=r"cannot build kernels \(no compiler for 0\): continuing without"):
        assert not can_fuse(GPU)
    assert not can_fuse(GPU)
