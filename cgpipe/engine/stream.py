"""Batches through one translator or several, in order; one that fails is retried picture by picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
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
    """Starts on a batch, and gives a function that waits for its translation."""

    def __call__(self, batch: Batch[Origin], /) -> Wait[Origin]: ...


IN_FLIGHT = 2
"""Batches given to a GPU before the first result is waited for."""

SMALL_PIXELS = 1 << 20
"""Pixels up to which a batch is small: it then shares a CPU with others, one thread each."""

FATAL = (UsageError, MissingDependencyError, ModelError)
"""Errors that are not a picture's fault: every other would fail alike."""


class OneDevice(Protocol):
    """What a stream asks of a translator."""

    @property
    def overlaps(self) -> bool:
        """Whether it can start on a batch before the one before is done."""

    @property
    def parallel(self) -> bool:
        """Whether several threads may use it at once."""

    def launch(self, batch: Batch[Origin], count: int = 0) -> Wait[Origin]:
        """Starts on a batch, on a GPU filled up to ``count`` pictures."""

    def pixels(self, batch: Batch[Origin]) -> int:
        """How many pixels of a batch the generator will see."""


def stream(
    translators: Sequence[OneDevice], items: Iterable[Batch[Origin] | Failed[Origin]], threads: int
) -> Generator[Batch[Origin] | Failed[Origin], None, None]:
    """Translates the batches among ``items`` and passes the failures through, in order.

    When a batch fails, its pictures are translated one by one, and those that fail again are given
    as failed, with the reason. On CUDA up to :data:`IN_FLIGHT` batches are under way on each GPU before a result is
    waited for; several GPUs take batches in turn. On a CPU as many batches run side by side as torch has threads, one
    thread each: for small networks that is faster than all threads on one, since they never wait for one another. Only
    large batches run alone.

    Args:
        translators: one a device, of the same model.
        threads: that torch may use.

    Raises:
        UsageError, MissingDependencyError, ModelError: none of the pictures could be translated.
        RuntimeError: the device does not work any more.
    """
    # The thread of a pipeline's stage may have been told of fewer.
    torch.set_num_threads(threads)
    try:
        with _workers(translators, threads) as (start, depth):
            under_way: deque[Callable[[], Results[Origin]]] = deque()
            for item in items:
                work = _attempt(start, translators[0], item) if isinstance(item, Batch) else partial(_itself, item)
                under_way.append(work)
                while len(under_way) > depth:
                    yield from under_way.popleft()()
            while under_way:
                yield from under_way.popleft()()
    finally:
        # At once, and not when nothing refers to it any more: the stage before has a thread and an open file.
        if isinstance(items, Generator):
            items.close()


def _itself(item: Failed[Origin]) -> Results[Origin]:
    return [item]


@contextmanager
def _workers(translators: Sequence[OneDevice], threads: int) -> Iterator[tuple[Start, int]]:
    """Who works: a function that starts on a batch, and how many batches may be under way."""
    first = translators[0]
    if len(translators) > 1 or first.overlaps:
        yield _Devices(translators).start, IN_FLIGHT * len(translators)
    elif first.parallel and threads > 1:
        with worker_pool(threads) as pool:
            # While a result is with whoever asked for it, every thread has work.
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
        # The last batch of a clip is filled up to the shape of the others.
        if shape[1:] != self._before[1:] or len(batch) > self._before[0]:
            self._before = shape
        return next(self._turns).launch(batch, self._before[0])


class _Threads:
    """Threads of a CPU: small batches side by side, a large one alone on all of them."""

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
    """Starts on a batch; what it raises, then or later, is handled when the result is requested."""
    try:
        waiting = start(batch)
    except Exception as error:
        failed = error  # The name of an except clause ends with it.
        return lambda: _told_apart(alone, batch, failed)

    def finish() -> Results[Origin]:
        try:
            return [waiting()]
        except Exception as error:
            return _told_apart(alone, batch, error)

    return finish


def _told_apart(alone: OneDevice, batch: Batch[Origin], error: Exception) -> Results[Origin]:
    """The pictures of a batch that failed, one by one; raises errors that are not a picture's fault."""
    if isinstance(error, FATAL) or _device_is_lost(error):
        raise error
    if len(batch) == 1:
        return [Failed(origin=batch.origins[0], reason=_reason(error))]
    found: Results[Origin] = []
    for index, origin in enumerate(batch.origins):
        single = Batch(pixels=batch.pixels[index : index + 1], origins=(origin,))
        found += _attempt(alone.launch, alone, single)()
    return found


def _device_is_lost(error: Exception) -> bool:
    """Whether a GPU has failed for good: after such an error every call fails."""
    lost = ("illegal memory access", "device-side assert", "unspecified launch failure", "launch timed out")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in lost)


def _reason(error: Exception) -> str:
    """An error in a line."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    return line if isinstance(error, CgpipeError) else f"the network failed on it: {line}"
