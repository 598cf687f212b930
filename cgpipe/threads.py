"""Ends threads whole, even if Ctrl-C is pressed meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]
"""Those that end a command; Windows has no SIGHUP."""


def end_pool(pool: ThreadPoolExecutor) -> None:
    """Waits for the tasks of a pool that have begun; the others are cancelled."""
    with signals_deferred():
        pool.shutdown(wait=True, cancel_futures=True)


def end_thread(thread: threading.Thread) -> None:
    """Waits for a thread."""
    with signals_deferred():
        thread.join()


@contextmanager
def signals_deferred() -> Iterator[None]:
    """A signal that would raise an exception raises it when the block ends; a second one does so at once.

    Before Python 3.13, an interrupted ``Thread.join`` takes a running thread for ended (python/cpython#90882), and the
    interpreter does not wait for it. If such a thread then frees a tensor, the process aborts.
    """
    if threading.current_thread() is not threading.main_thread():  # no signal is handled in any other
        yield
        return
    handlers = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    came: list[tuple[int, FrameType | None]] = []

    def defer(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        if len(came) > 1:
            deliver()

    def deliver() -> None:
        while came:
            number, frame = came.pop(0)
            handlers[number](number, frame)

    try:
        for number in handlers:
            signal.signal(number, defer)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        deliver()
