"""Decodes frames in other processes, and batches them there."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from typing import Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from cgpipe.errors import CgpipeError, reason_of
from cgpipe.media.frames import Batch, Failed, Frame, Origin, Pixels, batched

SMALL_BYTES = 1 << 20
"""Bytes up to which a batch goes through the pipe, which is quicker than shared memory."""

T = TypeVar("T")


def attempt(read: Callable[[Origin], Frame[Origin]], task: Origin) -> Frame[Origin] | Failed[Origin]:
    """Reads one frame; any exception becomes that frame's failure."""
    try:
        return read(task)
    except Exception as error:
        return Failed(origin=task, reason=reason_of(error))


def load(
    tasks: Iterable[Origin], read: Callable[[Origin], Frame[Origin]], *, batch_size: int, workers: int, ahead: int
) -> Generator[Batch[Origin] | Failed[Origin], None, None]:
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

    def __init__(self, read: Callable[[Origin], Frame[Origin]], batch_size: int) -> None:
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
    """A batch whose pixels go through the pipe."""

    pixels: Pixels
    origins: tuple[Origin, ...]


def _packed(item: Batch[Origin] | Failed[Origin]) -> Batch[Origin] | Failed[Origin] | _Copied[Origin]:
    """The item with its pixels in shared memory, unless they are few or do not fit.

    Containers have 64 MB of shared memory unless told otherwise.
    """
    if isinstance(item, Failed):
        return item
    if item.pixels.nbytes > SMALL_BYTES:
        try:
            item.pixels.share_memory_()
            return item
        except RuntimeError:  # no room
            pass
    return _Copied(item.pixels.numpy(), item.origins)


def _unpacked(item: Batch[Origin] | Failed[Origin] | _Copied[Origin]) -> Batch[Origin] | Failed[Origin]:
    if isinstance(item, _Copied):
        return Batch(pixels=torch.from_numpy(item.pixels), origins=item.origins)
    return item


def _as_it_is(answer: object) -> object:
    return answer


def _start_worker(number: int) -> None:
    # The main process handles Ctrl-C and ends its workers. One thread each, or they would compete for processors.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # 1 would wait for threads that a forked worker does not have
