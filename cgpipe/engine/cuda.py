"""Batches on a GPU: copies overlap computation, through reused pinned memory, and work is replayed as CUDA graphs."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import cycle
from math import prod
from threading import Lock
from typing import Generic, NamedTuple, Protocol, TypeVar
from weakref import WeakSet

import torch

from cgpipe.engine.memory import is_out_of_memory
from cgpipe.errors import CgpipeWarning
from cgpipe.media.planar import Planar


class Translated(NamedTuple):
    """The translation of a batch.

    Args:
        pixels: (N, H, W, C) integers.
        sums: (N,) float32, sum of the network's output for each picture: not finite if any value is not.
    """

    pixels: torch.Tensor
    sums: torch.Tensor


Stream = TypeVar("Stream")
Event = TypeVar("Event")
Made = TypeVar("Made")

Work = Callable[..., Translated]
"""Translates (N, H, W, C) integers, on the device; given a layout too, planes of YUV (see :mod:`cgpipe.engine.yuv`)."""

SMALL_BYTES = 1 << 20
"""Bytes of a batch up to which upload, translation and download share one stream."""
MAX_GRAPHS = 8
"""Most graphs that are kept: each holds the memory of its batch."""
MAX_GRAPH_PIXELS = 1 << 22
"""Pixels that the generator sees in a batch up to which kernel launches dominate; beyond, the GPU is busy anyway."""


class Gpu(Protocol[Stream, Event]):
    """What a :class:`GpuPipeline` needs of a GPU. Streams run side by side; work within one runs in order."""

    def host_memory(self, size: int) -> torch.Tensor:
        """``size`` bytes of pinned memory."""

    def device_memory(self, size: int) -> torch.Tensor:
        """``size`` bytes on the device."""

    def stream(self) -> Stream:
        """A new stream."""

    def run(self, stream: Stream, work: Callable[[], object]) -> None:
        """Appends work to a stream, without waiting."""

    def mark(self, stream: Stream) -> Event:
        """An event that occurs when a stream has finished its work so far."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Makes a stream, but not the caller, wait for an event."""

    def finish(self, event: Event) -> None:
        """Makes the caller wait for an event."""


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


