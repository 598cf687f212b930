"""Translates the pictures of many requests; those with the same options share a batch."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from cgpipe.errors import CgpipeError, MediaError, UnsupportedFormatError
from cgpipe.jobs.folder_job import FolderJob, FolderTold
from cgpipe.jobs.pipeline import Pipeline
from cgpipe.jobs.report import FileResult
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.models.choose import Chosen, choose_model
from cgpipe.options import ModelChoice, Options
from cgpipe.service.spool import Spool
from cgpipe.storage import Stamp

log = logging.getLogger("cgpipe.service")

WINDOW_SECONDS = 0.003
"""Seconds that a request waits for others to share its batch."""

MOST_TOGETHER = 32
"""Most requests in a batch."""

MODELS = 4
"""Most loaded models; the least recently used is dropped."""

FRESH_SECONDS = 2.0
"""Seconds for which the choice of a model is cached; models that are trained or imported meanwhile are found later."""

LOOKS = 16
"""Most cached combinations of size and strength, of all models together."""


class ClosedError(CgpipeError):
    """The service is shutting down."""


@dataclass(frozen=True, kw_only=True)
class Translated:
    """The result of a picture.

    Args:
        path: the result's file, which the caller removes.
        width, height: in pixels.
        seconds: ``queue`` until its batch started and ``work`` from there on, including its own ``decode`` and
            ``encode``.
        together: number of pictures in the batch.
    """

    path: Path
    width: int
    height: int
    seconds: dict[str, float]
    together: int


@dataclass(frozen=True, kw_only=True)
class _Task:
    options: Options
    picture: Path
    answer: Future[Translated] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Choices:
    """Cached choices of models: looking one up reads the header of every model."""

    def __init__(self) -> None:
        self._known: dict[ModelChoice, tuple[float, Chosen]] = {}

    def __call__(self, choice: ModelChoice) -> Chosen:
        """Same as :func:`cgpipe.models.choose.choose_model`."""
        now = time.monotonic()
        self._known = {known: found for known, found in self._known.items() if now - found[0] < FRESH_SECONDS}
        if choice not in self._known:
            self._known[choice] = (now, choose_model(choice))
        return self._known[choice][1]


class LoadedModels:
    """Models, loaded once for all requests; requests that differ only in size or strength share a network."""

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[object, ...], Pipeline] = OrderedDict()
        self._looks: OrderedDict[tuple[object, ...], Pipeline] = OrderedDict()

    def pipeline(self, chosen: Chosen, options: Options) -> Pipeline:
        """The pipeline for these options.

        Raises:
            CgpipeError: the model cannot be loaded, or does not support the options.
        """
        # A retrained model of the same name is a different model.
        model = (chosen.path, Stamp.of(chosen.path), chosen.choice, options.hardware)
        look = (*model, options.look.size, options.look.strength)
        if look not in self._looks:
            like = self._models.get(model)
            made = Pipeline(chosen, options, Stopwatch(), like)
            self._models.setdefault(model, made)
            self._looks[look] = made
        self._models.move_to_end(model)
        self._looks.move_to_end(look)
        if len(self._models) > MODELS:
            gone, _ = self._models.popitem(last=False)
            self._looks = OrderedDict((key, made) for key, made in self._looks.items() if key[: len(gone)] != gone)
        if len(self._looks) > LOOKS:
            self._looks.popitem(last=False)
        return self._looks[look]


class PictureQueue:
    """Accepts pictures from any thread and translates them in a thread of its own, like ``cgpipe translate``.

    Args:
        spool: the folder of results.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._models = LoadedModels()
        self._choose = Choices()
        self._tasks: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._pace = 0.0
        self._thread = threading.Thread(target=self._work, name="cgpipe-pictures", daemon=True)
        self._thread.start()

    def submit(self, options: Options, picture: Path) -> Future[Translated]:
        """Queues a picture; cancelling the future removes it, if its batch has not started.

        Raises (from the answer):
            CgpipeError: it cannot be translated.
        """
        task = _Task(options=options, picture=picture)
        with self._changed:
            if self._closed:
                raise ClosedError("The service is shutting down: try again later.")
            self._tasks.append(task)
            self._changed.notify()
        return task.answer

    @property
    def waiting(self) -> int:
        """Number of pictures whose batch has not started."""
        return len(self._tasks)

    @property
    def seconds_left(self) -> float:
        """Estimated seconds until the waiting pictures are done."""
        return self.waiting * self._pace

    def close(self) -> None:
        """Finishes the current batch, and rejects all others."""
        with self._changed:
            self._closed = True
            for task in self._tasks:
                if task.answer.set_running_or_notify_cancel():
                    task.answer.set_exception(ClosedError("The service is shutting down: try again later."))
            self._tasks.clear()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            running = [task for task in batch if task.answer.set_running_or_notify_cancel()]
            began = time.monotonic()
            try:
                if running:
                    self._translate(running, began)
            except Exception as error:  # the service must keep running
                _fail(running, error)
            self._pace += 0.3 * ((time.monotonic() - began) / len(batch) - self._pace)

    def _next_batch(self) -> list[_Task]:
        """Waits for requests with the same options as the first, in order; empty on shutdown."""
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._closed)
            if not self._tasks:
                return []
            first = self._tasks[0]
            left = first.arrived + WINDOW_SECONDS - time.monotonic()
            self._changed.wait_for(lambda: self._closed or len(self._tasks) >= MOST_TOGETHER, max(0, left))
            alike = [task for task in self._tasks if task.options == first.options][:MOST_TOGETHER]
            taken = set(map(id, alike))
            self._tasks = deque(task for task in self._tasks if id(task) not in taken)
            return alike

    def _translate(self, batch: list[_Task], began: float) -> None:
        options = batch[0].options
        chosen = self._choose(options.choice)
        job = FolderJob(chosen, options, pipeline=self._models.pipeline(chosen, options))
        folder = self._spool.new_folder()
        open = {task.picture: task for task in batch}

        def answer(result: FileResult) -> None:
            self._answer(open.pop(result.input), result, began, len(batch))

        try:
            job.run(list(open), folder, told=FolderTold(progress=False, on_result=answer))
        except Exception as error:
            _fail(list(open.values()), error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _answer(self, task: _Task, result: FileResult, began: float, together: int) -> None:
        if result.status != "translated":
            kind = UnsupportedFormatError if result.status == "unsupported" else MediaError
            task.answer.set_exception(kind(result.reason))
            return
        path = self._spool.new(result.output.suffix)
        result.output.rename(path)
        seconds = {"queue": began - task.arrived, "work": time.monotonic() - began}
        seconds |= {"decode": result.decode_seconds, "encode": result.encode_seconds}
        task.answer.set_result(
            Translated(path=path, width=result.width, height=result.height, seconds=seconds, together=together)
        )


def _fail(batch: list[_Task], error: Exception) -> None:
    """Fails all requests that have no answer yet."""
    if not isinstance(error, CgpipeError):
        log.error("A batch of pictures failed.", exc_info=error)
    for task in batch:
        if not task.answer.done():
            task.answer.set_exception(error)
