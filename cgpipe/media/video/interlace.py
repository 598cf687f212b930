"""Deinterlacing: turns two interleaved fields into one progressive picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import av
import av.error
from av.filter import Graph

from cgpipe.media.video.clip import TimedFrame

FILTER, SETTINGS = "bwdif", "mode=send_frame:deint=interlaced"
"""One frame out for each frame in; frames not flagged as interlaced pass unchanged."""
SMALLEST = 4
"""Shortest side that the filter accepts, in pixels."""


def deinterlaced(frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """The frames, progressive: unchanged up to the first interlaced one, through the filter from there on."""
    field_filter: _Filter | None = None
    for timed in frames:
        if field_filter is not None and not field_filter.takes(timed.frame):
            yield from field_filter.flush()
            field_filter = None
        if field_filter is None and timed.interlaced and min(timed.frame.width, timed.frame.height) >= SMALLEST:
            field_filter = _Filter(timed.frame)
        if field_filter is None:
            yield timed
        else:
            yield from field_filter(timed)
    if field_filter is not None:
        yield from field_filter.flush()


class _Filter:
    """A filter graph for frames of one size and format, with a delay of one frame."""

    def __init__(self, like: av.VideoFrame) -> None:
        self._layout = _layout(like)
        self._graph = Graph()
        source = self._graph.add_buffer(
            width=like.width, height=like.height, format=like.format, time_base=like.time_base
        )
        bwdif = self._graph.add(FILTER, SETTINGS)
        sink = self._graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        self._graph.configure()
        self._waiting: deque[TimedFrame] = deque()
        self._count = 0

    def takes(self, frame: av.VideoFrame) -> bool:
        return _layout(frame) == self._layout

    def __call__(self, timed: TimedFrame) -> Iterator[TimedFrame]:
        # Each frame keeps its own time; the filter gets a regular, increasing clock.
        timed.frame.pts = self._count
        self._count += 1
        self._waiting.append(timed)
        self._graph.push(timed.frame)
        yield from self._ready()

    def flush(self) -> Iterator[TimedFrame]:
        self._graph.push(None)
        yield from self._ready()

    def _ready(self) -> Iterator[TimedFrame]:
        while self._waiting:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield replace(self._waiting.popleft(), frame=frame)


def _layout(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
