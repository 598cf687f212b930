"""A long video is written in segments that decode on their own, so that an interrupt loses little, then joined.

Segments lie in a hidden folder beside the output, ``.clip.mp4.cgpipe``; for an output behind an address they are made
on this machine, and copied to there one by one. Each gets its name only when it is complete. Timestamps continue from
one to the next, in the time base of the input, so that joining only copies packets.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import av
import av.container
import av.error
import numpy as np
from av.video.stream import VideoStream

from cgpipe.errors import BusyError, MediaError
from cgpipe.media.frames import Frame
from cgpipe.media.video.alpha import has_alpha_mode
from cgpipe.media.video.clip import VideoInfo, VideoOrigin
from cgpipe.media.video.distant import DistantPieces
from cgpipe.media.video.encoding import Container, EncoderSettings, VideoEncoder
from cgpipe.media.video.libav import Packet, address, hidden_beside, is_about_the_place, packet_time, writing
from cgpipe.media.video.streams import OtherStreams
from cgpipe.storage import LOCAL, atomic_write, shown, store_of, work_folder
from cgpipe.threads import end_pool

_KEY_FILE = "job"
# Packets of each stream, for a trial.
_FIRST_PACKETS = 16
_LARGEST_TIMESCALE = 2**31 - 1


class SegmentWriter:
    """Encodes one segment into a file that gets its name when it is complete.

    Args:
        path: of the finished segment.
        name: name of the output in messages.
        info: size, colour, rate and time base.
        encoding: encoder and settings.

    Attributes:
        frames: how many have been written.

    Raises:
        UsageError: the encoder rejects its settings.
        MediaError: the file cannot be written, now or later.
    """

    def __init__(self, path: Path, name: str, info: VideoInfo, encoding: EncoderSettings) -> None:
        self.frames = 0
        self._name = name
        self._path = path
        self._part = path.with_name(f"{path.stem}-{secrets.token_hex(4)}.part")
        # Edit lists, which store the first frame's time, use this scale; its default is milliseconds.
        options = {"movie_timescale": str(info.time_base.denominator)}
        if encoding.segment_format == "matroska":
            options = {}
        self._container = av.open(address(self._part), "w", format=encoding.segment_format, options=options)
        try:
            self._encoder = VideoEncoder(self._container, info, encoding, name)
            self._encoder.open()
        except BaseException:
            self.abort()
            raise

    def write(self, frame: Frame[VideoOrigin], pts: int, duration: int | None) -> None:
        """Writes a frame; ``pts`` and ``duration`` are in units of the info's time base."""
        self._mux(self._encoder.encode(frame, pts, duration))
        self.frames += 1

    def finish(self) -> Path:
        """Flushes the encoder, and gives the segment its name."""
        try:
            self._mux(self._encoder.flush())
            with writing(self._name):
                self._container.close()
                self._part.rename(self._path)
        except BaseException:
            self.abort()
            raise
        return self._path

    def abort(self) -> None:
        """Stops and removes the unfinished file."""
        with contextlib.suppress(Exception):
            self._container.close()
        self._part.unlink(missing_ok=True)

    def _mux(self, packets: Iterator[av.Packet[VideoStream]]) -> None:
        with writing(self._name):
            for packet in packets:
                self._container.mux(packet)


class Finishing:
    """Finishes a segment in a thread, while the next one is begun: its last frames keep few cores busy."""

    def __init__(self, writer: SegmentWriter) -> None:
        self._thread = ThreadPoolExecutor(1, "cgpipe-segment")
        self._path = self._thread.submit(writer.finish)

    def wait(self) -> Path:
        """The finished segment.

        Raises:
            MediaError: it could not be written.
        """
        try:
            return self._path.result()
        finally:
            end_pool(self._thread)


