"""Starts a GPU's driver while torch is being imported: both take long, and neither needs the other."""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress

LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"


def first_gpu(device: str) -> int | None:
    """The number of the first CUDA GPU in a device as the user named it, if it may be one."""
    kind, _, number = device.partition(",")[0].partition(":")
    if kind not in ("auto", "cuda"):
        return None
    return int(number) if number.isdigit() else 0


def start_driver(index: int) -> threading.Thread:
    """Begins to start the CUDA driver for a GPU, in a thread; without a driver does nothing.

    What torch does first on a GPU then takes no time. Errors are left to torch, which meets them again and names them.
    """
    thread = threading.Thread(target=_start, args=(index,), daemon=True)
    thread.start()
    return thread


def _start(index: int) -> None:
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL(LIBRARY)  # ctypes calls without the interpreter's lock
        place, context = ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(place), index) == 0:
            # The primary context is the one that torch uses. It is kept until the process ends.
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), place)
