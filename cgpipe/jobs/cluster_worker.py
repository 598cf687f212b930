"""The workers of a cluster: each holds a model and its job, and processes chunks of file names."""

from __future__ import annotations

import os
import platform
import secrets
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

from cgpipe import __version__
from cgpipe.errors import CgpipeError, CgpipeWarning, reason_of
from cgpipe.jobs.chunks import Chunk
from cgpipe.jobs.picture_work import PictureWork
from cgpipe.jobs.plan import Names, Plan
from cgpipe.jobs.report import FileResult, VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.video_job import VideoJob
from cgpipe.models.choose import choose_model
from cgpipe.options import Options
from cgpipe.storage import Store, mount, mounts, name_writer

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """Identifies a worker, and everything that determines its results.

    Args:
        machine: name of its machine.
        writer: mark of its temporary files.
        version: its version of cgpipe.
        fingerprint: of everything that determines a result, including its own model file's content.
    """

    machine: str
    writer: str
    version: str
    fingerprint: str


@dataclass(kw_only=True)
class Answer(Generic[R]):
    """The result of a chunk.

    Args:
        results: results by the items' indices.
        settings: the chosen settings.
        seconds: times by stage; ``total`` is wall-clock time.
        notices: warnings.
        fatal: an error that is not an item's fault.
    """

    results: list[tuple[int, R]] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    fatal: CgpipeError | None = None


class Worker(Protocol[T, R]):
    """The interface of a worker for its driver."""

    def introduce(self) -> Introduction:
        """Identifies it."""

    def work(self, chunk: Chunk[T], again: bool) -> Answer[R]:
        """Processes a chunk; ``again``: a lost worker had it, and may have finished some of it."""


class _Worker:
    """A model, and the storage options of the job's addresses, with secrets, which travel only through Ray."""

    def __init__(self, options: Options, threads: int, stores: Mapping[str, Store]) -> None:
        import torch

        for root, store in stores.items():
            if root not in mounts():
                mount(root, store)

        torch.set_num_threads(threads)
        self._writer = secrets.token_hex(4)
        name_writer(self._writer)
        self._options = options
        self._chosen = choose_model(options.choice)

    def _introduction(self, fingerprint: str) -> Introduction:
        return Introduction(machine=platform.node(), writer=self._writer, version=__version__, fingerprint=fingerprint)


class PictureWorker(_Worker):
    """Translates pictures."""

    def __init__(self, options: Options, threads: int, stores: Mapping[str, Store]) -> None:
        super().__init__(options, threads, stores)
        self._work = PictureWork(self._chosen, options)
        self._journal = self._work.open_journal()

    def introduce(self) -> Introduction:
        return self._introduction(self._work.fingerprint)

    def work(self, chunk: Chunk[Names], again: bool) -> Answer[FileResult]:
        places = {item.value[1]: item.index for item in chunk}
        answer, watch = Answer[FileResult](), Stopwatch()

        def tell(result: FileResult) -> None:
            # Outputs that are current were made by the lost worker.
            made = replace(result, status="translated") if result.status == "skipped" else result
            answer.results.append((places[os.fspath(result.output)], made))

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CgpipeWarning)
            try:
                answer.settings = self._translate([item.value for item in chunk], tell, watch, again=again)
            except CgpipeError as error:
                answer.fatal = error
        answer.notices = _told(caught)
        answer.seconds = watch.seconds | {"total": watch.total}
        return answer

    def _translate(
        self, names: Sequence[Names], tell: Callable[[FileResult], None], watch: Stopwatch, *, again: bool
    ) -> dict[str, object]:
        """Translates what the driver found open, and of a lost worker's chunk what that has not made."""
        worklist = self._work.worklist(Plan.of(names), self._journal)
        if again:
            self._journal.forget()
            for settled in worklist.sort_out():
                tell(settled)
        else:
            worklist.open_all()
        return self._work.translate(worklist, tell, watch) if worklist else {}


class VideoTask(NamedTuple):
    """What a worker is to do of a video.

    Args:
        input, output: of the video.
        least: frames from which on it is not translated but surveyed, for others to share; 0: it is translated.
        first, last: the part to make; -1: all, and None: up to the end.
    """

    input: str
    output: str
    least: int = 0
    first: int = -1
    last: int | None = None


class Part(NamedTuple):
    """What came of a survey, or of a part: frames that there are, or that were made."""

    frames: int


VideoAnswer = VideoReport | Part | CgpipeError


class VideoWorker(_Worker):
    """Translates videos, and parts of them."""

    def __init__(self, options: Options, threads: int, stores: Mapping[str, Store]) -> None:
        super().__init__(options, threads, stores)
        self._job = VideoJob(self._chosen, options, Stopwatch())

    def introduce(self) -> Introduction:
        return self._introduction(self._options.fingerprint(self._chosen.deciding))

    def work(self, chunk: Chunk[VideoTask], again: bool) -> Answer[VideoAnswer]:
        answer, began = Answer[VideoAnswer](), time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CgpipeWarning)
            for item in chunk:
                try:
                    result: VideoAnswer = self._done(item.value)
                except CgpipeError as error:
                    result = error
                except Exception as error:
                    result = CgpipeError(reason_of(error))
                answer.results.append((item.index, result))
        answer.notices = _told(caught)
        answer.seconds = {"total": time.perf_counter() - began}
        return answer

    def _done(self, task: VideoTask) -> VideoReport | Part:
        self._job.forget()  # others work in the same folder
        if task.first >= 0:
            return Part(self._job.run_part(task.input, task.output, task.first, task.last).frames)
        if task.least and (frames := self._job.survey(task.input, task.output)) >= task.least:
            return Part(frames)
        return self._job.run(task.input, task.output)


def _told(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in caught if issubclass(warning.category, CgpipeWarning)]
