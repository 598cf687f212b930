"""How the items of a job are shared out among many workers, of which some are lost on the way.

Items go out in chunks: small ones at first, then as many as take a worker some seconds, and small ones again towards
the end, so that all end together (guided self-scheduling, Polychronopoulos and Kuck 1987). A chunk whose worker is
lost goes out again, each of its items alone, so that one that kills its workers takes no others with it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

FIRST = 4
"""Items of the first chunks, of which nobody knows how long they take."""

LARGEST = 256
"""Items of a chunk at most: what is done again when a worker is lost."""

SECONDS = 5.0
"""How long a chunk is to take."""

MOST_TRIES = 3
"""Workers that may be lost with an item before it is given up: no item is begun more often than that."""


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """One piece of work and its place among all."""

    index: int
    value: T


Chunk = tuple[Item[T], ...]


class Chunks(Generic[T]):
    """Shares items out in chunks. Each is either done or given up in the end.

    Args:
        items: in their order; read as they are needed.
        count: how many they are.
        largest: items of a chunk at most.
    """

    def __init__(self, items: Iterator[Item[T]], count: int, *, largest: int = LARGEST) -> None:
        self._items = items
        self._unread = count
        self._largest = largest
        self._returned: deque[Item[T]] = deque()
        self._tries: Counter[int] = Counter()
        self._seconds = 0.0  # an item, as the latest chunks took it

    @property
    def waiting(self) -> int:
        """Items that no worker has."""
        return self._unread + len(self._returned)

    def take(self, workers: int) -> Chunk[T]:
        """The next chunk for one of some workers; empty if nothing waits."""
        if self._returned:
            return (self._returned.popleft(),)
        chunk = tuple(islice(self._items, self._size(workers)))
        self._unread = self._unread - len(chunk) if chunk else 0
        return chunk

    def is_again(self, chunk: Chunk[T]) -> bool:
        """Whether a lost worker had any of it, and may have finished it."""
        return any(item.index in self._tries for item in chunk)

    def done(self, chunk: Chunk[T], seconds: float) -> None:
        """A chunk came back."""
        each = seconds / len(chunk)
        self._seconds = each if not self._seconds else 0.7 * self._seconds + 0.3 * each

    def lost(self, chunk: Chunk[T], *, begun: bool = True) -> Chunk[T]:
        """A chunk's worker was lost; gives the items that are tried no more.

        Args:
            begun: whether the worker was at it; else it is as if it had never gone out.
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
