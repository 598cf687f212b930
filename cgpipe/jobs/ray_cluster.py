"""Ray, connected to a cluster, and the part of its interface that is used here."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import ParamSpec, Protocol, TypedDict, TypeVar

from cgpipe.errors import CgpipeError, MissingDependencyError
from cgpipe.jobs.chunks import Chunk
from cgpipe.jobs.cluster_worker import Answer, Introduction, Worker
from cgpipe.options import Options
from cgpipe.storage import Store

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)


class Promise(Protocol[Value_co]):
    """What a worker will answer."""

    def __hash__(self) -> int: ...


class Remote(Protocol[P, Value_co]):
    """A method of a worker."""

    def remote(self, *args: P.args, **kwargs: P.kwargs) -> Promise[Value_co]:
        """Calls it, without waiting."""


class Actor(Protocol[T, R]):
    """A worker from afar; see :class:`cgpipe.jobs.cluster_worker.Worker`."""

    @property
    def introduce(self) -> Remote[[], Introduction]: ...

    @property
    def work(self) -> Remote[[Chunk[T], bool], Answer[R]]: ...


class Actors(Protocol[T, R]):
    """What starts workers."""

    def options(self, *, num_cpus: int, num_gpus: int) -> Actors[T, R]:
        """The same, for workers that take so much of a machine."""

    def remote(self, options: Options, threads: int, stores: Mapping[str, Store]) -> Actor[T, R]:
        """Starts one."""


class NewWorker(Protocol[T, R]):
    """A class of workers."""

    def __call__(self, options: Options, threads: int, stores: Mapping[str, Store]) -> Worker[T, R]: ...


class Node(TypedDict):
    """A machine of a cluster, and what it has for workers: ``CPU`` and ``GPU``."""

    Alive: bool
    Resources: Mapping[str, float]


class RayErrors(Protocol):
    """How Ray says that a worker is lost."""

    @property
    def RayActorError(self) -> type[Exception]: ...  # noqa: N802
    @property
    def WorkerCrashedError(self) -> type[Exception]: ...  # noqa: N802
    @property
    def NodeDiedError(self) -> type[Exception]: ...  # noqa: N802
    @property
    def ObjectLostError(self) -> type[Exception]: ...  # noqa: N802


class Ray(Protocol):
    """The module."""

    @property
    def exceptions(self) -> RayErrors: ...

    def is_initialized(self) -> bool: ...
    def init(self, address: str, *, log_to_driver: bool, logging_level: int, **local: bool) -> object: ...
    def shutdown(self) -> None: ...
    def nodes(self) -> Sequence[Node]: ...
    def remote(self, worker: NewWorker[T, R], /) -> Actors[T, R]: ...
    def get(self, promise: Promise[Value], /) -> Value: ...
    def wait(
        self, promises: list[Promise[object]], /, *, num_returns: int = 1, timeout: float
    ) -> tuple[list[Promise[object]], list[Promise[object]]]: ...
    def kill(self, actor: object, /) -> None: ...


@contextmanager
def ray_cluster(address: str) -> Iterator[Ray]:
    """Ray, connected to a cluster; a local one ends with the body.

    Args:
        address: ``local``, or where a cluster's head is: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.

    Raises:
        MissingDependencyError: Ray is not installed.
        CgpipeError: there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what is to come
    ray = _module()
    ours = not ray.is_initialized()
    if ours:
        local = {"include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise CgpipeError(f"There is no Ray cluster at {address}: {reason}") from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _module() -> Ray:
    try:
        ray: Ray = import_module("ray")
    except ImportError as error:
        raise MissingDependencyError("--ray needs Ray: pip install 'cgpipe[ray]'") from error
    return ray
