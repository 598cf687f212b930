"""Processes that write files which are encoded already: their Python would hold up the threads that feed a GPU."""

from __future__ import annotations

import gc
import multiprocessing
import queue
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch

from cgpipe.media.frames import JpegBatch
from cgpipe.media.pictures.source import PictureOrigin

Write = Callable[[JpegBatch[PictureOrigin]], list[str]]
"""Writes files, and returns for each why it failed; empty if it was written."""


def can_fork() -> bool:
    """Whether processes start as copies of this one."""
    return multiprocessing.get_start_method() == "fork"


class Writers:
    """Forked processes that write files; called from as many threads.

    What they inherit stays as it is here at the start. A batch whose process is lost is written by the caller.

    Args:
        write: called in one of the processes.
        count: number of processes.
    """

    def __init__(self, write: Write, count: int) -> None:
        self._write = write
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        self._every: list[tuple[BaseProcess, Connection]] = []
        context = multiprocessing.get_context("fork")
        for _ in range(count):
            ours, theirs = context.Pipe()
            others = [connection for _, connection in self._every]
            process = context.Process(target=_serve, args=(theirs, [ours, *others], write), daemon=True)
            process.start()
            theirs.close()
            self._every.append((process, ours))
            self._idle.put(ours)

    def __call__(self, batch: JpegBatch[PictureOrigin]) -> list[str]:
        """Writes files in the next process that is idle."""
        try:
            connection = self._idle.get_nowait()
            connection.send((batch.lengths, batch.size, batch.origins))
            connection.send_bytes(batch.content.numpy().data)
            reasons: list[str] = connection.recv()
        except (queue.Empty, EOFError, OSError):
            return self._write(batch)
        self._idle.put(connection)
        return reasons

    def close(self) -> None:
        """Ends the processes, when no call is under way."""
        for process, connection in self._every:
            with suppress(OSError):
                connection.send(None)
            connection.close()
            process.join()


def _serve(connection: Connection, others: list[Connection], write: Write) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of which the parent takes care
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # what lies on a GPU belongs to the parent
    for other in others:  # or no process would see that the parent has died
        other.close()
    with suppress(EOFError, OSError):
        while (told := connection.recv()) is not None:
            lengths, size, origins = told
            content = torch.frombuffer(bytearray(connection.recv_bytes()), dtype=torch.uint8)
            connection.send(write(JpegBatch(content=content, lengths=lengths, size=size, origins=origins)))
