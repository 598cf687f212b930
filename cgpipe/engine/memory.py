"""Memory that is given back between two pictures only to be asked for again."""

from __future__ import annotations

import ctypes
import platform

KEPT_BYTES = 256 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of malloc.h


def keep_freed_memory() -> None:
    """Lets this process keep up to 256 MB of freed memory for the next picture, where the C library is glibc's.

    By its own settings glibc returns large blocks to the system at once, and every picture pays for clearing and
    mapping them anew: 4,500 page faults and 14 of 263 ms for a ResNet of 9 blocks at 256x256 on two cores of a Zen 4.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, KEPT_BYTES)
