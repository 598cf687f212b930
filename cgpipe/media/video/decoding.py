"""One pass over a video file: packets to frames, with timestamps repaired and lost frames filled in.

The stages are generators of a few lines each, chained by a :class:`Reader`. They pass on
:class:`~cgpipe.media.video.clip.TimedFrame`: a frame as libav decoded it, with its presentation time.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction

import av
import av.container
import av.error
from av.codec.context import ThreadType
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.colour import Colour
from cgpipe.media.video.alpha import has_alpha, has_alpha_mode, is_transparent
from cgpipe.media.video.clip import Damage, Orientation, TimedFrame, VideoInfo, describe, is_cover
from cgpipe.media.video.clock import FREE_CLOCK, formats_of, on_one_clock
from cgpipe.media.video.interlace import deinterlaced
from cgpipe.media.video.libav import LENIENT_TAGS, Packet, Readable, address, demuxed, explain, format_of, reading
from cgpipe.media.video.truncation import is_cut_short
from cgpipe.storage import PathLike

# Seeking is exact only in containers with an index of keyframes; others are read from the start.
_INDEXED = frozenset({"mov", "mp4", "matroska", "webm", "avi"})
# Packets of these formats carry only a decoding time: libav's presentation time is a guess.
_ONE_TIME = frozenset({"avi"})
# Animations, which are short: those with alpha may begin with an opaque frame.
_ANIMATIONS = frozenset({"apng", "gif"})
# A packet this small holds no picture: it marks one that came with the packet before.
_PLACEHOLDER_BYTES = 8
# FFmpeg's own decoders of VP8 and VP9 drop alpha.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_FALLBACK_RATE = Fraction(25)
# User data of ATSC A/53 in a picture (an SEI message in H.264 and HEVC) that holds closed captions.
_CAPTIONS = b"GA94\x03"
# Packets that are searched for them: where there are any, the first pictures have some.
_SEARCHED = 32
# Two frames closer to one another than this fraction of a frame's duration count as one.
_HOLE = 0.6
_MICROSECOND = Fraction(1, av.time_base)


class StumbledError(Exception):
    """A decoder in hardware could not go on."""


class Reader:
    """One open container, and the frames of its video stream.

    Args:
        file: path, URL, or readable binary file object.
        name: name in messages.
        start: seconds into the clip; earlier frames need not be returned.
        hwaccel: libav's name of a hardware decoder, or None.
        threads: decoding threads.
        deinterlace: deinterlace interlaced frames.
        strict: raise :class:`StumbledError` at the first packet that cannot be decoded, instead of counting it.

    Attributes:
        frames: the frames of this pass; can be iterated once.
        damage: damage found so far in this pass.
        zero: start of the clip, in seconds on its own clock; positions that users give count from here.

    Raises:
        MediaError: the file cannot be read, or has no video stream.
    """

    def __init__(
        self,
        file: PathLike | Readable,
        name: str,
        *,
        start: Fraction,
        hwaccel: str | None,
        threads: int,
        deinterlace: bool = True,
        strict: bool = False,
    ) -> None:
        self._name = name
        self._strict = strict
        self._file = file
        self._deinterlace = deinterlace
        self.damage = Damage()
        self._closed = False
        self.frames: Iterator[TimedFrame] = iter(())
        self._expected: list[tuple[int, int]] = []
        self._due: list[int] = []
        self.container = _open(file, name, hwaccel)
        self._formats = formats_of(self.container)
        self._demuxed = demuxed(self.container)
        try:
            self.stream = self._video_stream(name)
            self._set_up(start, threads)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the pass and releases its file and threads; may be called again."""
        self._closed = True
        self._expected.clear()
        # A decoder releases its threads when nothing refers to it; the generators refer to this object.
        self.frames = iter(())
        # In this order: advancing or finalizing a demuxer after its container is closed crashes.
        self._demuxed.close()
        self.container.close()

    def _set_up(self, start: Fraction, threads: int) -> None:
        self._decoder = _decoder(self.stream)
        # Frame threads only: with automatic slice threads, HEVC has deadlocked when several clips were read at once.
        self._decoder.thread_type = ThreadType.FRAME
        self._decoder.thread_count = threads
        self.time_base = self.stream.time_base or _MICROSECOND
        self._one_time = bool(self._formats & _ONE_TIME)
        self.rate = self._average_rate()
        self.step = max(1, round(1 / ((self.rate or _FALLBACK_RATE) * self.time_base)))
        self.zero = self._first_time()
        self._packets = 0
        self._captions = False
        self._end = Fraction(0)
        self._sought = self._seek(start)
        timed = self._with_times(self._decoded())
        self.frames = self._with_lost_filled(deinterlaced(timed) if self._deinterlace else timed)

    def _average_rate(self) -> Fraction | None:
        stated = self.stream.average_rate or self.stream.guessed_rate or None
        pictures = _pictures_in_index(self.stream) if self._one_time else 0
        return stated * Fraction(pictures, self.stream.frames) if stated and pictures else stated

    def _first_time(self) -> Fraction:
        if self.container.start_time is not None:
            return self.container.start_time * _MICROSECOND
        return (self.stream.start_time or 0) * self.time_base

    @property
    def clock_start(self) -> Fraction:
        """What to subtract from all output times: 0, unless the container's clock starts anywhere."""
        return self.zero if self._formats & FREE_CLOCK else Fraction(0)

    def _seek(self, start: Fraction) -> bool:
        """Seeks to a keyframe well before ``start``: keyframes are indexed by decoding time, which runs ahead."""
        margin = max(Fraction(1, 2), 4 * self.step * self.time_base)
        if start <= margin or not self._formats & _INDEXED:
            return False
        with reading(self._name):
            self.container.seek(int((self.zero + start - margin) / self.time_base), stream=self.stream)
        return True

    def describe(self, timed: TimedFrame) -> VideoInfo:
        """What the container and its first frame say about the whole clip."""
        frame = timed.frame
        orientation = Orientation.of(frame)
        aspect = self.stream.sample_aspect_ratio or Fraction(1)
        sides = (frame.height, frame.width) if orientation.transpose else (frame.width, frame.height)
        return VideoInfo(
            width=sides[0],
            height=sides[1],
            colour=Colour.of(frame),
            time_base=self.time_base,
            rate=self.rate,
            frames=self._frame_count(),
            sample_aspect_ratio=1 / aspect if orientation.transpose else aspect,
            rotation=frame.rotation % 360,
            start=self.clock_start,
            codec=self.stream.codec_context.name,
            pix_fmt=frame.format.name,
            stream=self.stream.index,
            streams=tuple(describe(stream) for stream in self.container.streams),
            alpha=is_transparent(frame) or self._becomes_transparent(frame),
            interlaced=timed.interlaced,
            deinterlaced=timed.interlaced and self._deinterlace,
            captions=self._captions,
        )

    def _becomes_transparent(self, first: av.VideoFrame) -> bool:
        """Whether an animation that begins opaque has alpha later on: all of it is decoded."""
        path = self._file
        if not (self._formats & _ANIMATIONS and has_alpha(first.format.name) and isinstance(path, str | os.PathLike)):
            return False
        with (
            suppress(av.error.FFmpegError, OSError),  # of which the pass over the frames tells
            av.open(address(path), format=format_of(path), **LENIENT_TAGS) as animation,
        ):
            return any(map(is_transparent, animation.decode(video=0)))
        return False

    def _frame_count(self) -> int | None:
        stated = self.stream.metadata.get("NUMBER_OF_FRAMES", "")
        counted = (_pictures_in_index(self.stream) if self._one_time else 0) or self.stream.frames
        if counted or stated.isdecimal():
            return counted or int(stated)
        if self.stream.duration is not None:
            length = self.stream.duration * self.time_base
        elif self.container.duration is not None:
            length = self.container.duration * _MICROSECOND
            if "matroska" in self._formats:
                # Its "duration" is the time of the end.
                length -= self.zero
        else:
            return None
        return max(1, round(length * self.rate)) if self.rate else None

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """The only place where packets are decoded; those that cannot be are skipped and counted."""
        for packet in self._video_packets():
            try:
                frames = self._decoder.decode(packet if packet.size else None)
            except av.error.FFmpegError as error:
                if self._strict:
                    raise StumbledError from error
                self.damage.bad_packets += 1
                continue
            yield from frames
        if not self._closed:
            self._note_missing()

    def _video_stream(self, name: str) -> VideoStream:
        """The first video stream that is not a cover; the first stream may be neither."""
        for stream in self.container.streams.video:
            if not is_cover(stream) and stream.codec_context is not None:
                return stream
        if not len(self.container.streams) or self.is_cut_short():
            raise no_index(name)
        if any(stream.codec_context is None for stream in self.container.streams.video):
            raise MediaError(f"{name} is of a codec that this build of FFmpeg does not know: convert it first.")
        raise MediaError(f"{name} has no video stream. For pictures use cgpipe translate.")

    def _video_packets(self) -> Iterator[Packet]:
        for packet in on_one_clock(self._demuxed, self._formats):
            if packet.dts is not None or packet.pts is not None:
                end = (packet.pts if packet.pts is not None else packet.dts or 0) + (packet.duration or 0)
                self._end = max(self._end, end * packet.time_base)
            if packet.stream.index != self.stream.index:  # not stream_index, which is 0 in every flushing packet
                continue
            if packet.size or packet.dts is not None:
                self._packets += 1
            if packet.size and self._packets <= _SEARCHED and not self._captions:
                self._captions = _CAPTIONS in bytes(packet)
            if self._one_time:
                self._mark(packet)
            elif packet.size and packet.pts is not None and not packet.is_discard:
                heapq.heappush(self._expected, (packet.pts, packet.duration or self.step))
            if packet.size or packet.dts is None:  # an empty one amid others, as AVI has, would end the decoding
                yield packet

    def _mark(self, packet: Packet) -> None:
        """Notes when a frame is due; the packet's time passes through the decoder with it."""
        packet.pts = packet.dts
        if packet.size > _PLACEHOLDER_BYTES and packet.dts is not None:
            heapq.heappush(self._due, packet.dts)

    def is_cut_short(self) -> bool:
        """Whether the file ends before its own structure does."""
        return isinstance(self._file, (str, os.PathLike)) and is_cut_short(self._file, self._formats)

    def _note_missing(self) -> None:
        """A truncated file raises no error: compares what was read with what the container promised."""
        step = self.step * self.time_base
        cut = self.is_cut_short()
        if self._one_time:
            end = self.stream.frames * self.time_base
            self.damage.missing = max(0, int((end - self._end) / step)) if self.stream.frames else 0
        elif self.stream.frames and not self._sought:
            self.damage.missing = max(0, self.stream.frames - self._packets)
        elif "matroska" in self._formats and self.container.duration is not None:
            short = self.container.duration * _MICROSECOND - self._end
            tolerance = step if cut else max(Fraction(1, 10), 3 * step)
            self.damage.missing = round(short / step) if short > tolerance else 0
        self.damage.missing = max(self.damage.missing, int(cut))

    def _with_times(self, frames: Iterator[av.VideoFrame]) -> Iterator[TimedFrame]:
        """Strictly increasing times: missing ones follow from the rate, ones that do not advance are moved on."""
        last: int | None = None
        for frame in frames:
            pts = self._due_time(frame) if self._one_time else frame.pts if frame.pts is not None else frame.dts
            if pts is None:
                pts = 0 if last is None else last + self.step
            if last is not None and pts <= last:
                if self.damage.bad_packets:
                    continue  # after damage a decoder may return frames late; this one's place has been filled
                pts = last + 1
            duration = None if self._one_time else frame.duration or None
            interlaced = frame.interlaced_frame
            yield TimedFrame(frame=frame, pts=pts, duration=duration, key=frame.key_frame, interlaced=interlaced)
            last = pts

    def _due_time(self, frame: av.VideoFrame) -> int | None:
        """The first time at which a frame is due.

        Frames are shown in the order of these times, whatever the order of their packets. A frame that comes later than
        the first due time, with no packet that could still fill it, reveals a packet that gave no frame.
        """
        ordered = frame.key_frame or not self._decoder.has_b_frames
        while self._due and ordered and frame.pts is not None and self._due[0] < frame.pts:
            lost = heapq.heappop(self._due)
            heapq.heappush(self._expected, (lost, self.step))
        return heapq.heappop(self._due) if self._due else frame.pts

    def _with_lost_filled(self, frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
        """Repeats the last good frame (before the first: the first) for each packet that gave no frame."""
        last: TimedFrame | None = None
        for timed in frames:
            for pts in self._lost_before(timed, last):
                yield replace(last or timed, pts=pts, duration=None, key=False, filled=True)
            yield timed
            last = timed
        while last is not None and self._expected:
            pts, _ = heapq.heappop(self._expected)
            if pts - last.pts >= _HOLE * self.step:
                last = replace(last, pts=pts, duration=None, key=False, filled=True)
                yield last

    def _lost_before(self, timed: TimedFrame, last: TimedFrame | None) -> list[int]:
        """Times of packets due before ``timed`` that gave no frame and leave a gap.

        Some packets rightly give none and leave no gap: invisible reference frames, the second field of a frame, and
        those before the first frame of a clip cut from another, whose reference frames are missing.
        """
        lost: list[int] = []
        if last is None and not self.damage.bad_packets:
            while self._expected and self._expected[0][0] < timed.pts:
                heapq.heappop(self._expected)
        previous = None if last is None else last.pts
        while self._expected and self._expected[0][0] <= timed.pts:
            pts, duration = heapq.heappop(self._expected)
            hole = _HOLE * (self.step if timed.interlaced else min(self.step, duration))
            if timed.pts - pts >= hole and (previous is None or pts - previous >= hole):
                lost.append(pts)
                previous = pts
        return lost if not lost or self.stream.frames or last is None else self._every_step(last.pts, lost, timed.pts)

    def _every_step(self, first: int, lost: list[int], end: int) -> list[int]:
        """``lost`` with the times between: without an index, whole runs of packets vanish at once."""
        times: list[int] = []
        for before, after in zip([first, *lost], [*lost, end], strict=True):
            if before != first:
                times.append(before)
            times.extend(range(before + self.step, after - int(_HOLE * self.step), self.step))
        return times


def _open(file: PathLike | Readable, name: str, hwaccel: str | None) -> av.container.InputContainer:
    device = None
    if hwaccel is not None:
        available = hwdevices_available()
        if hwaccel not in available:
            raise UsageError(f"Unknown --hwaccel {hwaccel}: this build supports {', '.join(available)}.")
        device = HWAccel(hwaccel, allow_software_fallback=True)
    options = {"rtsp_transport": "tcp"} if name.startswith("rtsp://") else {}
    target = address(file) if isinstance(file, (str, os.PathLike)) else file
    timeout = 30 if "://" in name else None
    try:
        with reading(name):
            opened: av.container.InputContainer = av.open(
                target, "r", format=format_of(file), options=options, hwaccel=device, timeout=timeout, **LENIENT_TAGS
            )
            return opened
    except (MediaError, RuntimeError) as error:
        if hwaccel is None or not isinstance(error.__cause__ or error, (RuntimeError, PermissionError)):
            raise
        reason = explain(error.__cause__ or error)
        raise MediaError(f"{name} cannot be decoded with --hwaccel {hwaccel} ({reason}). Omit it.") from error


def _decoder(stream: VideoStream) -> VideoCodecContext:
    """The stream's own decoder, or for VP8 and VP9 with alpha the one that decodes it."""
    name = _ALPHA_DECODERS.get(stream.codec_context.name)
    if name is None or not has_alpha_mode(stream) or name not in av.codecs_available:
        return stream.codec_context
    decoder = av.CodecContext.create(name, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata = stream.codec_context.extradata
    return decoder


def _pictures_in_index(stream: VideoStream) -> int:
    """How many pictures an AVI has: it counts ticks, of which many may be empty. 0 if its index is incomplete."""
    count = len(stream.index_entries)
    if count < 2:
        return 0
    last = stream.index_entries[count - 1].timestamp
    return count if last + 2 * last / (count - 1) >= stream.frames >= count else 0


def no_index(name: str) -> MediaError:
    """The error for a file whose streams or frames are not all listed in it."""
    return MediaError(f"{name} cannot be read: its index is missing or damaged. Copy it again, or re-create it.")