class GpuPipeline(Generic[Stream, Event]):
    """Runs batches on one GPU, several at a time.

    A batch is written to pinned memory, uploaded, translated and downloaded, in three streams that events keep in
    order: while one batch is computed, the next is uploaded and the one before is downloaded. Only integers cross the
    bus. The caller waits only for the result that it asks for, never for the whole device.

    Args:
        gpu: the GPU.
        work: translates pixels on the device.
        depth: batches that may be in flight when another one is sent.
        enlarges: factor by which height and width of the result exceed those of the input.
        channels: of the result.
    """

    def __init__(self, gpu: Gpu[Stream, Event], work: Work, depth: int, enlarges: int = 1, channels: int = 3) -> None:
        self._gpu = gpu
        self._work = work
        self._up, self._compute, self._down = gpu.stream(), gpu.stream(), gpu.stream()
        self._slots = cycle([_Slot(gpu, enlarges, channels) for _ in range(depth + 1)])

    def send(self, pixels: torch.Tensor, count: int = 0, planar: Planar | None = None) -> Callable[[], Translated]:
        """Starts a batch, and returns a function that waits for its translation.

        Args:
            pixels: (N, H, W, C) integers on the CPU.
            count: pictures to which the batch is padded, with arbitrary content, so that all batches of a stream have
                one shape; the translations of the padding are discarded.
            planar: the layout of the pixels, if they are planes of YUV.
        """
        gpu, slot = self._gpu, next(self._slots)
        slot.settle()  # Keeps the slot's last result if the caller has not fetched it yet.
        shape = (max(count, len(pixels)), *pixels.shape[1:])
        staged, there, back, sums = slot.shaped(shape, pixels.dtype, planar)
        (staged if len(staged) == len(pixels) else staged[: len(pixels)]).copy_(pixels)

        def translate() -> None:
            # Kept until this slot is reused: the memory must not be freed while it is being downloaded.
            slot.translated = _for_layout(self._work, planar)(there)

        def copy_down() -> None:
            assert slot.translated is not None
            back.copy_(slot.translated.pixels, non_blocking=True)
            sums.copy_(slot.translated.sums, non_blocking=True)

        def copy_up() -> None:
            there.copy_(staged, non_blocking=True)

        def all_of_it() -> None:
            copy_up()
            translate()
            copy_down()

        if staged.nbytes <= SMALL_BYTES:
            # Copies this short cost less than synchronising streams.
            gpu.run(self._compute, all_of_it)
            arrived = gpu.mark(self._compute)
        else:
            gpu.run(self._up, copy_up)
            gpu.wait(self._compute, gpu.mark(self._up))
            gpu.run(self._compute, translate)
            gpu.wait(self._down, gpu.mark(self._compute))
            gpu.run(self._down, copy_down)
            arrived = gpu.mark(self._down)

        @cache
        def fetch() -> Translated:
            gpu.finish(arrived)
            return Translated(back[: len(pixels)].clone(), sums[: len(pixels)].clone())

        slot.fetch = fetch
        return fetch

    def send_there(self, pixels: torch.Tensor, count: int = 0) -> Callable[[], Translated]:
        """Same as :meth:`send` for pixels that lie on the device, all work on them done; their translation stays there.

        Its work is done when it is returned.
        """
        gpu, slot = self._gpu, next(self._slots)
        slot.settle()
        size = max(count, len(pixels))
        sums = slot.sums.shaped((size,), torch.float32)
        slot.given = pixels  # must not be freed while it is read

        def translate() -> None:
            slot.translated = self._work(_padded(pixels, size))
            sums.copy_(slot.translated.sums, non_blocking=True)

        gpu.run(self._compute, translate)
        arrived = gpu.mark(self._compute)

        @cache
        def fetch() -> Translated:
            gpu.finish(arrived)
            assert slot.translated is not None
            return Translated(slot.translated.pixels[: len(pixels)], sums[: len(pixels)].clone())

        slot.fetch = fetch
        return fetch


def _padded(pixels: torch.Tensor, count: int) -> torch.Tensor:
    """The pixels followed by arbitrary pictures up to a number."""
    if len(pixels) == count:
        return pixels
    padded = pixels.new_zeros((count, *pixels.shape[1:]))
    padded[: len(pixels)].copy_(pixels)
    return padded


class _Slot:
    """The memory of one batch in flight."""

    def __init__(self, gpu: Gpu[Stream, Event], enlarges: int, channels: int) -> None:
        self._enlarges, self._channels = enlarges, channels
        self.staged, self.back, self.sums = (_Memory(gpu.host_memory) for _ in range(3))
        self.there = _Memory(gpu.device_memory)
        self.given: torch.Tensor | None = None
        self.translated: Translated | None = None
        self.fetch: Callable[[], object] | None = None
        self._key: tuple[tuple[int, ...], torch.dtype, Planar | None] | None = None
        self._views: tuple[torch.Tensor, ...] = ()

    def shaped(self, shape: tuple[int, ...], dtype: torch.dtype, planar: Planar | None) -> tuple[torch.Tensor, ...]:
        """The memory as tensors: staged pixels, pixels on the device, and the downloaded pixels and sums."""
        if self._key != (shape, dtype, planar):
            staged, there = (memory.shaped(shape, dtype) for memory in (self.staged, self.there))
            pixels = (shape[0], *(side * self._enlarges for side in shape[1:3]), self._channels)
            back = self.back.shaped(pixels if planar is None else shape, dtype)
            sums = self.sums.shaped(shape[:1], torch.float32)
            self._key, self._views = (shape, dtype, planar), (staged, there, back, sums)
        return self._views

    def settle(self) -> None:
        """Waits for the batch that used this slot."""
        fetch, self.fetch = self.fetch, None
        if fetch:
            fetch()


