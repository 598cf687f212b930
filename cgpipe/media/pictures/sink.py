"""Picture files as a sink of frames."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cgpipe.errors import reason_of
from cgpipe.media.frames import Failed, Frame
from cgpipe.media.pictures.source import PictureOrigin
from cgpipe.media.pictures.write import write_picture
from cgpipe.media.progress import Progress
from cgpipe.storage import Publish

WRITERS = max(2, (os.cpu_count() or 1) // 2)
"""Threads that encode: the codecs release the interpreter lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of one picture.

    Args:
        origin: of the picture.
        reason: why it failed; empty if it was written.
        height, width: in pixels; 0 where it could not be read.
        encode_seconds: time taken to write it.
    """

    origin: PictureOrigin
    reason: str = ""
    height: int = 0
    width: int = 0
    encode_seconds: float = 0.0


class PictureSink:
    """Encodes pictures in threads, a bounded number at a time, and reports the result of each in order.

    Args:
        on_written: called with each result, in the thread that writes to the sink.
        publish: returns the function that moves a picture's finished file into place.
        quality: of lossy formats, 1 to 100.
        format: of every output; None: that of each input.
        gray: write RGB as gray, for a model of gray pictures.
        writers: number of threads; more if each mostly waits for remote storage.
        progress: called with pictures that are written line by line; stopped if the sink is left with an error.
    """

    def __init__(
        self,
        on_written: Callable[[Written], None],
        publish: Callable[[PictureOrigin], Publish],
        *,
        format: str | None = None,
        quality: int | None = None,
        gray: bool = False,
        writers: int = WRITERS,
        progress: Progress | None = None,
    ) -> None:
        self._tell = on_written
        self._publish = publish
        self._format = format
        self._quality = quality
        self._gray = gray
        self._writers = writers
        self._progress = progress or Progress()
        self._threads = ThreadPoolExecutor(writers, thread_name_prefix="cgpipe-writer")
        self._under_way: deque[Future[Written] | Written] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        whole = False
        try:
            if error is None:
                self._drain(0)
                whole = True
        finally:
            if not whole:
                self._progress.stopped.set()
            self._threads.shutdown(wait=True, cancel_futures=True)

    def write(self, frame: Frame[PictureOrigin]) -> None:
        """Starts writing a picture."""
        self._add(self._threads.submit(self._written, frame))

    def fail(self, failed: Failed[PictureOrigin]) -> None:
        """Reports a picture that failed earlier, in its place."""
        self._add(Written(origin=failed.origin, reason=failed.reason))

    def _add(self, result: Future[Written] | Written) -> None:
        self._under_way.append(result)
        self._drain(2 * self._writers)

    def _drain(self, most: int) -> None:
        while len(self._under_way) > most:
            result = self._under_way.popleft()
            self._tell(result if isinstance(result, Written) else result.result())

    def _written(self, frame: Frame[PictureOrigin]) -> Written:
        began = time.perf_counter()
        origin, reason = frame.origin, ""
        height, width = frame.pixels.shape[:2]
        try:
            write_picture(
                origin.output,
                frame.pixels,
                origin.extras and origin.extras.at_size(height, width),
                gray=self._gray,
                format=self._format,
                quality=self._quality,
                publish=self._publish(origin),
                progress=self._progress,
            )
        except Exception as error:
            reason = reason_of(error)
        seconds = time.perf_counter() - began
        return Written(origin=origin, reason=reason, height=height, width=width, encode_seconds=seconds)
