"""Runs a job on many machines with Ray: workers get chunks of file names, and read and write the files themselves.

No pixels pass through Ray. Each worker is an actor with a GPU, or some of a machine's cores, that holds the model and
runs the same job as a single machine. A lost worker is replaced and its items are retried: every item is done at least
once, and since files appear whole, doing one twice is harmless.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from cgpipe import __version__
from cgpipe.errors import CgpipeError, CgpipeWarning, UsageError
from cgpipe.jobs.chunks import MOST_TRIES, Chunk, Chunks, Item
from cgpipe.jobs.cluster_worker import Answer, Introduction
from cgpipe.jobs.ray_cluster import Actor, NewWorker, Node, Promise, Ray
from cgpipe.models.choose import choose_model
from cgpipe.options import ModelChoice, Options
from cgpipe.storage import LOCAL, mounted, mounts, remove_written_by, store_of

T = TypeVar("T")
R = TypeVar("R")

CORES = 4
"""Processor cores of a worker without a GPU, if its machine has that many."""

AHEAD = 2
"""Chunks in flight per worker, so that it need not wait for the next."""

PATIENCE = 60.0
"""Seconds without any worker before a notice."""


def absolute(options: Options) -> Options:
    """The options for workers: with absolute paths, and without the cluster."""
    choice, look = options.choice, options.look
    if choice.like_now:
        choice = replace(choice, like=tuple(path.absolute() for path in choice.paintings))
    elif choice.like:  # which is learned before
        choice = ModelChoice(model=choose_model(choice).path)
    model = os.fspath(choice.model) if choice.model is not None else None
    if model is not None and os.path.exists(model):
        choice = replace(choice, model=os.path.abspath(model))
    if look.mask is not None and not mounted(look.mask):
        look = replace(look, mask=Path(os.path.abspath(look.mask)))
    return replace(options, choice=choice, look=look, work=replace(options.work, ray=None, shard=None))


@dataclass(eq=False)
class _Member(Generic[T, R]):
    """The driver's view of a worker."""

    actor: Actor[T, R]
    introduction: Promise[Introduction]
    writer: str = ""
    chunks: dict[Promise[Answer[R]], Chunk[T]] = field(default_factory=dict)  # in the order of their answers


@dataclass(frozen=True, slots=True)
class _Share:
    """The resources of one worker."""

    cpus: int
    gpus: int

    def fits(self, node: Node) -> int:
        """How many workers fit on a machine."""
        there = node["Resources"]
        fits = int(there.get("CPU", 0)) // self.cpus
        return min(fits, int(there.get("GPU", 0))) if self.gpus else fits


