"""Times the stages of a job."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Times a job from its creation on.

    Attributes:
        first: seconds of each step up to the first result, in order: ``find`` the model and the inputs, ``load`` torch
            and the model, ``prepare`` it for the device, then for the first picture ``decode``, ``inference`` (with the
            trial of its precision, and compiling) and ``encode``, until it is written.
        seconds: by stage, summed over all pictures.
    """

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._began = self._last = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    def reached(self, step: str) -> None:
        """Ends a step up to the first result; only the first call counts."""
        if step not in self.first:
            now = time.perf_counter()
            self.first[step] = now - self._last
            self._last = now

    def add(self, stage: str, seconds: float) -> None:
        """Adds time of a stage that was measured elsewhere."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def running(self, stage: str) -> Iterator[None]:
        """Adds the time of the body."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began)

    def timed(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Passes ``items`` on, and adds the time spent getting them."""
        iterator = iter(items)
        while True:
            with self.running(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Times rounded to the millisecond, for a report."""
    return {stage: round(value, 3) for stage, value in seconds.items()}
