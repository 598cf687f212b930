"""Keeps C libraries from writing to the terminal: libjpeg's warnings do not name the file."""

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
    """Discards what C code prints to ``stderr`` until the body ends; Python's ``sys.stderr`` still works.

    Several threads may be inside at once. It needs glibc, as most of Linux has; elsewhere it does nothing.
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
    """The C library's variable ``stderr``, its stream, and a stream to the null device."""
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
