"""Data-parallel training in several processes, each on its own GPU or on some of the processors.

The recipe's batch is divided among the processes, and the run equals that of one process, up to rounding. Every process
holds the whole run (networks, optimisers, pools, random state), bit for bit the same. It computes the losses of its
share of each batch, and gradients are averaged by all-reduce. Random numbers are drawn for all pictures, and each
process takes its share; so a state does not depend on its writer, and can be resumed by another number of processes.
Only dropout is drawn by each process for its own pictures.

torch's DistributedDataParallel expects one forward before each backward. Here a generator is called up to three times,
and its losses pass through discriminators that do not learn from them. One all-reduce of all gradients after backward
suits that better, works with compiled networks, and leaves the names in the state unchanged.

Without torchrun or :func:`launch` there is one process, and every function here returns its argument unchanged.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import distributed

from cgpipe.errors import CgpipeError, TrainingError, UsageError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

PATIENCE = timedelta(minutes=30)
"""Timeout for other processes, during which the first one may measure and write, and networks are compiled."""

Whole = TypeVar("Whole", torch.Tensor, list[int], range)


def process_count() -> int:
    """Number of processes of this run."""
    return distributed.get_world_size() if _are_several() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return not is_member() or os.environ.get("RANK", "0") == "0"


def is_member() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def place_on_machine() -> tuple[int, int]:
    """The local rank, from 0, and the number of processes on this machine."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the process group, if torchrun or :func:`launch` started one, until the body ends.

    All processes end when one fails. The first to fail raises its error, the others exit silently by SystemExit.

    Args:
        device: device of this process, which selects the backend: gloo or NCCL.

    Raises:
        TrainingError: the processes cannot connect.
    """
    if not is_member() or _are_several():
        yield
        return
    store = _join(device)
    try:
        yield
    except (CgpipeError, KeyboardInterrupt) as error:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent by whoever started us, when one of us has ended
        if not _fails_first(store):
            raise SystemExit(getattr(error, "exit_code", 1)) from None
        raise
    distributed.destroy_process_group()


def _join(device: torch.device) -> Store:
    from torch.distributed.rendezvous import rendezvous

    try:
        found: tuple[Store, int, int] = next(rendezvous("env://", timeout=PATIENCE))
        store, rank, size = found
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
        )
    except (ValueError, RuntimeError) as error:
        raise TrainingError(f"The processes of the run do not find one another: {_reason(error)}.") from error
    return store


def _fails_first(store: Store) -> bool:
    try:
        return store.add("errors of the run", 1) == 1
    except RuntimeError:  # who kept the store is gone
        return True


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


# -- sharing out -----------------------------------------------------------------------------------------------------


def global_count(count: int) -> int:
    """The number of pictures of all processes, if each has ``count``."""
    return count * process_count()


def share(whole: Whole) -> Whole:
    """This process's share of values for the pictures of all processes, in order."""
    if not _are_several():
        return whole
    part = len(whole) // process_count()
    start = distributed.get_rank() * part
    return whole[start : start + part]


def require_shares(batch_size: int) -> None:
    """Raises UsageError if a batch cannot be divided equally among the processes."""
    if batch_size % process_count():
        raise UsageError(
            f"A batch of {batch_size} cannot be shared out equally among {process_count()} processes: make "
            "--batch-size a multiple of their number, or start fewer."
        )


# -- talking ---------------------------------------------------------------------------------------------------------


@contextmanager
def _with_the_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"Another process of the run has ended or does not answer: {_reason(error)}. What was saved is kept: "
            "continue with --resume, with any number of processes."
        ) from error


def all_reduce_sum(numbers: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place."""
    if _are_several():
        with _with_the_others():
            distributed.all_reduce(numbers)
    return numbers


def any_rank(mine: bool) -> bool:
    """Whether ``mine`` is true in any process."""
    return bool(all_reduce_sum(torch.tensor(int(mine)))) if _are_several() else mine


def all_reduce_mean(losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean of each loss over the processes, without gradients."""
    if not _are_several():
        return {name: loss.detach() for name, loss in losses.items()}
    means = all_reduce_sum(torch.stack([loss.detach() for loss in losses.values()])) / process_count()
    return dict(zip(losses, means, strict=True))


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Averages the gradients of all weights of ``optimizer`` over the processes, in one all-reduce."""
    if not _are_several():
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    means = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients])).div_(process_count())
    for gradient, mean in zip(gradients, means.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def gather(pictures: torch.Tensor) -> torch.Tensor:
    """All-gather: concatenates (N, ...) of all processes."""
    if not _are_several():
        return pictures
    mine = pictures.contiguous()
    parts = [torch.empty_like(mine) for _ in range(process_count())]
    with _with_the_others():
        distributed.all_gather(parts, mine)
    return torch.cat(parts)


def require_alike(*numbers: int) -> None:
    """Raises TrainingError if the numbers differ between processes, because files or options do."""
    if _are_several() and any(row != list(numbers) for row in gather(torch.tensor([numbers])).tolist()):
        raise TrainingError(
            "The processes of the run do not have the same dataset, recipe or state: give all of them the same files "
            "and options."
        )


def _reason(error: Exception) -> str:
    """The first sentence of torch's message, without the source location."""
    return re.sub(r"^\[.*?\] ", "", str(error).strip().split("\n")[0].split(". ")[0]).rstrip(".")


# -- starting --------------------------------------------------------------------------------------------------------


def launch(arguments: Sequence[str], *, processes: int) -> int:
    """Runs ``python ARGUMENTS`` in several processes on this machine, as torchrun would.

    Returns the exit code of the first that failed, or 128 plus the number of the signal that stopped them. SIGINT and
    SIGTERM are passed on. When a process fails or is lost, the others are ended.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes speak for themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"cgpipe-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        code = int(error.get_first_failure()[1].exitcode)
        return code if code > 0 else 1
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
