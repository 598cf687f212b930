"""A long video written in pieces that decode on their own, so that an interrupt loses little, and joined at the end.

The pieces lie in a hidden folder beside the target, ``.clip.mp4.cgpipe``. Each appears under its name only when it is
whole. Their times go on from one to the next, in the time base of the input, so that joining is copying packets.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import av
import av.container

from cgpipe.errors import MediaError
from cgpipe.media.frames import Pixels
from cgpipe.media.video.clip import VideoInfo
from cgpipe.media.video.encoding import Container, Encoding, VideoEncoder
from cgpipe.media.video.libav import packet_time, writing
from cgpipe.media.video.streams import OtherStreams

_KEY_FILE = "job"
_LARGEST_TIMESCALE = 2**31 - 1


class SegmentWriter:
    """Encodes one piece into a file that gets its name when it is whole.

    Args:
        path: of the finished piece.
        info: size, colour, rate and time base.
        encoding: encoder and settings.

    Attributes:
        frames: how many have been written.

    Raises:
        UsageError: the encoder does not take its settings.
        MediaError: the file cannot be written, now or later.
    """

    def __init__(self, path: Path, info: VideoInfo, encoding: Encoding) -> None:
        self.frames = 0
        self._path = path
        self._part = path.with_suffix(".part")
        # Edit lists, which hold the first frame's time, are counted in this scale; its default is milliseconds.
        options = {"movie_timescale": str(info.time_base.denominator)}
        self._container = av.open(str(self._part), "w", format=encoding.segment_format, options=options)
        try:
            self._encoder = VideoEncoder(self._container, info, encoding, path.name)
            self._encoder.open()
        except BaseException:
            self.abort()
            raise

    def write(self, pixels: Pixels, pts: int, duration: int | None) -> None:
        """Adds a frame; ``pts`` and ``duration`` are in units of the info's time base."""
        self._mux(self._encoder.encode(pixels, pts, duration))
        self.frames += 1

    def finish(self) -> Path:
        """Writes what the encoder still holds, and gives the piece its name."""
        try:
            self._mux(self._encoder.flush())
            with writing(str(self._path)):
                self._container.close()
                self._part.rename(self._path)
        except BaseException:
            self.abort()
            raise
        return self._path

    def abort(self) -> None:
        """Leaves nothing behind."""
        with contextlib.suppress(Exception):
            self._container.close()
        self._part.unlink(missing_ok=True)

    def _mux(self, packets: Iterator[av.Packet[Any]]) -> None:
        with writing(str(self._path)):
            for packet in packets:
                self._container.mux(packet)


class SegmentFolder:
    """The folder of the pieces of one target, and which of them are there from an earlier, interrupted run.

    Args:
        target: the file to be made.
        key: identifies input and settings; pieces made under another key are thrown away.

    Attributes:
        segments: the whole pieces, in order.
        frames: how many frames they hold together.

    Raises:
        MediaError: the folder cannot be made, or another process is at work in it.
    """

    def __init__(self, target: Path, key: str) -> None:
        self.path = target.with_name(f".{target.name}.cgpipe")
        with writing(str(target)):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.path / "lock", target)
        self.segments: list[Path] = []
        self.frames = 0
        if self._key() == key:
            self._find()
        self._clear()
        with writing(str(target)):
            (self.path / _KEY_FILE).write_text(key)

    def next(self) -> Path:
        """Where the next piece goes."""
        return self.path / f"{len(self.segments):06d}.mp4"

    def remove(self) -> None:
        """Removes the folder and all that is in it."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def release(self) -> None:
        """Lets another process go on with what is there."""
        self._lock.close()

    def _key(self) -> str | None:
        with contextlib.suppress(OSError):
            return (self.path / _KEY_FILE).read_text()
        return None

    def _find(self) -> None:
        while (path := self.next()).exists() and (frames := _whole_frames(path)):
            self.segments.append(path)
            self.frames += frames

    def _clear(self) -> None:
        for path in self.path.iterdir():
            if path not in self.segments and path.name != "lock":
                path.unlink()


def join_segments(
    segments: Sequence[Path], target: Path, info: VideoInfo, container: Container, others: OtherStreams
) -> None:
    """Copies the pieces of the picture and the other streams of the input into one file, without encoding.

    Args:
        segments: the pieces, in order; at least one.
        target: the file to write; the caller renames it when this returns, and removes it when this raises.
        info: the clip.
        container: the kind of file.
        others: what to bring over beside the picture.

    Raises:
        MediaError: the file cannot be written.
    """
    with others, writing(str(target)), av.open(str(segments[0])) as first:
        template = first.streams.video[0]
        with av.open(str(target), "w", format=container.format, options=dict(container.options)) as output:
            joined: list[av.video.stream.VideoStream] = []

            def add_video() -> None:
                joined.append(_add_copy(output, template, info))

            others.add_to(output, add_video)
            _set_timescale(output, info)
            output.start_encoding()
            picture = _segment_packets(segments, joined[0])
            for packet in heapq.merge(picture, others.packets(), key=packet_time):
                output.mux(packet)


def _add_copy(
    output: av.container.OutputContainer, template: av.video.stream.VideoStream, info: VideoInfo
) -> av.video.stream.VideoStream:
    copy = output.add_stream_from_template(template, opaque=True)
    copy.time_base = template.time_base
    if template.codec_context.name == "hevc" and output.format.name in ("mp4", "mov"):
        copy.codec_context.codec_tag = "hvc1"
    return copy


def _set_timescale(output: av.container.OutputContainer, info: VideoInfo) -> None:
    """Start offsets in mp4 are counted in this scale; with a common multiple, every stream's is exact."""
    if output.format.name not in ("mp4", "mov"):
        return
    bases = [stream.time_base for stream in output.streams if stream.time_base]
    scale = math.lcm(info.time_base.denominator, *(base.denominator for base in bases))
    if scale > _LARGEST_TIMESCALE:
        scale = info.time_base.denominator
    output.options["movie_timescale"] = str(scale)


def _segment_packets(segments: Sequence[Path], stream: av.video.stream.VideoStream) -> Iterator[av.Packet[Any]]:
    last: int | None = None
    for path in segments:
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                if not packet.size:
                    continue
                # An encoder counts decoding times back from its first frame, which may reach into the piece before.
                if last is not None and packet.dts is not None:
                    packet.dts = max(packet.dts, last + 1)
                last = packet.dts
                packet.stream = stream
                yield packet


def _whole_frames(path: Path) -> int:
    """How many frames a piece holds; 0 if it is not whole."""
    try:
        with av.open(str(path)) as container:
            return container.streams.video[0].frames
    except (av.error.FFmpegError, OSError, IndexError):
        return 0


def _locked(path: Path, target: Path) -> IO[bytes]:
    """An open file whose lock the system drops when this process ends, however it ends."""
    file = path.open("ab")
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be removed by others anyway
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise MediaError(f"{target}: another process is writing this file; wait for it, or take another name") from None
    except OSError:  # a network folder without locks
        pass
    return file
