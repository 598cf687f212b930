"""Writes a video frame by frame, with everything else of the input."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Unpack

from cgpipe.errors import MediaError
from cgpipe.media.frames import Frame
from cgpipe.media.video.clip import Damage, Timeline, VideoInfo, VideoOrigin
from cgpipe.media.video.encoding import EncoderSettings, container_of
from cgpipe.media.video.interfaces import Sink
from cgpipe.media.video.libav import writing
from cgpipe.media.video.segments import Finishing, SegmentFolder, SegmentWriter, join_segments, try_to_join
from cgpipe.media.video.streams import OtherStreams, StreamReport
from cgpipe.options import Encoding, EncodingFields
from cgpipe.storage import Publish, shown

# At most this much work is lost when a run is killed. A keyframe every 120 frames also keeps seeking quick.
SEGMENT_FRAMES = 120


class VideoSink(Sink):
    """Writes frames, with their own times, into a video file, with everything else of the input.

    ::

        source = VideoSource("in.mp4")
        with VideoSink("out.mp4", like=source.info) as sink:
            for frame in source:
                sink.write(frame)

    The file appears when the ``with`` block ends without an exception. It is written in segments (see
    :mod:`cgpipe.media.video.segments`); with ``resume``, segments of an interrupted run are kept: start at
    ``source.frames(first=sink.resumed)``.

    Args:
        path: the file to write; its suffix selects the container: mp4, m4v, mov, mkv or webm.
        like: the source's info; change it with :func:`dataclasses.replace` to write frames of another size.
        encoding: encoder, quality, pixel format, audio; each field also as a keyword (``crf=18``).
        options: further options for the encoder.
        resume: identifies the input and everything done to the frames; None: resume nothing and keep nothing to resume.
        segment_frames: frames per segment.
        publish: moves the finished file into place.

    Attributes:
        encoding: the chosen encoder and settings.

    Raises:
        UsageError: the name, the codec or a setting is invalid; raised before any work.
        MediaError: the file cannot be written.
    """

    encoding: EncoderSettings

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        like: VideoInfo,
        encoding: Encoding = Encoding(),
        options: Mapping[str, str] | None = None,
        resume: str | None = None,
        segment_frames: int = SEGMENT_FRAMES,
        publish: Publish = os.replace,
        **given: Unpack[EncodingFields],
    ) -> None:
        self._asked = encoding = replace(encoding, **given)
        self._publish = publish
        self._path = Path(path)
        self._name = shown(path)
        self._info = like
        self._container = container_of(self._path)
        self._keep = resume is not None
        self._segment_frames = segment_frames
        self._timeline = Timeline(like)
        self.encoding = EncoderSettings.choose(like, self._container, encoding, options)
        self.planar = self.encoding.planar(like)
        if self._path.is_dir():
            raise MediaError(f"{self._name} cannot be written: there is a folder of this name.")
        self._others = OtherStreams(like, self._container, audio=encoding.audio)
        self._writer: SegmentWriter | None = None
        self._finishing: Finishing | None = None
        with ExitStack() as undo:
            undo.callback(self._others.close)
            self._folder = SegmentFolder(self._path, segment_key(resume, like, self.encoding, segment_frames))
            undo.callback(self.abort)
            self.frames = self.resumed = self._folder.frames
            try_to_join(self._folder.path, self._name, like, self.encoding, self._container, self._others)
            self._writer = self._open_segment()
            undo.pop_all()

    @property
    def streams(self) -> tuple[StreamReport, ...]:
        return self._others.report

    @property
    def damage(self) -> Damage:
        return Damage(bad_sound=self._others.bad_packets, changed=self._others.changed)

    @property
    def notices(self) -> tuple[str, ...]:
        return self.encoding.notices(self._info, self._asked) + self._others.notices

    @property
    def settings(self) -> dict[str, object]:
        return asdict(self.encoding)

    def write(self, frame: Frame[VideoOrigin]) -> None:
        writer = self._writer or self._open_segment()
        self._writer = writer
        writer.write(frame, self._timeline.place(frame.origin), self._timeline.length(frame.origin))
        self.frames += 1
        if writer.frames == self._segment_frames:
            self._close_segment()

    def leave_out(self) -> None:
        self._keep = False
        self._folder.disown()

    def finish(self) -> None:
        try:
            self._close_segment()
            self._keep_finished()
            if not self._folder.segments:
                raise MediaError(f"{self._name} was not written: there were no frames.")
            joined = self._folder.path / f"joined{self._path.suffix}"
            join_segments(self._folder.segments, joined, self._name, self._info, self._container, self._others)
            with writing(self._name):
                self._publish(joined, self._path)
        except BaseException:
            self.abort()
            raise
        self._folder.remove()
        self._others.close()

    def abort(self) -> None:
        """Stops without a result; with ``resume``, complete segments stay for a later run."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
        with suppress(MediaError):
            self._keep_finished()
        self._others.close()
        if self._keep and self._folder.segments:
            self._folder.release()
        else:
            self._folder.remove()

    def _open_segment(self) -> SegmentWriter:
        path = self._folder.next(ahead=0 if self._finishing is None else 1)
        return SegmentWriter(path, self._name, self._info, self.encoding)

    def _close_segment(self) -> None:
        writer, self._writer = self._writer, None
        self._keep_finished()
        if writer is None:
            return
        if not writer.frames:
            writer.abort()
        elif self.encoding.is_lean:
            self._finishing = Finishing(writer)
        else:
            self._folder.add(writer.finish())

    def _keep_finished(self) -> None:
        """Waits for the segment before, and takes it."""
        finishing, self._finishing = self._finishing, None
        if finishing is not None:
            self._folder.add(finishing.wait())


def segment_key(resume: str | None, info: VideoInfo, encoding: EncoderSettings, segment_frames: int) -> str:
    """Identifies a run by everything that its segments depend on; random without ``resume``."""
    told = resume if resume is not None else os.urandom(16).hex()
    # Only what concerns the clip's pictures: neither its other streams nor its path.
    pictures = replace(info, frames=None, path=None, streams=(), stamp=None)
    settings = (told, pictures, encoding, segment_frames)
    return hashlib.sha256(repr(settings).encode()).hexdigest()