class SegmentFolder:
    """The folder of one output's segments, including those of an interrupted run.

    Args:
        target: the output file.
        key: identifies input and settings; segments of another key are removed.

    Attributes:
        segments: the complete segments, in order.
        frames: how many frames they hold in total.

    Raises:
        MediaError: the folder cannot be created, or another process uses it.
    """

    def __init__(self, target: Path, key: str) -> None:
        self._name = shown(target)
        beside = hidden_beside(target, ".cgpipe")
        self._distant = None if store_of(target) is LOCAL else DistantPieces(beside)
        self.path = beside if self._distant is None else work_folder(beside)
        with writing(self._name):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.path / "lock", self._name)
        self.segments: list[Path] = []
        self.frames = 0
        here = self._key() == key
        there = self._distant is not None and self._distant.text(_KEY_FILE) == key
        if here or there:
            self._find(here, self._distant if there else None)
        self._clear()
        self._label(key, anew=not there)

    def add(self, segment: Path) -> None:
        """Takes the next piece, which is whole."""
        self.segments.append(segment)
        if self._distant is not None:
            with writing(self._name):
                self._distant.put(segment)

    def disown(self) -> None:
        """Lets no later run take the pieces over."""
        self._label(secrets.token_hex(16), anew=True)

    def next(self, ahead: int = 0) -> Path:
        """Path of the next segment, after others that are not here yet."""
        return self.path / f"{len(self.segments) + ahead:06d}.mp4"

    def remove(self) -> None:
        """Removes the folder and its content."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)
        if self._distant is not None:
            with contextlib.suppress(OSError):
                self._distant.remove()

    def release(self) -> None:
        """Unlocks the folder, so that another process can resume."""
        self._lock.close()

    def _label(self, key: str, *, anew: bool) -> None:
        with writing(self._name):
            (self.path / _KEY_FILE).write_text(key)
            if self._distant is not None and anew:
                self._distant.remove()
                self._distant.put(self.path / _KEY_FILE)

    def _key(self) -> str | None:
        with contextlib.suppress(OSError):
            return (self.path / _KEY_FILE).read_text()
        return None

    def _find(self, here: bool, there: DistantPieces | None) -> None:
        """Takes the pieces over that are on this machine, and what is only elsewhere."""
        while frames := self._found(self.next(), here, there):
            self.segments.append(self.next())
            self.frames += frames

    def _found(self, path: Path, here: bool, there: DistantPieces | None) -> int:
        """Frames of a segment; 0 if it does not exist or is incomplete."""
        if here and path.exists() and (frames := _whole_frames(path)):
            return frames
        with writing(self._name):
            return _whole_frames(path) if there is not None and there.fetch(path) else 0

    def _clear(self) -> None:
        for path in self.path.iterdir():
            if path not in self.segments and path.name != "lock":
                path.unlink()


class SharedSegments:
    """The folder of one output's segments for one of several processes that each write some of them.

    Args:
        target: the output file.
        key: as for :class:`SegmentFolder`, which prepares the folder and joins what is in it.

    Raises:
        MediaError: the folder cannot be created, or is of another job.
    """

    def __init__(self, target: Path, key: str) -> None:
        beside = hidden_beside(target, ".cgpipe")
        self._distant = None if store_of(target) is LOCAL else DistantPieces(beside)
        self._path = beside if self._distant is None else work_folder(beside)
        file = self._path / _KEY_FILE
        with writing(shown(target)):
            self._path.mkdir(parents=True, exist_ok=True)
            if self._distant is not None and self._distant.text(_KEY_FILE) is None:
                file.write_text(key)
                self._distant.put(file)
            if not file.exists():
                with atomic_write(file) as partial:
                    partial.write_text(key)
        found = file.read_text() if self._distant is None else self._distant.text(_KEY_FILE)
        if found != key:
            raise MediaError(f"{shown(target)} is being made with other settings: wait for it, or use another name.")

    def place(self, number: int) -> Path:
        """Path of a segment on this machine."""
        return self._path / f"{number:06d}.mp4"

    def has(self, number: int) -> bool:
        """Whether a segment is complete."""
        if self._distant is not None:
            return self.place(number).name in self._distant.names()
        return bool(_whole_frames(self.place(number)))

    def add(self, segment: Path) -> None:
        """Takes a complete segment; OSError if it cannot be kept."""
        if self._distant is not None:
            self._distant.put(segment)
            segment.unlink()

    def drop(self, number: int) -> None:
        """Removes a segment."""
        self.place(number).unlink(missing_ok=True)
        if self._distant is not None:
            self._distant.drop(self.place(number).name)


def join_segments(
    segments: Sequence[Path],
    joined: Path,
    name: str,
    info: VideoInfo,
    container: Container,
    others: OtherStreams,
    *,
    first: int | None = None,
) -> None:
    """Muxes the segments and the other streams of the input into one file, without re-encoding.

    A stream that cannot be kept as it is does not stop the others: it is converted, or dropped.

    Args:
        segments: in order; at least one.
        joined: the file to write; the caller renames it afterwards, or removes it after an exception.
        name: name of the output in messages.
        info: the clip.
        container: the kind of file.
        others: the other streams.
        first: packets of each other stream to write, for a trial; None: all.

    Raises:
        MediaError: the file cannot be written.
    """
    while True:
        try:
            with writing(name):
                return _join(segments, joined, info, container, others, first)
        except MediaError as error:
            if is_about_the_place(error.__cause__) or not others.mend(first):
                raise


def _join(
    segments: Sequence[Path],
    joined: Path,
    info: VideoInfo,
    container: Container,
    others: OtherStreams,
    first: int | None,
) -> None:
    with (
        others,
        av.open(address(segments[0])) as piece,
        av.open(address(joined), "w", format=container.format, options=container.muxer_options(info)) as output,
    ):
        template = piece.streams.video[0]
        copies: list[VideoStream] = []
        others.add_to(output, lambda: copies.append(_add_copy(output, template, info)))
        _set_timescale(output, info)
        output.start_encoding()
        parts: list[Iterator[Packet | av.Packet[VideoStream]]]
        parts = [_segment_packets(segments, copies[0]), others.packets(first)]
        for packet in heapq.merge(*parts, key=packet_time):
            output.mux(packet)


def try_to_join(
    folder: Path, name: str, info: VideoInfo, encoding: EncoderSettings, container: Container, others: OtherStreams
) -> None:
    """Writes a trial clip of one black frame with the other streams' first packets, so that errors show beforehand.

    Raises:
        UsageError: the encoder rejects its settings.
        MediaError: the file cannot be written.
    """
    piece, joined = folder / "trial.piece", folder / "trial.joined"
    try:
        writer = SegmentWriter(piece, name, info, encoding)
        origin = VideoOrigin(index=0, pts=0, time_base=info.time_base)
        writer.write(Frame(pixels=np.zeros((info.height, info.width, 3), np.uint8), origin=origin), 0, None)
        join_segments([writer.finish()], joined, name, info, container, others, first=_FIRST_PACKETS)
    finally:
        piece.unlink(missing_ok=True)
        joined.unlink(missing_ok=True)


def _add_copy(output: av.container.OutputContainer, template: VideoStream, info: VideoInfo) -> VideoStream:
    copy = output.add_stream_from_template(template, opaque=True)
    if info.rate:
        # Without it, players of Matroska take H.264's ticks for frames, and timecodes count them.
        copy.codec_context.framerate = info.rate
    copy.time_base = template.time_base
    if template.codec_context.name == "hevc" and output.format.name in ("mp4", "mov"):
        copy.codec_context.codec_tag = "hvc1"
    if has_alpha_mode(template):
        copy.metadata["alpha_mode"] = "1"
    return copy


def _set_timescale(output: av.container.OutputContainer, info: VideoInfo) -> None:
    """Sets the scale of start offsets in mp4 to a common multiple, so that every stream's offset is exact."""
    if output.format.name not in ("mp4", "mov"):
        return
    bases = [stream.time_base for stream in output.streams if stream.time_base]
    scale = math.lcm(info.time_base.denominator, *(base.denominator for base in bases))
    if scale > _LARGEST_TIMESCALE:
        scale = info.time_base.denominator
    output.options["movie_timescale"] = str(scale)


