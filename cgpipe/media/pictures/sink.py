"""Picture files as a sink of frames."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from cgpipe.errors import reason_of
from cgpipe.media.frames import Failed, Frame, Jpeg, JpegBatch
from cgpipe.media.pictures.encode import QUALITY
from cgpipe.media.pictures.source import PictureOrigin
from cgpipe.media.pictures.write import format_to_write, write_jpeg, write_picture
from cgpipe.media.pictures.writers import Writers
from cgpipe.media.progress import Progress
from cgpipe.storage import Publish
from cgpipe.threads import end_pool

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
        processes: that write files which are encoded already, for as many threads; 0: the threads do.
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
        processes: int = 0,
    ) -> None:
        self._tell = on_written
        self._publish = publish
        self._format = format
        self._quality = quality
        self._gray = gray
        self._writers = writers
        self._progress = progress or Progress()
        self._threads = ThreadPoolExecutor(writers, thread_name_prefix="cgpipe-writer")
        self._under_way: deque[Future[list[Written]] | Written] = deque()
        self._processes = Writers(self._write_jpegs, processes) if processes else None

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
            end_pool(self._threads)
            if self._processes:
                self._processes.close()

    def write(self, frame: Frame[PictureOrigin]) -> None:
        """Starts writing a picture."""
        self._add(self._threads.submit(self._written, frame))

    def takes_jpeg(self, origin: PictureOrigin) -> bool:
        """Whether a picture is written as a JPEG of three channels, of which nothing but the pixels need be encoded."""
        extras = origin.extras
        if self._gray or extras is None or extras.alpha is not None:
            return False
        return format_to_write(origin.output, extras, self._format) == "JPEG"

    @property
    def jpeg_quality(self) -> int:
        """The quality of JPEGs."""
        return self._quality or QUALITY

    def write_jpegs(self, batch: JpegBatch[PictureOrigin]) -> None:
        """Starts writing pictures that are encoded already."""
        self._add(self._threads.submit(self._written_jpegs, batch))

    def fail(self, failed: Failed[PictureOrigin]) -> None:
        """Reports a picture that failed earlier, in its place."""
        self._add(Written(origin=failed.origin, reason=failed.reason))

    def _add(self, result: Future[list[Written]] | Written) -> None:
        self._under_way.append(result)
        self._drain(2 * self._writers)

    def _drain(self, most: int) -> None:
        while len(self._under_way) > most:
            result = self._under_way.popleft()
            for written in [result] if isinstance(result, Written) else result.result():
                self._tell(written)

    def _written(self, frame: Frame[PictureOrigin]) -> list[Written]:
        began = time.perf_counter()
        reason = _reason(partial(self._write, frame))
        height, width = frame.pixels.shape[:2]
        seconds = time.perf_counter() - began
        return [Written(origin=frame.origin, reason=reason, height=height, width=width, encode_seconds=seconds)]

    def _write(self, frame: Frame[PictureOrigin]) -> None:
        origin = frame.origin
        write_picture(
            origin.output,
            frame.pixels,
            origin.extras and origin.extras.at_size(*frame.pixels.shape[:2]),
            gray=self._gray,
            format=self._format,
            quality=self._quality,
            publish=self._publish(origin),
            progress=self._progress,
        )

    def _written_jpegs(self, batch: JpegBatch[PictureOrigin]) -> list[Written]:
        began = time.perf_counter()
        reasons = (self._processes or self._write_jpegs)(batch)
        seconds = (time.perf_counter() - began) / len(batch)
        height, width = batch.size
        return [
            Written(origin=origin, reason=reason, height=height, width=width, encode_seconds=seconds)
            for origin, reason in zip(batch.origins, reasons, strict=True)
        ]

    def _write_jpegs(self, batch: JpegBatch[PictureOrigin]) -> list[str]:
        return [_reason(partial(self._write_jpeg, jpeg)) for jpeg in batch.frames()]

    def _write_jpeg(self, jpeg: Jpeg[PictureOrigin]) -> None:
        origin = jpeg.origin
        assert origin.extras is not None
        tags = origin.extras.at_size(*jpeg.size).tags
        write_jpeg(origin.output, jpeg.content, tags, publish=self._publish(origin))


def _reason(write: Callable[[], None]) -> str:
    """Why a picture cannot be written; empty if it was."""
    try:
        write()
    except Exception as error:
        return reason_of(error)
    return ""
