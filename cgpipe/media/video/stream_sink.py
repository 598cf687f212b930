"""Writes frames directly into one container: standard output, an animated GIF, WebP or APNG."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import av.container
import av.error
from av.video.stream import VideoStream

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.frames import Frame
from cgpipe.media.video.clip import Damage, Timeline, VideoInfo, VideoOrigin
from cgpipe.media.video.encoding import ANIMATIONS, CONTAINERS, Container, EncoderSettings, VideoEncoder, suffix_of
from cgpipe.media.video.interfaces import Sink
from cgpipe.media.video.last_frame import hold_last
from cgpipe.media.video.libav import Packet, address, is_about_the_place, packet_time, writing
from cgpipe.media.video.streams import OtherStreams, StreamReport
from cgpipe.options import Encoding
from cgpipe.storage import PathLike, Publish, shown, store_of


class StreamSink(Sink):
    """Writes frames as they come, without the segments by which :class:`~cgpipe.media.video.VideoSink` resumes.

    A file object (standard output, a socket) gets Matroska, with audio and subtitles, which can be played while it is
    being written. A path must end in ``.gif``, ``.webp`` or ``.apng``; the file appears when it is complete.

    Args:
        target: a binary file object, or a path.
        like: the source's info.
        encoding: encoder, quality, pixel format, audio.
        options: further options for the encoder.
        publish: moves the finished file into place.
        owned: close the file object at the end.

    Attributes:
        encoding: the chosen encoder and settings.

    Raises:
        UsageError: the name, the codec or a setting is invalid.
        MediaError: the target cannot be written.
    """

    encoding: EncoderSettings

    def __init__(
        self,
        target: PathLike | IO[bytes],
        *,
        like: VideoInfo,
        encoding: Encoding = Encoding(),
        options: Mapping[str, str] | None = None,
        publish: Publish = os.replace,
        owned: bool = False,
    ) -> None:
        self._publish = publish
        self._asked = encoding
        self._pipe = None if isinstance(target, str | os.PathLike) or not owned else target
        self._refused = 0
        self._path = Path(target) if isinstance(target, (str, os.PathLike)) else None
        self._name = "standard output" if self._path is None else shown(self._path)
        container = CONTAINERS[".mkv"] if self._path is None else _animation(self._path)
        self._shortest = container.shortest
        info = like if container.tick is None else replace(like, time_base=container.tick)
        self.encoding = EncoderSettings.choose(info, container, encoding, options)
        self._others = OtherStreams(info, container, audio=encoding.audio)
        self.planar = self.encoding.planar(info)
        self._info = info
        self._timeline = Timeline(info)
        self._guesses_last = container.guesses_last
        self._last: int | None = None
        self._first: int | None = None
        self._end: int | None = None
        self._dropped = 0
        self._temporary = contextlib.ExitStack()
        self._part: Path | None = None  # where the file is written until it is whole
        if self._path is not None:
            with writing(self._name):
                temporary = store_of(self._path).temporary(os.fspath(self._path))
                self._part = self._temporary.enter_context(temporary)
        self._open(container, target if self._part is None else address(self._part))

    @property
    def streams(self) -> tuple[StreamReport, ...]:
        return self._others.report

    @property
    def damage(self) -> Damage:
        return Damage(bad_sound=self._others.bad_packets + self._refused, changed=self._others.changed)

    @property
    def notices(self) -> tuple[str, ...]:
        dropped = (f"GIF is limited to 50 frames per second: {self._dropped} were dropped.",) if self._dropped else ()
        return self.encoding.notices(self._info, self._asked) + self._others.notices + dropped

    @property
    def settings(self) -> dict[str, object]:
        return asdict(self.encoding)

    def _open(self, container: Container, target: PathLike | IO[bytes]) -> None:
        with writing(self._name):
            self._output = av.open(target, "w", format=container.format, options=container.muxer_options(self._info))
        try:
            self._others.__enter__()
            self._others.add_to(self._output, self._add_video)
            self._encoder.open()
        except BaseException:
            self.abort()
            raise
        self._waiting = self._others.packets()
        self._next: Packet | None = next(self._waiting, None)

    def _add_video(self) -> None:
        self._encoder = VideoEncoder(self._output, self._info, self.encoding, self._name)

    def write(self, frame: Frame[VideoOrigin]) -> None:
        pts = self._timeline.place(frame.origin)
        self.frames += 1
        if self._last is not None and pts - self._last < self._shortest:
            self._dropped += 1
            return
        length = self._timeline.length(frame.origin)
        self._first = pts if self._first is None else self._first
        self._end = None if length is None else pts + length
        self._last = pts
        self._mux(self._encoder.encode(frame, pts, length))

    def finish(self) -> None:
        try:
            if not self.frames:
                raise MediaError(f"{self._name} was not written: there were no frames.")
            self._mux(self._encoder.flush())
            self._mux_others(None)
            with writing(self._name):
                self._output.close()
                if self._part is not None and self._path is not None:
                    if self._guesses_last and self._first is not None and self._end is not None:
                        hold_last(self._part, (self._end - self._first) * self._info.time_base)
                    self._publish(self._part, self._path)
                self._temporary.close()
        except BaseException:
            self.abort()
            raise
        self._others.close()
        self._close_pipe()

    def abort(self) -> None:
        """Stops; an unfinished file is removed."""
        with contextlib.suppress(Exception):
            self._output.close()
        self._others.close()
        self._close_pipe()
        self._temporary.close()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            with writing(self._name):
                self._pipe.close()

    def _mux(self, packets: Iterator[av.Packet[VideoStream]]) -> None:
        for packet in packets:
            self._mux_others(packet_time(packet))
            with writing(self._name):
                self._output.mux(packet)

    def _mux_others(self, until: Fraction | None) -> None:
        """Audio and subtitles up to a time, or to the end."""
        with writing(self._name):
            while self._next is not None and (until is None or packet_time(self._next) <= until):
                self._mux_other(self._next)
                self._next = next(self._waiting, None)

    def _mux_other(self, packet: Packet) -> None:
        """Muxes one packet; one that the container refuses is dropped alone."""
        try:
            self._output.mux(packet)
        except av.error.FFmpegError as error:
            if is_about_the_place(error):
                raise
            self._refused += 1


def _animation(path: Path) -> Container:
    try:
        return ANIMATIONS[suffix_of(path)]
    except KeyError:
        raise UsageError(f"{path.name} is not a valid name for an animation: use .gif, .webp or .apng.") from None
