"""Work side by side, one thread of torch's each."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def worker_pool(count: int) -> Generator[ThreadPoolExecutor, None, None]:
    """A pool of ``count`` threads in which torch's operations use no others.

    An operation on many threads ends with the slowest of them, which on a busy machine may not even run. Tasks that
    never wait for one another do not mind.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "cgpipe-worker", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # What a worker is told, torch tells every thread that comes later.
        torch.set_num_threads(threads)
