"""Many workers of which some are lost, on a simulated clock, with the real chunks and the real journal on real files.

What is simulated is the time that work takes and when a worker is lost; what is shared out, what a lost worker leaves
behind, and what its successor finds of it is done by the code that a cluster runs.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cgpipe.jobs.chunks import Chunk, Chunks, Item
from cgpipe.jobs.journal import Journal, Standing, stamps_of
from cgpipe.storage import atomic_write


@dataclass
class Outcome:
    """What a simulation saw.

    Args:
        begun: how often each item was begun.
        made: how often each item's file was put in its place.
        reported: how often each item's result came back.
        given_up: items that took too many workers with them.
        lost_workers: how many were lost.
        largest: items of the largest chunk.
        seconds: of the simulated clock, from start to end.
        ideal: seconds that the same work takes where nothing is lost and all is shared out evenly.
    """

    begun: Counter[int] = field(default_factory=Counter)
    made: Counter[int] = field(default_factory=Counter)
    reported: Counter[int] = field(default_factory=Counter)
    given_up: set[int] = field(default_factory=set)
    lost_workers: int = 0
    largest: int = 0
    seconds: float = 0.0
    ideal: float = 0.0


class LostError(Exception):
    """A worker is gone, in the middle of whatever it did."""


@dataclass
class Simulation:
    """One job.

    Args:
        folder: an empty one, for inputs, outputs and journals.
        items: how many pictures.
        workers: how many work at a time; a lost one is replaced after ``replace_after`` seconds.
        loss: the chance that a worker is lost while it does one item.
        deadly: items that every worker is lost at.
        seconds: that an item takes, in the mean.
        seed: of all chances.
    """

    folder: Path
    items: int
    workers: int
    loss: float = 0.001
    deadly: frozenset[int] = frozenset()
    seconds: float = 0.1
    replace_after: float = 30.0
    seed: int = 0

    def run(self) -> Outcome:
        """Simulates until every item has a result."""
        self._chance = random.Random(self.seed)
        self._outcome = Outcome(ideal=self.items * self.seconds / self.workers)
        self._input = self.folder / "input"
        self._input.write_bytes(b"picture")
        chunks = Chunks(iter([Item(index, index) for index in range(self.items)]), self.items)
        events = [(0.0, number, number) for number in range(self.workers)]
        heapq.heapify(events)
        serial, now = self.workers, 0.0
        while events and len(self._outcome.reported) + len(self._outcome.given_up) < self.items:
            now, _, worker = heapq.heappop(events)
            serial += 1
            chunk = chunks.take(self.workers)
            if not chunk:  # others have the rest: look again later
                heapq.heappush(events, (now + self.seconds, serial, worker))
                continue
            self._outcome.largest = max(self._outcome.largest, len(chunk))
            taken, survived = self._work(worker, chunk, chunks.is_again(chunk))
            if survived:
                chunks.done(chunk, taken)
                self._outcome.reported.update(item.index for item in chunk)
                heapq.heappush(events, (now + taken, serial, worker))
            else:
                self._outcome.lost_workers += 1
                self._outcome.given_up.update(item.index for item in chunks.lost(chunk))
                heapq.heappush(events, (now + taken + self.replace_after, serial, serial))
        self._outcome.seconds = max(now, *(event[0] for event in events)) if events else now
        return self._outcome

    def _work(self, worker: int, chunk: Chunk[int], again: bool) -> tuple[float, bool]:
        """How long a worker was at a chunk, and whether it is still there."""
        taken = 0.0
        with Journal("job", looks_made=lambda one, other: False) as journal, suppress(LostError):
            for item in chunk:
                taken += self._chance.expovariate(1 / self.seconds)
                if again and journal.standing(self._output(item.index), [self._input]) is Standing.CURRENT:
                    continue
                self._outcome.begun[item.index] += 1
                self._make(item.index, journal)
            return taken, True
        return taken, False

    def _make(self, index: int, journal: Journal) -> None:
        """Puts an item's file in its place; a worker may be lost before, or after it and before it says so."""
        fate = self._chance.random()
        if fate < self.loss / 2 or index in self.deadly:
            raise LostError
        with atomic_write(
            self._output(index), publish=journal.publisher([self._input], stamps_of([self._input]))
        ) as temporary:
            temporary.write_bytes(b"%d" % index)
        self._outcome.made[index] += 1
        if fate < self.loss:
            raise LostError

    def _output(self, index: int) -> Path:
        return self.folder / f"out-{index % 8}" / f"{index}.png"

    def outputs(self) -> Iterator[Path]:
        """The files that are there."""
        return self.folder.glob("out-*/*.png")
