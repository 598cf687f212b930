"""SIGTERM and SIGHUP end a command as Ctrl-C does, with the same clean-up."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from importlib.machinery import ExtensionFileLoader
from types import FrameType

from cgpipe.threads import SIGNALS

AGAIN = 0.05
"""Seconds after which a signal comes again that came while a compiled module was being loaded."""
WORDS = {"SIGINT": "Interrupted.", "SIGTERM": "Terminated.", "SIGHUP": "Hung up."}
"""Printed at the end; Windows has no SIGHUP."""

_coming: set[int] = set()
"""Signals that come again. A second one meanwhile is the same wish: heard later, it would disturb the clean-up."""
_LOADING = {ExtensionFileLoader.create_module.__code__, ExtensionFileLoader.exec_module.__code__}


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end. It derives from KeyboardInterrupt, so the same clean-up runs."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop_like_ctrl_c() -> None:
    """Makes SIGTERM and SIGHUP raise :class:`Stopped`, as Ctrl-C does from now on, unless they are ignored (nohup)."""
    heeded = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in heeded:
        signal.signal(number, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    if hasattr(os, "register_at_fork"):
        # Worker processes have nothing to clean up, and end at once.
        os.register_at_fork(after_in_child=lambda: [signal.signal(number, signal.SIG_DFL) for number in heeded])


def _stop(number: int, frame: FrameType | None) -> None:
    if not _is_loading(frame):
        raise Stopped(number)
    # A compiled module may swallow what is raised while it is loaded, and then lack a part: torch has no NumPy.
    if number not in _coming:
        _coming.add(number)
        again = threading.Timer(AGAIN, _come_again, (number,))
        again.daemon = True
        again.start()


def _come_again(number: int) -> None:
    _coming.discard(number)
    _thread.interrupt_main(signal.Signals(number))


def _is_loading(frame: FrameType | None) -> bool:
    """Whether a compiled module is being loaded."""
    while frame is not None and frame.f_code not in _LOADING:
        frame = frame.f_back
    return frame is not None


def number_of(stop: KeyboardInterrupt) -> int:
    """The signal that ended the program."""
    return stop.number if isinstance(stop, Stopped) else signal.SIGINT


def word_for(number: int) -> str:
    """The word that is printed at the end."""
    return WORDS[signal.Signals(number).name]


def exit_code_of(number: int) -> int:
    """128 plus the signal's number, as in shells: 130 for Ctrl-C."""
    return 128 + number
