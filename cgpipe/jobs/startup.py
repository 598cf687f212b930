"""Where the time before the first result goes."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

from cgpipe.media.frames import Batch

T = TypeVar("T")


class StartUp:
    """A clock that is told of each step on the way to the first result.

    Attributes:
        seconds: what each step took, in their order: ``find`` the model, ``load`` it, ``prepare`` it for the device
            (with the trial of its precision, and compiling), and of the first picture ``decode``, ``inference`` and
            ``encode`` until it is written.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def reached(self, step: str) -> None:
        """Ends a step; only the first time counts."""
        if step not in self.seconds:
            now = time.perf_counter()
            self.seconds[step] = now - self._last
            self._last = now

    def at_first(self, step: str, items: Generator[T, None, None]) -> Generator[T, None, None]:
        """Passes ``items`` on, and ends ``step`` with the first batch among them."""
        with closing(items):
            for item in items:
                if isinstance(item, Batch):
                    self.reached(step)
                yield item
