"""Streams batches through one or several translators, in order; a failed batch is retried picture by picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any, Protocol

import torch

from cgpipe.engine.worker_pool import worker_pool
from cgpipe.errors import CgpipeError, MissingDependencyError, ModelError, UsageError
from cgpipe.media.frames import Batch, Failed, Origin

Wait = Callable[[], Batch[Origin]]
Results = list[Batch[Origin] | Failed[Origin]]


class Start(Protocol):
    """Starts a batch, and returns a function that waits for its translation."""

    def __call__(self, batch: Batch[Origin], /) -> Wait[Origin]: ...


IN_FLIGHT = 2
"""Batches sent to a GPU before waiting for the first result."""

SMALL_PIXELS = 1 << 20
"""Pixels up to which a batch counts as small, and shares a CPU with others, one thread each."""

FATAL = (UsageError, MissingDependencyError, ModelError)
"""Errors that are not a picture's fault: all others would fail too."""


class OneDevice(Protocol):
    """The interface of a translator for a stream."""

    @property
    def overlaps(self) -> bool:
        """Whether it can start a batch before the previous one is done."""

    @property
    def parallel(self) -> bool:
        """Whether several threads may use it at once."""

    def launch(self, batch: Batch[Origin], count: int = 0) -> Wait[Origin]:
        """Starts a batch, on a GPU padded to ``count`` pictures."""

    def pixels(self, batch: Batch[Origin]) -> int:
        """How many pixels of a batch the generator will see."""


def stream(
    translators: Sequence[OneDevice],
    items: Iterable[Batch[Origin] | Failed[Origin]],
    threads: int,
    on_batch: Callable[[], object] | None = None,
) -> Generator[Batch[Origin] | Failed[Origin], None, None]:
    """Translates the batches among ``items`` and passes the failures through, in order.

    When a batch fails, its pictures are translated one by one, and those that fail again become :class:`Failed`, with
    the reason. On CUDA up to :data:`IN_FLIGHT` batches are in flight on each GPU; several GPUs take batches in turn. On
    a CPU as many batches run side by side as torch has threads, one thread each: for small networks that is faster than
    all threads on one batch, since they never wait for one another. Large batches run alone.

    Args:
        translators: one per device, of the same model.
        threads: number of threads that torch may use.
        on_batch: called before each batch is started.

    Raises:
        UsageError, MissingDependencyError, ModelError: none of the pictures could be translated.
        RuntimeError: the device has failed for good.
    """
    # The thread of a pipeline stage may have been limited to fewer.
    torch.set_num_threads(threads)
    try:
        with _workers(translators, threads) as (start, depth):
            under_way: deque[Callable[[], Results[Origin]]] = deque()
            for item in items:
                if on_batch and isinstance(item, Batch):
                    on_batch()
                work = _attempt(start, translators[0], item) if isinstance(item, Batch) else partial(_itself, item)
                under_way.append(work)
                while len(under_way) > depth:
                    yield from under_way.popleft()()
            while under_way:
                yield from under_way.popleft()()
    finally:
        # Closed now, not when it is garbage-collected: the previous stage has a thread and an open file.
        if isinstance(items, Generator):
            items.close()


def _itself(item: Failed[Origin]) -> Results[Origin]:
    return [item]


@contextmanager
def _workers(translators: Sequence[OneDevice], threads: int) -> Iterator[tuple[Start, int]]:
    """A function that starts a batch, and how many batches may be in flight."""
    first = translators[0]
    if len(translators) > 1 or first.overlaps:
        yield _Devices(translators).start, IN_FLIGHT * len(translators)
    elif first.parallel and threads > 1:
        with worker_pool(threads) as pool:
            # Besides the result that the caller is handling, so that every thread has work.
            yield _Threads(first, pool).start, threads
    else:
        yield first.launch, 0


class _Devices:
    """Devices that take batches in turn."""

    def __init__(self, translators: Sequence[OneDevice]) -> None:
        self._turns = cycle(translators)
        self._before = torch.Size((0,))

    def start(self, batch: Batch[Origin]) -> Wait[Origin]:
        shape = batch.pixels.shape
        # The last batch of a clip is padded to the shape of the others.
        if shape[1:] != self._before[1:] or len(batch) > self._before[0]:
            self._before = shape
        return next(self._turns).launch(batch, self._before[0])


class _Threads:
    """CPU threads: small batches side by side, a large one alone on all of them."""

    def __init__(self, translator: OneDevice, pool: ThreadPoolExecutor) -> None:
        self._translator = translator
        self._pool = pool
        self._at_work: set[Future[Any]] = set()

    def start(self, batch: Batch[Origin]) -> Wait[Origin]:
        self._at_work = {future for future in self._at_work if not future.done()}
        if self._translator.pixels(batch) > SMALL_PIXELS:
            wait(self._at_work)
            return self._translator.launch(batch)
        future = self._pool.submit(lambda: self._translator.launch(batch)())
        self._at_work.add(future)
        return future.result


def _attempt(start: Start, alone: OneDevice, batch: Batch[Origin]) -> Callable[[], Results[Origin]]:
    """Starts a batch; exceptions, now or later, are handled when the result is requested."""
    try:
        waiting = start(batch)
    except Exception as error:
        failed = error  # Python deletes the name after the except clause.
        return lambda: _retry_each(alone, batch, failed)

    def finish() -> Results[Origin]:
        try:
            return [waiting()]
        except Exception as error:
            return _retry_each(alone, batch, error)

    return finish


def _retry_each(alone: OneDevice, batch: Batch[Origin], error: Exception) -> Results[Origin]:
    """Retries the pictures of a failed batch one by one; raises errors that are not a picture's fault."""
    if isinstance(error, FATAL) or _device_is_lost(error):
        raise error
    if len(batch) == 1:
        return [Failed(origin=batch.origins[0], reason=_reason(error))]
    found: Results[Origin] = []
    for index, origin in enumerate(batch.origins):
        single = replace(batch, pixels=batch.pixels[index : index + 1], origins=(origin,))
        found += _attempt(alone.launch, alone, single)()
    return found


def _device_is_lost(error: Exception) -> bool:
    """Whether a GPU has failed for good: after such an error every call fails."""
    lost = ("illegal memory access", "device-side assert", "unspecified launch failure", "launch timed out")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in lost)


def _reason(error: Exception) -> str:
    """An error as one line."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if isinstance(error, CgpipeError) else f"the network failed on it: {line}"
