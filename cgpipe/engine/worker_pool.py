"""A pool of worker threads, each with one torch thread."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from cgpipe.threads import end_pool


@contextmanager
def worker_pool(count: int) -> Generator[ThreadPoolExecutor, None, None]:
    """A pool of ``count`` threads, in which torch's operations are single-threaded.

    An operation on many threads waits for the slowest, which on a busy machine may not even be scheduled. Independent
    tasks do not wait for each other.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "cgpipe-worker", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        try:
            end_pool(pool)
        finally:  # torch applies a worker's setting to every thread created later
            torch.set_num_threads(threads)
