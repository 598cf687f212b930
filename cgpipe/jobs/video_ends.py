"""The two ends of a video's way through the pipeline: what it takes from a clip, and what it gives to a sink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cgpipe.jobs.report import VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.media.frames import Failed, Frame, Pixels
from cgpipe.media.video.interfaces import Sink, Source
from cgpipe.media.video.masks import VideoMask

OnFrames = Callable[[int], None]


class VideoFrames:
    """The frames of a video as the pipeline takes them: with their masks, and with what is shown beside them.

    Attributes:
        notices: what the source had to say between the frames.
    """

    def __init__(self, source: Source, mask: VideoMask | None, watch: Stopwatch, *, originals: bool) -> None:
        self.notices: list[str] = []
        self._source = source
        self._mask = mask
        self._watch = watch
        self._originals = originals

    def frames(self, first: int = 0) -> Iterator[Frame | Failed]:
        frames: Iterable[Frame | Failed] = self._source.frames(first=first)
        if self._mask is not None:
            frames = self._mask.confine(frames, first=first)
        for frame in self._watch.timed("decode", frames):
            if isinstance(frame, Failed):
                self.notices.append(frame.reason)
            elif self._originals:
                yield replace(frame, origin=WithOriginal(frame.origin, frame.pixels[..., :3]))
            else:
                yield frame


class VideoResult:
    """A video's sink as the pipeline takes it."""

    def __init__(self, sink: Sink, report: VideoReport, watch: Stopwatch, on_frames: OnFrames) -> None:
        self._sink = sink
        self._report = report
        self._watch = watch
        self._on_frames = on_frames

    def write(self, frame: Frame) -> None:
        with self._watch.running("encode"):
            self._sink.write(beside_original(frame))
        self._watch.reached("encode")
        self._on_frames(1)

    def fail(self, failed: Failed) -> None:
        self._report.failed += 1
        if self._report.failed == 1:
            self._report.tell([f"a frame is left out: {failed.reason}"])


@dataclass(frozen=True, slots=True)
class WithOriginal:
    """A frame's origin together with the pixels from before its translation."""

    origin: Any
    pixels: Pixels


def beside_original(frame: Frame) -> Frame:
    """The translation, to the right of its original where that came along."""
    if not isinstance(frame.origin, WithOriginal):
        return frame
    origin = frame.origin.origin
    if origin.alpha is not None:
        origin = replace(origin, alpha=np.concatenate([origin.alpha, origin.alpha], axis=1))
    return replace(frame, pixels=np.concatenate([frame.origin.pixels, frame.pixels], axis=1), origin=origin)