def _segment_packets(segments: Sequence[Path], stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    last: int | None = None
    final = _last_shown(segments[-1])
    for path in segments:
        with av.open(address(path)) as container:
            for packet in container.demux(video=0):
                if not packet.size:
                    continue
                # An encoder counts decoding times back from its first frame, possibly into the segment before.
                if last is not None and packet.dts is not None:
                    packet.dts = max(packet.dts, last + 1)
                last = packet.dts
                if path == segments[-1] and packet.pts == final[0]:
                    packet.duration = final[1]
                packet.stream = stream
                yield packet


def _last_shown(path: Path) -> tuple[int | None, int]:
    """Time and duration of a segment's last frame; the duration is the track's, since its packet has the wrong one."""
    with av.open(address(path)) as container:
        stream = container.streams.video[0]
        shown = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.size and p.pts is not None]
        pts, duration = max(shown, default=(None, 0))
        if pts is None or stream.duration is None:
            return pts, duration
        return pts, max(duration, (stream.start_time or 0) + stream.duration - pts)


def _whole_frames(path: Path) -> int:
    """How many frames a segment holds; 0 if it is incomplete."""
    try:
        with av.open(address(path)) as container:
            stated = container.streams.video[0].frames
            return stated or sum(1 for packet in container.demux(video=0) if packet.size)
    except (av.error.FFmpegError, OSError, IndexError):
        return 0


def _locked(path: Path, target: str) -> IO[bytes]:
    """A locked file; the system releases the lock when this process ends, however it ends."""
    file = path.open("ab")
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be removed by others anyway
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BusyError(f"{target} is being written by another process: wait for it, or use another name.") from None
    except OSError:  # a network folder without locks
        pass
    return file
