"""Pixels of pictures larger than memory, in unnamed files, which vanish when the process is killed.

They are ordinary arrays: reading a part loads that part into memory, and :func:`release` drops it again.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from math import prod
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch

from cgpipe.storage import PREFIX, PathLike

_RELEASE = getattr(mmap, "MADV_DONTNEED", None)


class _Mapped(mmap.mmap):
    """A memory-mapped file, owned by its array."""

    folder: PathLike | None = None


_mapped: WeakValueDictionary[int, _Mapped] = WeakValueDictionary()
"""Mappings by address, the only link from a tensor to its file."""


def scratch(shape: tuple[int, ...], dtype: npt.DTypeLike, folder: PathLike | None = None) -> npt.NDArray[Any]:
    """An array of zeros in an unnamed file, which is freed with the array.

    Args:
        folder: on the disk to use; None: the system's folder for temporary files.

    Raises:
        OSError: the disk is full, or the folder does not exist.
    """
    return scratch_from(lambda file: None, shape, dtype, folder)


def scratch_from(
    fill: Callable[[int], None], shape: tuple[int, ...], dtype: npt.DTypeLike, folder: PathLike | None = None
) -> npt.NDArray[Any]:
    """Same as :func:`scratch`, but filled by ``fill``, which writes to the file descriptor.

    Raises:
        OSError: the disk is full, or the folder does not exist.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile(dir=folder, prefix=PREFIX) as file:
        _reserve(file.fileno(), size)
        fill(file.fileno())
        mapped = _Mapped(file.fileno(), size)
    mapped.folder = folder
    array: npt.NDArray[Any] = np.frombuffer(mapped, dtype).reshape(shape)
    _mapped[array.ctypes.data] = mapped
    return array


def _reserve(file: int, size: int) -> None:
    """Allocates the file now: a full disk is an error here, not a crash when a mapped page is written."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def is_scratch(values: torch.Tensor) -> bool:
    """Whether a tensor, or the tensor that it starts, lies in a file."""
    return values.device.type == "cpu" and values.data_ptr() in _mapped


def folder_of(values: torch.Tensor) -> PathLike | None:
    """The folder of a scratch tensor's file; None for any other tensor."""
    mapped = _mapped.get(values.data_ptr()) if values.device.type == "cpu" else None
    return None if mapped is None else mapped.folder


def room_for(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """An empty tensor of the dtype of ``like``, stored as that is: in a file, or on its device."""
    if not is_scratch(like):
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    dtype = torch.empty(0, dtype=like.dtype).numpy().dtype
    return torch.from_numpy(scratch(shape, dtype, folder_of(like)))


def release(*tensors: torch.Tensor) -> None:
    """Drops scratch tensors from this process's memory; their values stay in the file. Other tensors are ignored."""
    for values in tensors:
        mapped = _mapped.get(values.data_ptr()) if values.device.type == "cpu" else None
        if mapped is not None and _RELEASE is not None:
            with suppress(OSError):
                mapped.madvise(_RELEASE)
