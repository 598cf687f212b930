"""The CUDA driver starts while torch is imported; here a stand-in for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from cgpipe.engine.driver import LIBRARY, start_driver


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
    ("device", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1), ("cuda:2,cuda:3", 2), ("cpu", -1), ("mps", -1)]
)
def test_the_first_gpu_that_is_named_starts(device: str, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver if name == LIBRARY else pytest.fail(name))
    thread = start_driver(device)
    if thread is not None:
        thread.join()
    assert driver.index == index
    assert bool(driver.called) == (index >= 0)


@pytest.mark.parametrize("fails", ["cuInit", "cuDeviceGet"])
def test_a_driver_that_cannot_start_is_left_to_torch(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(fails)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: driver)
    thread = start_driver("cuda")
    assert thread is not None
    thread.join()
    assert driver.called[-1] == fails


def test_without_a_driver_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    thread = start_driver("cuda")
    assert thread is not None
    thread.join()
