"""Sources through torch's DataLoader: decoding in other processes, batches made where they are decoded."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cgpipe.engine.prefetch import prefetch
from cgpipe.errors import CgpipeError
from cgpipe.media.frames import batched

OpenShare = Callable[[int, int], Iterable[Any]]
"""Given a worker's number and how many workers there are, its share of the frames."""


class _Batches(IterableDataset[Any]):
    def __init__(self, open_share: OpenShare, batch_size: int) -> None:
        self.open_share = open_share
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        yield from batched(self.open_share(number, count), self.batch_size)


def load(open_share: OpenShare, *, batch_size: int, workers: int, ahead: int) -> Generator[Any, None, None]:
    """Batches of a source's frames, prefetched; what is not a frame passes through.

    Args:
        open_share: opens the part of the source that is one worker's; called in that worker.
        batch_size: frames of one size to a batch, at most.
        workers: processes that decode; 0 decodes in a thread of this process, which is right for a video, whose
            frames come one after the other and cost more to hand over than to decode.
        ahead: batches that each worker works ahead.

    Raises:
        CgpipeError: a worker died, most likely for want of memory.
    """
    loader: DataLoader[Any] = DataLoader(
        _Batches(open_share, batch_size),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        worker_init_fn=_start_worker,
    )
    return _guarded(loader) if workers else prefetch(loader, ahead)


def _guarded(loader: DataLoader[Any]) -> Generator[Any, None, None]:
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise CgpipeError(
            "A process that decodes pictures died, most likely for want of memory: try fewer --workers."
        ) from error


def _start_worker(number: int) -> None:
    # Ctrl-C is for the main process, which ends its workers; one thread each, or they would fight for the processor.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