class _Memory:
    """A buffer that is reallocated only for a larger batch."""

    def __init__(self, make: Callable[[int], torch.Tensor]) -> None:
        self._make = make
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def shaped(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = prod(shape) * dtype.itemsize
        if len(self._bytes) < size:
            self._bytes = self._make(size)
        return self._bytes[:size].view(dtype).view(shape)


def _for_layout(work: Work, planar: Planar | None) -> Work:
    """The work on pixels, or on planes of this layout."""
    return work if planar is None else partial(work, planar=planar)


class Graphs:
    """Records work as one graph per shape and replays it: a replay is one launch instead of a hundred.

    The first batch of a shape runs without a graph, which loads its kernels; the second is recorded. So a folder of
    pictures that all differ in size records nothing. A shape that cannot be recorded always runs without. The least
    recently used graphs are dropped.

    Args:
        work: translates a batch; reads nothing back from the device.
        record: records work on an example, and returns a function that replays it on another batch of that shape.
        suits: whether a batch, of this layout, shall be recorded.
    """

    def __init__(self, work: Work, record: Callable[[Work, torch.Tensor], Work], suits: Callable[..., bool]) -> None:
        self._work = work
        self._record = record
        self._suits = suits
        self._runs: OrderedDict[tuple[torch.Size, torch.dtype, Planar | None], Work] = OrderedDict()
        self._recorded: set[tuple[torch.Size, torch.dtype, Planar | None]] = set()

    def __call__(self, pixels: torch.Tensor, planar: Planar | None = None) -> Translated:
        work = _for_layout(self._work, planar)
        if not self._suits(pixels, planar):
            return work(pixels)
        key = (pixels.shape, pixels.dtype, planar)
        if key not in self._runs:
            self._runs[key] = work
        elif key not in self._recorded:
            self._recorded.add(key)
            self._runs[key] = self._recording(work, pixels)
        self._runs.move_to_end(key)
        if len(self._runs) > MAX_GRAPHS:
            self._recorded.discard(self._runs.popitem(last=False)[0])
        return self._runs[key](pixels)

    def _recording(self, work: Work, pixels: torch.Tensor) -> Work:
        try:
            return self._record(work, pixels)
        except RuntimeError as error:  # torch raises it for everything that cannot be recorded
            go_on_without_graph(error)
            return work


def go_on_without_graph(error: RuntimeError) -> None:
    """Warns of why there is no recording, and frees the memory that it lacked."""
    reason = str(error).strip().partition("\n")[0]
    if is_out_of_memory(error):
        torch.cuda.empty_cache()
        reason = "not enough GPU memory"
    warnings.warn(f"No CUDA graph ({reason}): continuing without.", CgpipeWarning, stacklevel=3)


class CudaRecorder:
    """Records CUDA graphs that share their memory: they never run at the same time.

    Recording does nothing on the device. What ``work`` made is returned by each replay, which overwrites it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def __call__(self, work: Callable[[], Made]) -> Callable[[], Made]:
        # torch's own stream for recording belongs to whichever GPU recorded first.
        self._stream = self._stream or torch.cuda.Stream(self._device)
        # With the last of its graphs a pool of memory ends, and torch refuses it.
        pool = next((other.pool() for other in self._graphs), None)
        graph = torch.cuda.CUDAGraph()
        with (
            _recording,
            torch.cuda.device(self._device),
            # Where recording fails, torch leaves its stream as the current one.
            torch.cuda.stream(torch.cuda.current_stream(self._device)),
            # Other threads may allocate memory meanwhile.
            torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            made = work()
        self._graphs.add(graph)

        def replay() -> Made:
            graph.replay()
            return made

        return replay


_recording = Lock()
"""torch records one graph of a process at a time."""


class CudaGraphs:
    """Records CUDA graphs of translations, with the fastest convolutions for their shape."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._record = CudaRecorder(device)

    def __call__(self, work: Work, example: torch.Tensor) -> Work:
        with torch.cuda.device(self._device), _fastest_convolutions():
            given = example.clone()
            work(given)  # Benchmarks convolutions, which is impossible while recording.
            repeat = self._record(partial(work, given))

        def replay(pixels: torch.Tensor) -> Translated:
            given.copy_(pixels)
            made = repeat()
            # The next replay overwrites the graph's memory.
            return Translated(made.pixels.clone(), made.sums.clone())

        return replay


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Lets cuDNN benchmark its algorithms for each shape."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
