"""Video jobs, each in its own process, which can be cancelled and has a time limit."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cgpipe.service.limits import Limits

log = logging.getLogger("cgpipe.service")

State = Literal["queued", "running", "done", "failed", "cancelled"]

ENDED: tuple[State, ...] = ("done", "failed", "cancelled")

KEPT = 32
"""Most finished videos that are kept."""


@dataclass(kw_only=True)
class VideoTask:
    """A video job.

    Args:
        id: an unguessable identifier.
        folder: the job's folder, with all its files.
        input, output: paths in that folder.
        options: keywords of :func:`cgpipe.translate_video`.

    Attributes:
        state: its state.
        frames, total: frames written, and the expected number, if known.
        reason: why it failed.
        report: the report of :func:`cgpipe.translate_video` as JSON values, at the end.
        ended: time of its end, on the monotonic clock.
    """

    id: str
    folder: Path
    input: Path
    output: Path
    options: Mapping[str, Any]
    state: State = "queued"
    frames: int = 0
    total: int | None = None
    reason: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    ended: float | None = None
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def run(self, limits: Limits) -> None:
        """Runs the job in a process; returns when it is done or cancelled."""
        with self._lock:
            if self.state != "queued":
                return
            self.state = "running"
            process = self._process = _start_worker()
        timer = threading.Timer(limits.video_seconds, self.end, ["failed", "It took too long."])
        timer.daemon = True
        timer.start()
        try:
            self._follow(process, limits)
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            self.end("failed", "The process that translated it died, probably for lack of memory.")

    def _follow(self, process: subprocess.Popen[str], limits: Limits) -> None:
        assert process.stdin and process.stdout
        with process.stdin, process.stdout:
            asked = {"input": str(self.input), "output": str(self.output), "options": dict(self.options)}
            with suppress(OSError):  # it is dead already
                process.stdin.write(json.dumps(asked | {"pixels": limits.pixels}) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                self._hear(json.loads(line))

    def _hear(self, told: dict[str, Any]) -> None:
        self.frames = told.get("frames", self.frames)
        self.total = told.get("total", self.total)
        self.report = told.get("report", self.report)
        if "reason" in told:
            self.end("failed", told["reason"])
        elif self.report:
            self.end("done")

    def end(self, state: State, reason: str = "") -> None:
        """Ends the job, unless it has ended, and stops its process."""
        with self._lock:
            if self.state in ENDED:
                return
            self.state, self.reason, self.ended = state, reason, time.monotonic()
            if self._process is not None:
                self._process.kill()
        self.input.unlink(missing_ok=True)


def _start_worker() -> subprocess.Popen[str]:
    """Starts a process that waits for a video."""
    # -P: must not import from the current folder, but must import this cgpipe, installed or not.
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "cgpipe.service.video_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # Ctrl-C is for the service, which ends its jobs.
    )


class VideoQueue:
    """The video jobs of a service, a few at a time; finished ones are kept for a while.

    Args:
        limits: of the service.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: dict[str, VideoTask] = {}
        self._runs: dict[str, Future[None]] = {}
        self._pool = ThreadPoolExecutor(limits.videos, "cgpipe-video")

    def submit(self, job: VideoTask) -> None:
        """Queues a video."""
        self.forget_old()
        self._jobs[job.id] = job
        self._runs[job.id] = self._pool.submit(self._run, job)

    def get(self, id: str) -> VideoTask | None:
        """The job with this id, if any."""
        return self._jobs.get(id)

    def remove(self, id: str) -> bool:
        """Cancels a job and removes its files; returns whether it existed."""
        job = self._jobs.pop(id, None)
        if job is None:
            return False
        run = self._runs.pop(id)
        job.end("cancelled")
        if run.cancel() or run.done():
            shutil.rmtree(job.folder, ignore_errors=True)
        else:  # its process may still write, for a moment
            run.add_done_callback(lambda _: shutil.rmtree(job.folder, ignore_errors=True))
        return True

    @property
    def open(self) -> int:
        """Number of videos waiting or running."""
        return sum(job.state not in ENDED for job in list(self._jobs.values()))

    def close(self) -> None:
        """Cancels all jobs, and waits until their processes have ended."""
        for id in list(self._jobs):
            self.remove(id)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: VideoTask) -> None:
        try:
            job.run(self._limits)
        except Exception as error:  # the service must keep running
            log.error("A video failed.", exc_info=error)
            job.end("failed", "Internal error: see the log of the service.")

    def forget_old(self) -> None:
        """Removes jobs that ended long ago, and the oldest if there are too many."""
        ended = sorted((job for job in list(self._jobs.values()) if job.ended), key=lambda job: job.ended or 0)
        oldest = time.monotonic() - self._limits.keep_seconds
        for place, job in enumerate(ended, 1):
            if (job.ended or 0) < oldest or len(ended) - place >= KEPT:
                self.remove(job.id)
