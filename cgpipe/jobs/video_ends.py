"""The source and the sink of a video job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from cgpipe.engine.steady import Steady
from cgpipe.jobs.report import VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.media.frames import Failed, Frame, Pixels, at_size
from cgpipe.media.video.clip import VideoOrigin
from cgpipe.media.video.interfaces import Sink, Source
from cgpipe.media.video.masks import VideoMask

OnFrames = Callable[[int], None]
OnPicture = Callable[[Pixels, Pixels], bool | None]
"""Told of a frame and its translation; False ends what has no end of its own."""


class VideoFrames:
    """The frames of a video for the pipeline: with their masks, and their originals if requested.

    Args:
        last: index behind the last frame to give; None: all.

    Attributes:
        notices: notices of the source between frames.
    """

    def __init__(
        self,
        source: Source,
        mask: VideoMask | None,
        watch: Stopwatch,
        *,
        originals: bool,
        last: int | None = None,
    ) -> None:
        self._last = last
        self.notices: list[str] = []
        self._ended = False
        self._source = source
        self._mask = mask
        self._watch = watch
        self._originals = originals

    def frames(self, first: int = 0) -> Iterator[Frame[ClipOrigin] | Failed[ClipOrigin]]:
        frames: Iterable[Frame[VideoOrigin] | Failed[VideoOrigin]] = self._source.frames(first=first)
        if self._last is not None:
            frames = islice(frames, max(0, self._last - first))
        if self._mask is not None:
            frames = self._mask.confine(frames, first=first)
        for frame in self._watch.timed("decode", frames):
            if self._ended:
                return
            if isinstance(frame, Failed):
                self.notices.append(frame.reason)
            else:
                original = frame.pixels if self._originals else None
                yield Frame(pixels=frame.pixels, origin=ClipOrigin(frame.origin, original), planar=frame.planar)

    def end(self) -> None:
        """Ends a camera or a stream with the frames that were read; a file goes on, since part of it is no result."""
        self._ended = self._source.info.path is None


class VideoResult:
    """A video's sink for the pipeline.

    Args:
        steady: temporal smoothing; needs the originals.
        side_by_side: write each frame beside its original, which is needed.
        repeated: number of leading frames that the sink already has, but ``steady`` must see again.
        on_picture: called with each frame, which needs its original.
    """

    def __init__(
        self,
        sink: Sink,
        report: VideoReport,
        watch: Stopwatch,
        on_frames: OnFrames,
        *,
        steady: Steady | None = None,
        side_by_side: bool = False,
        repeated: int = 0,
        on_picture: Callable[[Pixels, Pixels], None] | None = None,
    ) -> None:
        self._sink = sink
        self._report = report
        self._watch = watch
        self._on_frames = on_frames
        self._steady = steady
        self._side_by_side = side_by_side
        self._repeated = repeated
        self._on_picture = on_picture

    def write(self, frame: Frame[ClipOrigin]) -> None:
        finished = self._finished(frame)
        if self._repeated:
            self._repeated -= 1
            return
        with self._watch.running("encode"):
            self._sink.write(finished)
        self._watch.reached("encode")
        self._on_frames(1)

    def _finished(self, frame: Frame[ClipOrigin]) -> Frame[VideoOrigin]:
        height, width = frame.pixels.shape[:2]
        origin = _enlarged(frame.origin.origin, height, width)
        finished = Frame(pixels=frame.pixels, origin=origin, planar=frame.planar)
        if frame.origin.original is None:
            return finished
        original = at_size(frame.origin.original, height, width)
        if self._steady is not None:
            with self._watch.running("steady"):
                finished = replace(finished, pixels=self._steady(original, finished.pixels))
        if self._on_picture is not None:
            self._on_picture(original[..., :3], finished.pixels)
        return beside(original[..., :3], finished) if self._side_by_side else finished

    def fail(self, failed: Failed[ClipOrigin]) -> None:
        self._report.failed += 1
        if self._report.failed == 1:
            self._sink.leave_out()
            self._report.tell([f"A frame was dropped: {failed.reason}"])


@dataclass(frozen=True, slots=True)
class ClipOrigin:
    """A frame's origin and, if requested, its original pixels with their mask."""

    origin: VideoOrigin
    original: Pixels | None


def _enlarged(origin: VideoOrigin, height: int, width: int) -> VideoOrigin:
    """The origin with an opacity of this size."""
    return origin if origin.alpha is None else replace(origin, alpha=at_size(origin.alpha, height, width))


def beside(original: Pixels, frame: Frame[VideoOrigin]) -> Frame[VideoOrigin]:
    """A translated frame, to the right of its original."""
    origin = frame.origin
    if origin.alpha is not None:
        origin = replace(origin, alpha=np.concatenate([origin.alpha, origin.alpha], axis=1))
    return Frame(pixels=np.concatenate([original, frame.pixels], axis=1), origin=origin)
