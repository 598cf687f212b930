"""Decodes frames in other processes, and batches them there."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from typing import Generic, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from cgpipe.errors import CgpipeError, reason_of
from cgpipe.media.frames import Batch, Batched, Coded, Failed, JpegBatch, Origin, batched

SMALL_BYTES = 1 << 20
"""Bytes up to which a batch goes through the pipe, which is quicker than shared memory."""

T = TypeVar("T")
Found = TypeVar("Found")


def attempt(read: Callable[[Origin], Found], task: Origin) -> Found | Failed[Origin]:
    """Reads one frame; any exception becomes that frame's failure."""
    try:
        return read(task)
    except Exception as error:
        return Failed(origin=task, reason=reason_of(error))


def load(
    tasks: Iterable[Origin], read: Callable[[Origin], Coded[Origin]], *, batch_size: int, workers: int, ahead: int
) -> Generator[Batched[Origin], None, None]:
    """Batches of frames read by ``workers`` processes, in the order of the tasks; each task has one result.

    Args:
        tasks: origins of the frames; the iterable stays in this process.
        read: returns the frame of a task; called in a worker. An exception becomes that frame's failure.
        batch_size: most frames of one size in a batch.
        ahead: batches that each worker prepares ahead.

    Raises:
        CgpipeError: a worker died, probably for lack of memory.
    """
    loader: DataLoader[bytes] = DataLoader(
        _Reader(read, batch_size),
        sampler=_Chunks(tasks, batch_size),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=ahead,
        collate_fn=_as_it_is,
        worker_init_fn=_start_worker,
    )
    try:
        for answer in loader:
            yield from map(_unpacked, pickle.loads(answer))
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise CgpipeError(
            "A process that decodes pictures died, probably for lack of memory: try fewer --workers."
        ) from error


class _Chunks(Generic[T]):
    """Lists of ``size`` tasks, the unit of work of a worker."""

    def __init__(self, tasks: Iterable[T], size: int) -> None:
        self._tasks = tasks
        self._size = size

    def __iter__(self) -> Iterator[list[T]]:
        tasks = iter(self._tasks)
        while chunk := list(islice(tasks, self._size)):
            yield chunk


class _Reader(Dataset[bytes], Generic[Origin]):
    """Reads a list of tasks into one pickled result.

    Pickled here and not in a queue's thread, where an object that cannot be pickled, or does not fit in shared memory,
    would vanish.
    """

    def __init__(self, read: Callable[[Origin], Coded[Origin]], batch_size: int) -> None:
        self._read = read
        self._batch_size = batch_size

    def __getitem__(self, tasks: list[Origin]) -> bytes:
        frames = (attempt(self._read, task) for task in tasks)
        try:
            return bytes(ForkingPickler.dumps([_packed(item) for item in batched(frames, self._batch_size)]))
        except Exception as error:
            return pickle.dumps([Failed(origin=task, reason=reason_of(error)) for task in tasks])


@dataclass(frozen=True, slots=True)
class _Copied(Generic[Origin]):
    """A batch whose values go through the pipe.

    Args:
        values: pixels, or the content of JPEGs.
        rest: origins of the pixels, or the batch of JPEGs without its content.
    """

    values: npt.NDArray[np.generic]
    rest: tuple[Origin, ...] | JpegBatch[Origin]


def _packed(item: Batched[Origin]) -> Batched[Origin] | _Copied[Origin]:
    """The item with its values in shared memory, unless they are few or do not fit.

    Containers have 64 MB of shared memory unless told otherwise.
    """
    if isinstance(item, Failed):
        return item
    values = item.content if isinstance(item, JpegBatch) else item.pixels
    if values.nbytes > SMALL_BYTES:
        try:
            values.share_memory_()
            return item
        except RuntimeError:  # no room
            pass
    rest = replace(item, content=values[:0].clone()) if isinstance(item, JpegBatch) else item.origins
    return _Copied(values.numpy(), rest)


def _unpacked(item: Batched[Origin] | _Copied[Origin]) -> Batched[Origin]:
    if not isinstance(item, _Copied):
        return item
    values = torch.from_numpy(item.values)
    if isinstance(item.rest, JpegBatch):
        return replace(item.rest, content=values)
    return Batch(pixels=values, origins=item.rest)


def _as_it_is(answer: object) -> object:
    return answer


def _start_worker(number: int) -> None:
    # The main process handles Ctrl-C and ends its workers. One thread each, or they would compete for processors.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # 1 would wait for threads that a forked worker does not have
