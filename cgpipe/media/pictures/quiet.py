"""Keeps C libraries from writing to the terminal: libjpeg's warnings would stand there without the name of a file."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock

_lock = Lock()
_hiding = 0


@contextmanager
def c_warnings_hidden() -> Iterator[None]:
    """What C code prints to ``stderr`` is thrown away until the body ends; Python's own ``sys.stderr`` works on.

    Several threads may be inside at a time. Only where the C library is glibc, as on most of Linux; elsewhere nothing
    is done.
    """
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(change: int) -> None:
    global _hiding
    streams = _streams()
    if streams is None:
        return
    variable, shown, hidden = streams
    with _lock:
        _hiding += change
        variable.value = hidden if _hiding else shown


@lru_cache(maxsize=1)
def _streams() -> tuple[ctypes.c_void_p, int, int] | None:
    """The variable ``stderr`` of the C library, its stream, and one that leads nowhere."""
    if os.name != "posix":
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - raises where the C library is another one
        variable = ctypes.c_void_p.in_dll(library, "stderr")
        library.fopen.restype = ctypes.c_void_p
        hidden = library.fopen(os.devnull.encode(), b"w")
    except (OSError, AttributeError, ValueError):
        return None
    return (variable, variable.value, hidden) if variable.value and hidden else None
