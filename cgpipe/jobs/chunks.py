"""Divides the items of a job among many workers, some of which may be lost.

Items are handed out in chunks: small ones at first, then some seconds of work each, and small ones again towards the
end, so that all workers finish together (guided self-scheduling, Polychronopoulos and Kuck 1987). The items of a lost
worker's chunk are retried one by one, so that an item that kills its workers does not take others with it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

FIRST = 4
"""Items of the first chunks, before their speed is known."""

LARGEST = 256
"""Most items of a chunk, which are repeated when a worker is lost."""

SECONDS = 5.0
"""Seconds that a chunk should take."""

MOST_TRIES = 3
"""Workers that may be lost with an item before it is given up."""


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """One item of work and its index."""

    index: int
    value: T


Chunk = tuple[Item[T], ...]


class Chunks(Generic[T]):
    """Hands items out in chunks. Each item ends up done or given up.

    Args:
        items: in order; read lazily.
        count: number of items.
        largest: most items of a chunk.
    """

    def __init__(self, items: Iterator[Item[T]], count: int, *, largest: int = LARGEST) -> None:
        self._items = items
        self._unread = count
        self._largest = largest
        self._returned: deque[Item[T]] = deque()
        self._tries: Counter[int] = Counter()
        self._seconds = 0.0  # an item, as the latest chunks took it

    def add(self, item: Item[T]) -> None:
        """Adds an item that an answer has led to."""
        self._returned.append(item)

    @property
    def waiting(self) -> int:
        """Items that no worker has."""
        return self._unread + len(self._returned)

    def take(self, workers: int) -> Chunk[T]:
        """The next chunk for one of ``workers`` workers; empty if nothing waits."""
        if self._returned:
            return (self._returned.popleft(),)
        chunk = tuple(islice(self._items, self._size(workers)))
        self._unread = self._unread - len(chunk) if chunk else 0
        return chunk

    def is_again(self, chunk: Chunk[T]) -> bool:
        """Whether a lost worker had any item of it, and may have finished it."""
        return any(item.index in self._tries for item in chunk)

    def done(self, chunk: Chunk[T], seconds: float) -> None:
        """Records a finished chunk and its duration."""
        each = seconds / len(chunk)
        self._seconds = each if not self._seconds else 0.7 * self._seconds + 0.3 * each

    def lost(self, chunk: Chunk[T], *, begun: bool = True) -> Chunk[T]:
        """Records a chunk whose worker was lost; returns the items that are given up.

        Args:
            begun: whether the worker had started it; if not, the chunk does not count as tried.
        """
        if begun:
            self._tries.update(item.index for item in chunk)
        given_up = tuple(item for item in chunk if self._tries[item.index] >= MOST_TRIES)
        self._returned.extend(item for item in chunk if self._tries[item.index] < MOST_TRIES)
        return given_up

    def _size(self, workers: int) -> int:
        share = max(1, self._unread // (4 * max(1, workers)))
        pace = FIRST if not self._seconds else max(1, round(SECONDS / self._seconds))
        return min(share, pace, self._largest)