class Crew(Generic[T, R]):
    """The workers of one job on a cluster.

    Args:
        ray: the module, connected.
        worker: a class that does chunks (see :class:`cgpipe.jobs.cluster_worker.Worker`).
        options: of the job.
        fingerprint: must be that of every worker.
        folders_of: the folders in which an item's worker may leave a temporary file.
    """

    def __init__(
        self,
        ray: Ray,
        worker: NewWorker[T, R],
        options: Options,
        fingerprint: str,
        folders_of: Callable[[T], Sequence[str]],
    ) -> None:
        self._ray = ray
        self._options = absolute(options)
        self._fingerprint = fingerprint
        self._folders_of = folders_of
        self._share = _share(self._nodes(), options.hardware.device)
        self._actor = ray.remote(worker).options(num_cpus=self._share.cpus, num_gpus=self._share.gpus)
        self._members: list[_Member[T, R]] = []
        self._idle_since: float | None = None
        self.settings: dict[str, object] = {}
        self.seconds: dict[str, float] = {}
        self._told: set[str] = set()

    @property
    def capacity(self) -> int:
        """How many workers the machines have room for."""
        return sum(map(self._share.fits, self._nodes()))

    def __enter__(self) -> Crew[T, R]:
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends all workers, and removes their temporary files."""
        members, self._members = self._members, []
        for member in members:
            with suppress(Exception):
                self._ray.kill(member.actor)
        for member in members:
            self._wait_for_end(member)
            for chunk in member.chunks.values():
                self._sweep(member, chunk)

    def run(self, chunks: Chunks[T]) -> Iterator[tuple[int, R | CgpipeError]]:
        """Runs all chunks; yields each item's index and result as they arrive.

        The result of an item that was given up is an error.

        Raises:
            CgpipeError: an error that is not an item's fault, such as a worker with another version.
        """
        while chunks.waiting or any(member.chunks for member in self._members):
            self._staff(chunks.waiting)
            self._hand_out(chunks)
            for member, promise in self._heard():
                if member not in self._members:
                    continue  # lost, as another of its promises said
                try:
                    yield from self._answered(member, promise, chunks)
                except self._lost_errors():
                    yield from ((item.index, _given_up()) for item in self._lose(member, chunks))

    # --- workers ---------------------------------------------------------------------------------------------------

    def _nodes(self) -> list[Node]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _staff(self, waiting: int) -> None:
        """Starts workers on all free resources, including machines that join later."""
        wanted = min(sum(map(self._share.fits, self._nodes())), waiting + sum(bool(m.chunks) for m in self._members))
        for _ in range(wanted - len(self._members)):
            actor = self._actor.remote(self._options, self._share.cpus, mounts())
            self._members.append(_Member(actor, actor.introduce.remote()))
        self._say_if_nobody_works()

    def _say_if_nobody_works(self) -> None:
        if any(member.writer for member in self._members):
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > PATIENCE:
            self._tell("The cluster has no worker free yet: waiting. Ctrl-C ends the job, and nothing is lost.")

    def _hand_out(self, chunks: Chunks[T]) -> None:
        ready = [member for member in self._members if member.writer]
        for _ in range(AHEAD):
            for member in sorted(ready, key=lambda member: len(member.chunks)):
                if len(member.chunks) < AHEAD and (chunk := chunks.take(len(ready))):
                    member.chunks[member.actor.work.remote(chunk, chunks.is_again(chunk))] = chunk

    def _heard(self) -> list[tuple[_Member[T, R], Promise[Answer[R]] | None]]:
        """The workers from which something came, and whose promise is kept or broken: a chunk's, or None, their own."""
        owed: dict[Promise[object], tuple[_Member[T, R], Promise[Answer[R]] | None]] = {}
        for member in self._members:
            if member.writer:
                owed |= {promise: (member, promise) for promise in member.chunks}
            else:
                owed[member.introduction] = (member, None)
        if not owed:
            time.sleep(0.2)
            return []
        kept, _ = self._ray.wait(list(owed), num_returns=1, timeout=1.0)
        return [owed[promise] for promise in kept]

    def _answered(
        self, member: _Member[T, R], promise: Promise[Answer[R]] | None, chunks: Chunks[T]
    ) -> list[tuple[int, R]]:
        """Handles a worker's answer."""
        if promise is None:
            member.writer = self._checked(self._ray.get(member.introduction)).writer
            return []
        answer = self._ray.get(promise)
        chunk = member.chunks.pop(promise)
        if answer.fatal is not None:
            raise answer.fatal
        chunks.done(chunk, answer.seconds["total"])
        self.settings = self.settings or answer.settings
        for stage, seconds in answer.seconds.items():
            if stage != "total":
                self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        for notice in answer.notices:
            self._tell(notice)
        return answer.results

    def _checked(self, worker: Introduction) -> Introduction:
        """Checks a worker's introduction.

        Raises:
            UsageError: the worker's version, model or mask differs.
        """
        if worker.version != __version__:
            raise UsageError(
                f"The worker on {worker.machine} has cgpipe {worker.version}, and this machine {__version__}: install "
                "the same version everywhere."
            )
        if worker.fingerprint != self._fingerprint:
            raise UsageError(
                f"The worker on {worker.machine} has another model or mask of the same name: copy the same files to "
                "every machine."
            )
        return worker

    def _lost_errors(self) -> tuple[type[BaseException], ...]:
        errors = self._ray.exceptions
        return (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError)

    def _lose(self, member: _Member[T, R], chunks: Chunks[T]) -> list[Item[T]]:
        """Requeues the items of a lost worker; returns those that are given up."""
        self._members.remove(member)
        if not member.writer:
            self._raise_unless_lost(member)
        had = sum(map(len, member.chunks.values()))
        self._tell(f"A worker was lost: the {had} it had go{'es' * (had == 1)} out again.")
        with suppress(Exception):  # where it was only cut off, two would write
            self._ray.kill(member.actor)
        over: list[Item[T]] = []
        for place, chunk in enumerate(member.chunks.values()):
            self._sweep(member, chunk)
            over += chunks.lost(chunk, begun=place == 0)
        return over

    def _raise_unless_lost(self, member: _Member[T, R]) -> None:
        """Raises the error that kept a worker from starting, unless its machine was lost."""
        try:
            self._ray.get(member.introduction)
        except self._ray.exceptions.RayActorError as error:
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, CgpipeError):
                raise cause from error
            text = str(error)
            if "failed to be imported" in text or "ModuleNotFoundError" in text or "ImportError" in text:
                raise UsageError(
                    f"A worker cannot import cgpipe: install cgpipe {__version__} on every machine of the cluster."
                ) from error
            if "__init__" in text and "Traceback" in text:
                last = text.strip().splitlines()[-1]
                raise CgpipeError(f"A worker cannot start: {last}") from error

    def _wait_for_end(self, member: _Member[T, R]) -> None:
        with suppress(Exception):
            first: Promise[object] = next(iter(member.chunks), member.introduction)
            self._ray.wait([first], timeout=5.0)

    def _sweep(self, member: _Member[T, R], chunk: Chunk[T]) -> None:
        for folder in {folder for item in chunk for folder in self._folders_of(item.value)}:
            if store_of(folder) is LOCAL:
                remove_written_by(member.writer, folder)

    def _tell(self, notice: str) -> None:
        if notice not in self._told:
            self._told.add(notice)
            warnings.warn(notice, CgpipeWarning, stacklevel=6)


def _share(nodes: Sequence[Node], device: str) -> _Share:
    """The resources of each worker.

    Raises:
        UsageError: the cluster lacks the requested device.
    """
    cpus = max((int(node["Resources"].get("CPU", 0)) for node in nodes), default=0)
    with_gpus = [node["Resources"] for node in nodes if node["Resources"].get("GPU", 0) >= 1]
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--ray takes --device auto, cpu or cuda, not {device}: the cluster shares its GPUs out.")
    if device == "cuda" and not with_gpus:
        raise UsageError("The cluster has no GPU: use --device cpu.")
    if with_gpus and device != "cpu":
        fewest = min(int(node.get("CPU", 1)) // int(node["GPU"]) for node in with_gpus)
        return _Share(cpus=max(1, fewest), gpus=1)
    if not cpus:
        raise UsageError("The cluster has no processors to work with: its machines are named with --num-cpus=0.")
    return _Share(cpus=min(CORES, cpus), gpus=0)


def _given_up() -> CgpipeError:
    return CgpipeError(f"{MOST_TRIES} workers were lost while translating it, probably for lack of memory.")
