"""A part of a video, written as segments that another process joins: many machines share one long clip."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from cgpipe.errors import MediaError, reason_of
from cgpipe.media.frames import Frame
from cgpipe.media.video.clip import Timeline, VideoInfo, VideoOrigin
from cgpipe.media.video.encoding import EncoderSettings, container_of
from cgpipe.media.video.interfaces import Sink
from cgpipe.media.video.segments import SegmentWriter, SharedSegments
from cgpipe.media.video.sink import SEGMENT_FRAMES, segment_key
from cgpipe.options import Encoding
from cgpipe.storage import PathLike, shown


class PartSink(Sink):
    """Writes some segments of the video that :class:`~cgpipe.media.video.VideoSink` then finds and joins.

    Args:
        path: the file of the whole video.
        like, encoding, resume: as for ``VideoSink``.
        first: index of the first frame, a multiple of :data:`SEGMENT_FRAMES`. Segments that exist are kept:
            ``resumed`` says where to go on.
        last: index behind the last frame; None: up to the end.

    Raises:
        MediaError: the segments cannot be written.
    """

    def __init__(
        self,
        path: PathLike,
        *,
        like: VideoInfo,
        encoding: Encoding,
        resume: str,
        first: int,
        last: int | None,
    ) -> None:
        self._info, self._name, self._last = like, shown(path), last
        self.encoding = EncoderSettings.choose(like, container_of(Path(path)), encoding, None)
        self.planar = self.encoding.planar(like)
        self._folder = SharedSegments(Path(path), segment_key(resume, like, self.encoding, SEGMENT_FRAMES))
        self._number = first // SEGMENT_FRAMES
        while (last is None or self._number * SEGMENT_FRAMES < last) and self._folder.has(self._number):
            self._number += 1
        self.resumed = self._number * SEGMENT_FRAMES
        self._made: list[int] = []
        self._timeline = Timeline(like)
        self._writer: SegmentWriter | None = None

    @property
    def settings(self) -> dict[str, object]:
        return asdict(self.encoding)

    def write(self, frame: Frame[VideoOrigin]) -> None:
        if self._writer is None:
            self._writer = SegmentWriter(self._folder.place(self._number), self._name, self._info, self.encoding)
        self._writer.write(frame, self._timeline.place(frame.origin), self._timeline.length(frame.origin))
        self.frames += 1
        if self._writer.frames == SEGMENT_FRAMES:
            self._close_segment()

    def finish(self) -> None:
        self._close_segment()

    def discard(self) -> None:
        """Removes what was written, of which some frames are missing."""
        for number in self._made:
            self._folder.drop(number)

    def abort(self) -> None:
        """Stops; whole segments stay."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abort()

    def _close_segment(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            self._folder.add(writer.finish())
        except OSError as error:
            raise MediaError(f"{self._name} cannot be written: {reason_of(error)}.") from error
        self._made.append(self._number)
        self._number += 1
