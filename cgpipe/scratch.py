"""Pixels of pictures that are larger than memory, in files without a name; nothing is left of them after a kill.

They are ordinary arrays: reading a part brings that part into memory, and :func:`release` lets go of it again.
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
    """A file of its own in memory."""

    folder: PathLike | None = None


_mapped: WeakValueDictionary[int, _Mapped] = WeakValueDictionary()
"""By address: of a tensor nothing else says where its values are."""


def scratch(shape: tuple[int, ...], dtype: npt.DTypeLike, folder: PathLike | None = None) -> npt.NDArray[Any]:
    """An array of zeros in a file without a name, which goes when the array does.

    Args:
        folder: on the disk that takes it; None: where the system has temporary files.

    Raises:
        OSError: there is no room on the disk, or no folder.
    """
    return scratch_from(lambda file: None, shape, dtype, folder)


def scratch_from(
    fill: Callable[[int], None], shape: tuple[int, ...], dtype: npt.DTypeLike, folder: PathLike | None = None
) -> npt.NDArray[Any]:
    """As :func:`scratch`, with what ``fill`` writes to the file's descriptor.

    Raises:
        OSError: there is no room on the disk, or no folder.
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
    """A full disk is an error now, and not a crash when a page of the mapping is written."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def is_scratch(values: torch.Tensor) -> bool:
    """Whether a tensor, or what it is the beginning of, lies in a file."""
    return values.device.type == "cpu" and values.data_ptr() in _mapped


def folder_of(values: torch.Tensor) -> PathLike | None:
    """The folder of a scratch tensor's file; None of any other."""
    mapped = _mapped.get(values.data_ptr()) if values.device.type == "cpu" else None
    return None if mapped is None else mapped.folder


def room_for(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Room for values of the same type, where these are: in a file, or on their device."""
    if not is_scratch(like):
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    dtype = torch.empty(0, dtype=like.dtype).numpy().dtype
    return torch.from_numpy(scratch(shape, dtype, folder_of(like)))


def release(*tensors: torch.Tensor) -> None:
    """Takes scratch tensors out of this process's memory; what is in them stays, and others are left alone."""
    for values in tensors:
        mapped = _mapped.get(values.data_ptr()) if values.device.type == "cpu" else None
        if mapped is not None and _RELEASE is not None:
            with suppress(OSError):
                mapped.madvise(_RELEASE)
