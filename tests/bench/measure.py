"""Ways of doing one thing, measured in turn: A B A B, so that what else the machine does falls on all alike."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Done:
    """What one run of a way did.

    Args:
        count: pictures or frames.
        seconds: by the way's own clock; None where the whole call counts.
        also: seconds of parts of it that are to be shown as ways of their own, for as many pictures.
    """

    count: int
    seconds: float | None = None
    also: Mapping[str, float] = field(default_factory=dict)


Way = Callable[[], Done]


@dataclass(frozen=True)
class Spread:
    """The median of several runs, and the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        kept = list(values)
        return cls(median=statistics.median(kept), lowest=min(kept), highest=max(kept))


@dataclass
class Runs:
    """All runs of one way."""

    counts: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def add(self, count: int, seconds: float, processor: float | None = None) -> None:
        self.counts.append(count)
        self.seconds.append(seconds)
        if processor is not None:
            self.processor.append(processor)

    @property
    def rate(self) -> Spread:
        """Pictures a second."""
        return Spread.of(count / seconds for count, seconds in zip(self.counts, self.seconds, strict=True))

    @property
    def time(self) -> Spread:
        """Seconds a run."""
        return Spread.of(self.seconds)

    @property
    def processor_each(self) -> float | None:
        """Seconds of processor time a picture, over all cores and processes; None where they were not counted."""
        used = [seconds / count for count, seconds in zip(self.counts, self.processor, strict=False)]
        return statistics.median(used) if used else None


def in_turn(ways: Mapping[str, Way], runs: int) -> dict[str, Runs]:
    """Runs every way once, then every way again, ``runs`` times, and says on standard error how far it is."""
    measured: dict[str, Runs] = {}
    for number in range(runs):
        for name, way in ways.items():
            tell(f"  run {number + 1} of {runs}: {name}")
            started, used = time.perf_counter(), sum(os.times()[:4])
            done = way()
            seconds, processor = time.perf_counter() - started, sum(os.times()[:4]) - used
            measured.setdefault(name, Runs()).add(done.count, done.seconds or seconds, processor)
            for part, part_seconds in done.also.items():
                measured.setdefault(part, Runs()).add(done.count, part_seconds)
    return measured


def repeated(many: Callable[[int], object], seconds: float, device: torch.device, *, batch: int = 1) -> Way:
    """A way that does ``many(n)``, n batches one after the other, for about ``seconds``, and waits for the device.

    How many that is, is found out here; so the first calls, which are slower, are over before anything is measured.
    """

    def timed(count: int) -> float:
        started = time.perf_counter()
        many(count)
        synchronise(device)
        return time.perf_counter() - started

    timed(2)
    count = max(2, math.ceil(seconds * 2 / timed(2)))

    def way() -> Done:
        return Done(count=count * batch, seconds=timed(count))

    return way


def synchronise(device: torch.device) -> None:
    """Waits until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tell(line: str) -> None:
    """Word for whoever waits."""
    print(line, file=sys.stderr, flush=True)
