"""Decoded pictures, kept in memory that the processes of a loader share."""

from __future__ import annotations

import math
import mmap
import multiprocessing

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

_KINDS: tuple[type[np.uint8] | type[np.float32], ...] = (np.uint8, np.float32)


class PictureCache:
    """Decoded pictures by number, as far as they fit.

    Those that come first stay: when every picture is needed once an epoch, in a new order each time, nothing that
    replaces one by another is reached more often. Processes that are forked share it; one that is started anew, as on
    Windows, has none.

    Args:
        count: pictures that there are.
        size: bytes of memory for them, which are taken only as they are filled; 0: nothing is kept.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size if count else 0
        if self.size:
            table = 8 * (5 * count + 1)
            self._memory = mmap.mmap(-1, table + self.size)
            numbers = np.frombuffer(self._memory, np.int64, 5 * count + 1)
            self._filled, self._table = numbers[:1], numbers[1:].reshape(count, 5)
            self._bytes = np.frombuffer(self._memory, np.uint8, offset=table)
            self._lock = multiprocessing.Lock()

    def __reduce__(self) -> tuple[type[PictureCache], tuple[int, int]]:
        return PictureCache, (0, 0)

    def get(self, number: int) -> Pixels | None:
        """A picture that was kept, (height, width, channels), not to be changed; None for others."""
        if not self.size:
            return None
        there, start, *shape = self._table[number].tolist()
        if not there:
            return None
        kind = np.dtype(_KINDS[there - 1])
        length = math.prod(shape) * kind.itemsize
        pixels: Pixels = self._bytes[start : start + length].view(kind).reshape(shape)
        return pixels

    def put(self, number: int, pixels: Pixels) -> None:
        """Keeps a picture, if there is still room."""
        if not self.size:
            return
        with self._lock:
            start = -int(self._filled[0]) % 8 + int(self._filled[0])
            if self._table[number, 0] or start + pixels.nbytes > self.size:
                return
            self._bytes[start : start + pixels.nbytes] = np.frombuffer(np.ascontiguousarray(pixels), np.uint8)
            self._table[number, 1:] = (start, *pixels.shape)
            self._filled[0] = start + pixels.nbytes
            self._table[number, 0] = 1 + _KINDS.index(pixels.dtype.type)  # last: from now on it is there
