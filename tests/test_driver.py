"""The CUDA driver starts while torch is imported; here a stand-in for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from cgpipe.engine.driver import LIBRARY, first_gpu, start_driver


class Driver:
    """Notes what is called, and fails where it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.called: list[str] = []
        self.index = -1

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*given: Any) -> int:
            self.called.append(name)
            if name == "cuDeviceGet":
                self.index = given[1]
            return 100 if name == self.fails else 0

        return call


@pytest.mark.parametrize(
    ("device", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1), ("cuda:2,cuda:3", 2), ("cpu", None), ("mps", None)]
)
def test_the_first_gpu_that_is_named_is_the_one(device: str, index: int | None) -> None:
    assert first_gpu(device) == index


def test_the_driver_starts_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver if name == LIBRARY else pytest.fail(name))
    start_driver(2).join()
    assert driver.called == ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"]
    assert driver.index == 2


@pytest.mark.parametrize("fails", ["cuInit", "cuDeviceGet"])
def test_a_driver_that_cannot_start_is_left_to_torch(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(fails)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    start_driver(0).join()
    assert driver.called[-1] == fails


def test_without_a_driver_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    start_driver(0).join()
