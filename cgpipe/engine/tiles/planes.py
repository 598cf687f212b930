"""Planes of a network that are kept between two passes: in memory while they are small, else on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Protocol, Self

import torch

from cgpipe.engine.tiles.operations import Region, Size
from cgpipe.storage import PREFIX, PathLike


class Plane(Protocol):
    """The whole output of a layer for a picture."""

    def read(self, region: Region) -> torch.Tensor:
        """Reads a region: (1, C, h, w)."""


class Store(Plane, Protocol):
    """A plane that is filled region by region."""

    bytes: int

    def write(self, region: Region, values: torch.Tensor) -> None:
        """Stores a region: (1, C, h, w)."""

    def close(self) -> None:
        """Frees its memory or file."""


class InMemory:
    """A plane in device memory."""

    def __init__(self, size: Size, like: torch.Tensor) -> None:
        shape = (1, like.shape[1], *size)
        self._values = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
        self.bytes = self._values.nbytes

    def read(self, region: Region) -> torch.Tensor:
        return self._values[..., slice(*region.rows), slice(*region.columns)]

    def write(self, region: Region, values: torch.Tensor) -> None:
        self.read(region).copy_(values)

    def close(self) -> None:
        del self._values


class OnDisk:
    """A plane in an unnamed file, line by line with channels last, which vanishes when the process is killed.

    It is read and written by system calls, not mapped: mapped pages count as this process's memory.
    """

    def __init__(self, size: Size, like: torch.Tensor, folder: PathLike | None) -> None:
        self._size = size
        self._channels, self._dtype, self._device = like.shape[1], like.dtype, like.device
        self._pixel = self._channels * like.element_size()
        self.bytes = size.height * size.width * self._pixel
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0, prefix=PREFIX)  # noqa: SIM115
        self._file.truncate(self.bytes)

    def read(self, region: Region) -> torch.Tensor:
        lines = torch.empty((region.rows.length, region.columns.length, self._channels), dtype=self._dtype)
        for place, line in self._lines(region, lines):
            self._file.seek(place)
            _all_of(self._file.readinto, line)
        return lines.to(self._device).permute(2, 0, 1)[None]

    def write(self, region: Region, values: torch.Tensor) -> None:
        lines = values[0].permute(1, 2, 0).contiguous().cpu()
        for place, line in self._lines(region, lines):
            self._file.seek(place)
            _all_of(self._file.write, line)

    def close(self) -> None:
        self._file.close()

    def _lines(self, region: Region, lines: torch.Tensor) -> list[tuple[int, memoryview]]:
        """The file offset of each line of a region, and its memory; full-width lines are merged."""
        held = lines.view(torch.uint8).numpy().data.cast("B")
        width, count = region.columns.length, region.rows.length
        start = (region.rows.start * self._size.width + region.columns.start) * self._pixel
        if width == self._size.width:
            return [(start, held)]
        step, one = self._size.width * self._pixel, width * self._pixel
        return [(start + line * step, held[line * one : (line + 1) * one]) for line in range(count)]


def _all_of(move: Callable[[memoryview], int | None], memory: memoryview) -> None:
    """Transfers all of it: one call transfers 2 GB at most."""
    while memory:
        moved = move(memory)
        if not moved:
            raise OSError("a temporary file ended early")
        memory = memory[moved:]


class Planes:
    """The complete planes, by the index of their step, and those that a pass is filling.

    Args:
        folder: folder of the unnamed files; None: the system's folder for temporary files.
        memory: most bytes of planes in memory.
    """

    def __init__(self, folder: PathLike | None, memory: int) -> None:
        self._folder = folder
        self._memory = memory
        self._whole: dict[int, Store] = {}
        self._filled: dict[int, Store] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle(())

    def __contains__(self, step: object) -> bool:
        return step in self._whole

    def __getitem__(self, step: int) -> Store:
        return self._whole[step]

    @property
    def bytes(self) -> int:
        """Total size of all planes."""
        return sum(plane.bytes for plane in self._all())

    def fill(self, step: int, region: Region, values: torch.Tensor, size: Size) -> None:
        """Stores a region of a step's plane, which is created for its first region."""
        if step not in self._filled:
            self._filled[step] = self._new(size, values)
        self._filled[step].write(region, values)

    def settle(self, steps: Collection[int]) -> None:
        """Ends a pass: filled planes are complete, and all but those of ``steps`` are freed."""
        self._whole |= self._filled
        self._filled = {}
        for step in [step for step in self._whole if step not in steps]:
            self._whole.pop(step).close()

    def _all(self) -> list[Store]:
        return [*self._whole.values(), *self._filled.values()]

    def _new(self, size: Size, like: torch.Tensor) -> Store:
        wanted = size.height * size.width * like.shape[1] * like.element_size()
        held = sum(plane.bytes for plane in self._all() if isinstance(plane, InMemory))
        return InMemory(size, like) if held + wanted <= self._memory else OnDisk(size, like, self._folder)
