"""Runs a stage of the pipeline in its own thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import closing, suppress
from typing import TypeVar

from cgpipe.threads import end_thread

T = TypeVar("T")


class _End:
    """Marks the end of the items."""


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(items: Iterable[T], depth: int, stop: threading.Event | None = None) -> Generator[T, None, None]:
    """Yields ``items`` in order while a thread prepares up to ``depth`` of them ahead.

    Exceptions of the thread are raised here. When this generator is closed, or its consumer fails, the thread closes
    ``items``, ends, and is joined: nothing is left running or open.

    Args:
        stop: set if the consumer leaves before the end, so that long work on one item can end early.
    """
    ready: queue.Queue[T | _Failure | _End] = queue.Queue(maxsize=depth)
    stop = stop or threading.Event()
    thread = threading.Thread(target=_produce, args=(items, ready, stop), name="cgpipe-prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            if isinstance(item, _Failure):
                raise item.error
            yield item
    except BaseException:
        stop.set()
        raise
    finally:
        # The thread may be waiting for room in the queue.
        with suppress(queue.Empty):
            while True:
                ready.get_nowait()
        end_thread(thread)


def _produce(items: Iterable[T], ready: queue.Queue[T | _Failure | _End], stop: threading.Event) -> None:
    try:
        with closing(_as_generator(items)) as source:
            for item in source:
                if not _put(ready, item, stop):
                    return
        _put(ready, _End(), stop)
    except BaseException as error:  # raised again in the reader's thread
        _put(ready, _Failure(error), stop)


def _as_generator(items: Iterable[T]) -> Generator[T, None, None]:
    """Wraps an iterable in a generator whose ``close`` closes the iterator inside."""
    iterator = iter(items)
    try:
        yield from iterator
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def _put(ready: queue.Queue[T], item: T, stop: threading.Event) -> bool:
    while not stop.is_set():
        with suppress(queue.Full):
            ready.put(item, timeout=0.1)
            return True
    return False
