"""Stops a run on a signal, between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cgpipe.parallel import is_member
from cgpipe.threads import SIGNALS


class StopRequest:
    """A request to stop, and the signal that made it."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def heed(self, number: int, frame: object) -> None:
        """Handles a signal; a second one interrupts at once.

        With several processes each gets one from the terminal and one from the launcher, so only the first counts.
        """
        if self and not is_member():
            raise KeyboardInterrupt
        self.signal = self.signal or number


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yields a request that SIGINT, SIGTERM or SIGHUP sets, unless they are ignored, as with nohup."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, request.heed) for number in heeded}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
