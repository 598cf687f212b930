"""Memory: keeps freed blocks for the next picture, recognises out-of-memory errors, estimates a network's need."""

from __future__ import annotations

import copy
import ctypes
import platform

import torch
from torch import nn

from cgpipe.networks import Generator
from cgpipe.storage import available_memory as available_memory

FOR_PICTURES = 256 << 20
FOR_TRAINING = 2**31 - 1
"""The largest value that the C library accepts."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from malloc.h

_kept = 0


def keep_freed_memory(most: int = FOR_PICTURES) -> None:
    """Lets this process keep up to ``most`` bytes of freed memory for the next picture, if the C library is glibc.

    By default glibc returns large blocks to the system at once, and every picture pays for mapping and clearing them
    again: 4,500 page faults and 14 of 263 ms for a ResNet of 9 blocks at 256x256 on two cores of a Zen 4, and 90,000
    and half a second per training step. The limit is never lowered again.
    """
    global _kept
    if platform.libc_ver()[0] == "glibc" and most > _kept:
        _kept = most
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, most)
        libc.mallopt(_MMAP_THRESHOLD, most)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory: torch's CPU allocator has no exception type of its own."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "bad_alloc")
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return out_of_memory or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))


def bytes_a_pixel(network: Generator) -> float:
    """Lower bound of a network's memory in bytes per input pixel: a layer's input and output in fp32.

    Found without computing anything, on torch's meta device.
    """
    largest = 0
    side = 32 * network.multiple

    def check(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, output.numel() + sum(x.numel() for x in inputs))

    shapes = copy.deepcopy(network).to("meta")
    for module in shapes.modules():
        if not any(module.children()):
            module.register_forward_hook(check)
    with torch.inference_mode():
        shapes(torch.empty(1, network.channels[0], side, side, device="meta"))
    return 4 * largest / side**2
