"""Batches through a GPU: copies up and down beside the computing, through page-locked memory that is used again."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import cycle
from math import prod
from typing import Any, Protocol

import torch

Translate = Callable[[torch.Tensor], torch.Tensor]
"""(N, H, W, C) integers to (N, H, W, 3) of the same type, on the device."""


class Gpu(Protocol):
    """What a :class:`Conveyor` asks of a GPU. Streams work side by side; what is run in one goes in its order."""

    def host_memory(self, size: int) -> torch.Tensor:
        """``size`` bytes of page-locked memory."""

    def device_memory(self, size: int) -> torch.Tensor:
        """``size`` bytes on the device."""

    def stream(self) -> Any:
        """A new stream."""

    def run(self, stream: Any, work: Callable[[], object]) -> None:
        """Puts work at the end of a stream; nobody waits for it."""

    def mark(self, stream: Any) -> Any:
        """An event that happens when a stream has done what it was given up to now."""

    def wait(self, stream: Any, event: Any) -> None:
        """Lets a stream, and not the caller, wait for an event."""

    def finish(self, event: Any) -> None:
        """Lets the caller wait for an event."""


class CudaGpu:
    """A real GPU, as a :class:`Gpu`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def host_memory(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def device_memory(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self._device)

    def run(self, stream: torch.cuda.Stream, work: Callable[[], object]) -> None:
        with torch.cuda.stream(stream):
            work()

    def mark(self, stream: torch.cuda.Stream) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(stream)
        return event

    def wait(self, stream: torch.cuda.Stream, event: torch.cuda.Event) -> None:
        stream.wait_event(event)

    def finish(self, event: torch.cuda.Event) -> None:
        event.synchronize()


class Conveyor:
    """Takes batches through one GPU, several at a time.

    A batch is laid into page-locked memory, copied up, translated, and copied down, in three streams that events keep
    in order: while one batch is computed, the next goes up and the one before comes down. What goes over the bus are
    integers. The caller waits only for the result that it asks for, never for the device as a whole.

    Args:
        gpu: where the work is done.
        translate: what is done with the pixels there.
        depth: batches that may be under way when another one is sent.
    """

    def __init__(self, gpu: Gpu, translate: Translate, depth: int) -> None:
        self._gpu = gpu
        self._translate = translate
        self._up, self._compute, self._down = gpu.stream(), gpu.stream(), gpu.stream()
        self._places = cycle([_Place(gpu) for _ in range(depth + 1)])

    def send(self, pixels: torch.Tensor, count: int = 0) -> Callable[[], torch.Tensor]:
        """Sets a batch on its way, and gives a function that waits for its translation.

        Args:
            pixels: (N, H, W, C) integers on the CPU.
            count: pictures to which the batch is filled up, with whatever lies there, so that all batches of a stream
                have one shape; their translations are thrown away.
        """
        gpu, place = self._gpu, next(self._places)
        place.fetch()  # Who sends more than ``depth`` batches before asking for the first finds it kept.
        shape = (max(count, len(pixels)), *pixels.shape[1:])
        staged, there = (memory.shaped(shape, pixels.dtype) for memory in (place.staged, place.there))
        back = place.back.shaped((*shape[:3], 3), pixels.dtype)
        staged[: len(pixels)].copy_(pixels)

        def translate() -> None:
            # Kept until this place is used again: the memory must not go to another batch while it is copied down.
            place.translated = self._translate(there)

        gpu.run(self._up, lambda: there.copy_(staged, non_blocking=True))
        gpu.wait(self._compute, gpu.mark(self._up))
        gpu.run(self._compute, translate)
        gpu.wait(self._down, gpu.mark(self._compute))
        gpu.run(self._down, lambda: back.copy_(place.translated, non_blocking=True))
        arrived = gpu.mark(self._down)

        @cache
        def fetch() -> torch.Tensor:
            gpu.finish(arrived)
            return back[: len(pixels)].clone()

        place.fetch = fetch
        return fetch


class _Place:
    """The memory of one batch under way."""

    def __init__(self, gpu: Gpu) -> None:
        self.staged, self.back = _Memory(gpu.host_memory), _Memory(gpu.host_memory)
        self.there = _Memory(gpu.device_memory)
        self.translated = torch.empty(0)
        self.fetch: Callable[[], object] = lambda: None


class _Memory:
    """Memory that is kept, and made anew only when a larger batch comes."""

    def __init__(self, make: Callable[[int], torch.Tensor]) -> None:
        self._make = make
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def shaped(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = prod(shape) * dtype.itemsize
        if len(self._bytes) < size:
            self._bytes = self._make(size)
        return self._bytes[:size].view(dtype).view(shape)
