"""Training pictures on a GPU: read ahead by threads, kept there as far as they fit."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from cgpipe.data.direction import Domain
from cgpipe.data.unpaired import TrainingPictures

Key = tuple[Domain, int]

ROOM = 0.1
"""Fraction of a GPU's free memory for pictures."""


class PicturesAhead:
    """Decoded pictures of a set on a device, (height, width, channels).

    Those that come first stay there, since every picture is needed once an epoch. The others are read whenever they are
    needed.

    Args:
        sets: the pictures.
        device: where they shall be.
        room: bytes for them there.
        threads: threads that read; 0: pictures are read when they are asked for.
    """

    def __init__(self, sets: TrainingPictures, device: torch.device, room: int, threads: int) -> None:
        self.room = room
        self._sets, self._device = sets, device
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pictures") if threads else None
        self._kept: dict[Key, torch.Tensor] = {}
        self._coming: dict[Key, Future[torch.Tensor]] = {}

    def expect(self, domain: Domain, number: int) -> None:
        """Begins to read a picture that will be asked for."""
        key = domain, number
        if self._threads and key not in self._kept and key not in self._coming:
            self._coming[key] = self._threads.submit(self._read, domain, number)

    def load(self, domain: Domain, number: int) -> torch.Tensor:
        """A picture, not to be changed.

        Raises:
            MediaError: the picture or its mask cannot be read; the message names it.
        """
        key = domain, number
        kept = self._kept.get(key)
        if kept is None:
            coming = self._coming.pop(key, None)
            read = coming.result() if coming else self._read(domain, number)
            kept = read.to(self._device, non_blocking=True)
            if kept.nbytes <= self.room:
                self.room -= kept.nbytes
                self._kept[key] = kept
        return kept

    def _read(self, domain: Domain, number: int) -> torch.Tensor:
        pixels = torch.from_numpy(self._sets.load(domain, number))
        return pixels.pin_memory() if self._device.type == "cuda" else pixels


def room_for_pictures(device: torch.device) -> int:
    """Bytes for pictures on a GPU."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(ROOM * free)
