"""Reads a video frame by frame: ``for frame in cgpipe.VideoSource(path): ...``."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from fractions import Fraction

import av.error

from cgpipe.errors import MediaError, UsageError
from cgpipe.media import yuv
from cgpipe.media.colour import ToRgb
from cgpipe.media.frames import Failed, Frame, Pixels
from cgpipe.media.planar import Planar
from cgpipe.media.video.alpha import alpha_of, fitted, has_alpha
from cgpipe.media.video.clip import LEAST_HELD, Alpha, Orientation, Seconds, TimedFrame, VideoInfo, VideoOrigin, seconds
from cgpipe.media.video.decoding import Reader, StumbledError, no_index
from cgpipe.media.video.interfaces import Pass, Source
from cgpipe.media.video.libav import Readable, explain, reading
from cgpipe.media.video.plays import plays_of
from cgpipe.storage import PathLike, Stamp

LEAST_FPS, MOST_FPS = 0.001, 1000
"""Frames per second that may be asked for."""
HARDWARE_CODECS = ("h264", "hevc")
"""Codecs whose decoders in hardware are exact, and were tried."""
HARDWARE_PIXELS = 1 << 27
"""Pixels of a clip from which the time counts: a decoder in hardware takes a third of a second to open."""


class VideoSource(Source):
    """The frames of a video in presentation order.

    Every frame is RGB, upright (the file's rotation is applied to the pixels), uint8 or, if the file has more than 8
    bits, full-range uint16, and carries a :class:`~cgpipe.media.video.clip.VideoOrigin` with its own time. A file can
    be iterated over any number of times: each pass reopens it, and closes it when the pass ends or the generator or
    the source is closed.

    Damage does not end a pass. A lost frame is replaced by a repeat of its neighbour at the right time, marked
    ``filled``; if the file ends early or becomes unreadable, one :class:`~cgpipe.media.frames.Failed` says so.
    :attr:`damage` counts both.

    Args:
        path: a file, the URL of a stream (``rtsp://``, ``http://``), or a readable binary file object.
        start: seconds into the clip; the first frame is the first that starts there or later, or the one on screen
            then, if it is held for longer than :data:`~cgpipe.media.video.clip.LEAST_HELD`.
        end: seconds into the clip; the last frame is the last that starts before. One that is held beyond it for longer
            ends there.
        fps: constant frame rate, by repeating and dropping frames, of which one is left at least; by default every
            frame keeps its time.
        hwaccel: libav's name of a hardware decoder ("cuda", "vaapi", "videotoolbox", ...), if PyAV's build has it;
            "off" is none, as by default.
        threads: decoding threads; by default one per processor up to 4, and one per two processors up to 8.
        deinterlace: deinterlace interlaced frames.
        owned: close the file object with the source.
        name: what messages call it; by default its path.

    Attributes:
        info: what is known about the clip, a :class:`~cgpipe.media.video.clip.VideoInfo`.
        damage: damage found so far by the latest pass.

    Raises:
        MediaError: the file cannot be read, has no video stream, or no frame between ``start`` and ``end``.
        UsageError: ``start``, ``end``, ``fps`` or ``hwaccel`` is invalid.
    """

    def __init__(
        self,
        path: PathLike | Readable,
        *,
        start: Seconds | None = None,
        end: Seconds | None = None,
        fps: Seconds | None = None,
        hwaccel: str | None = None,
        threads: int | None = None,
        deinterlace: bool = True,
        owned: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self._file = path
        self._to_close = path if owned and not isinstance(path, str | os.PathLike) else None
        place = _name(path)
        self._name = name or place
        _check(start, end, fps)
        self._start = seconds(start or 0)
        self._end = None if end is None else seconds(end)
        self._fps = None if fps is None else Fraction(fps).limit_denominator(1001)
        self._hwaccel = None if hwaccel == "off" else hwaccel
        self._deinterlace = deinterlace
        self._threads = threads or _decoding_threads(os.cpu_count() or 1)
        self._once = not isinstance(path, (str, os.PathLike)) or "://" in place
        self._path = None if self._once else place
        self._stamp = None if self._once else _stamp(place)
        first = self._open()
        try:
            self.info = self._describe(first)
            self.planar = self._layout(first)
        except BaseException:
            first.close()
            raise
        self.damage = first.damage
        # A stream continues from here; a file is reopened by every pass.
        self._waiting = first if self._once else None
        if not self._once:
            first.close()

    def close(self) -> None:
        super().close()
        if self._waiting is not None:
            self._waiting.close()
        if self._to_close is not None:
            self._to_close.close()

    def _read(self, first: int) -> Pass:
        if self.hardware is not None and self._suits_hardware():
            with suppress(MediaError, StumbledError):
                for frame in self._pass(self._open(self.hardware, strict=True), first):
                    yield frame
                    first = frame.origin.index + 1
                return
        # A processor decodes everything, and knows how to go on amid damage.
        yield from self._pass(self._take_reader(), first)

    def _suits_hardware(self) -> bool:
        """Whether a GPU gives the frames that a processor gives, and sooner."""
        info = self.info
        plain = info.codec in HARDWARE_CODECS and info.pix_fmt == "yuv420p" and not info.interlaced
        enough = info.frames is None or info.frames * info.width * info.height >= HARDWARE_PIXELS
        return plain and enough and not self._once

    def _pass(self, reader: Reader, first: int) -> Pass:
        self.damage = reader.damage
        to_pixels = _Pixels(self.info)
        planar = self.planar if self.as_planes else None
        to_planes = None if planar is None else _Planes(planar, to_pixels)
        index = 0
        with closing(reader):
            try:
                for index, timed in enumerate(reader.frames):
                    reader.damage.filled += timed.filled
                    if index >= first:
                        alpha = to_pixels.alpha(timed) if self.info.alpha else None
                        pixels = (to_planes or to_pixels)(timed)
                        yield Frame(pixels=pixels, origin=self._origin(index, timed, alpha), planar=planar)
            except (OSError, av.error.FFmpegError) as error:
                yield self._unreadable(index + 1, f"Reading stopped: {explain(error)}.")
                return
        if reader.damage.missing:
            yield self._unreadable(
                index + 1, f"About {reader.damage.missing} of the frames that it promises are missing."
            )

    def _take_reader(self) -> Reader:
        if not self._once:
            return self._open()
        if self._waiting is None:
            raise MediaError(f"{self._name} is a stream, which can be read only once. Open it again for another pass.")
        reader, self._waiting = self._waiting, None
        return reader

    def _open(self, hwaccel: str | None = None, *, strict: bool = False) -> Reader:
        reader = Reader(
            self._file,
            self._name,
            start=self._start,
            hwaccel=hwaccel or self._hwaccel,
            threads=self._threads,
            deinterlace=self._deinterlace,
            strict=strict,
        )
        reader.frames = self._cut(reader)
        if self._fps is not None:
            reader.frames = _resampled(reader.frames, reader.time_base, self._fps)
        return reader

    def _cut(self, reader: Reader) -> Iterator[TimedFrame]:
        least = round(LEAST_HELD / reader.time_base)
        frames = reader.frames
        if self._start:
            frames = _from(frames, round((reader.zero + self._start) / reader.time_base), least)
        if self._end is not None:
            frames = _until(frames, round((reader.zero + self._end) / reader.time_base), least)
        return frames

    def _describe(self, reader: Reader) -> VideoInfo:
        with reading(self._name):
            timed = next(reader.frames, None)
        if timed is None and reader.is_cut_short():
            raise no_index(self._name)
        if timed is None:
            cut = " between start and end: check them" if self._start or self._end is not None else ""
            raise MediaError(f"{self._name} has no frame that can be decoded{cut}.")
        reader.frames = itertools.chain([timed], reader.frames)
        info = reader.describe(timed)
        if self._fps is not None:
            info = replace(info, time_base=1 / self._fps, rate=self._fps, frames=_count(info.duration, self._fps))
        if self._start or self._end is not None:
            length = _least(info.duration, self._end)
            info = replace(info, frames=_count(None if length is None else length - self._start, info.rate))
        return replace(
            info,
            path=self._path,
            start=timed.pts * info.time_base if self._start else info.start,
            end=None if self._end is None else reader.zero + self._end,
            trimmed=self._start > 0,
            stamp=self._stamp,
            plays=plays_of(self._path),
        )

    def _layout(self, reader: Reader) -> Planar | None:
        """The layout of frames as planes, upright."""
        timed = next(reader.frames)
        reader.frames = itertools.chain([timed], reader.frames)
        planar = self.info.colour.planar(self.info.pix_fmt, self.info.height, self.info.width)
        as_it_is = Orientation.of(timed.frame) == Orientation()
        return planar if planar is not None and (as_it_is or planar.can_turn) else None

    def _origin(self, index: int, timed: TimedFrame, alpha: Alpha | None) -> VideoOrigin:
        return VideoOrigin(
            index=index,
            pts=timed.pts,
            time_base=self.info.time_base,
            duration=timed.duration,
            key=timed.key,
            filled=timed.filled,
            alpha=alpha,
        )

    def _unreadable(self, index: int, reason: str) -> Failed[VideoOrigin]:
        origin = VideoOrigin(index=index, pts=0, time_base=self.info.time_base)
        return Failed(origin=origin, reason=reason)


class _Pixels:
    """Converts a decoded frame to the RGB that the network sees: colour, one size for all, upright."""

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._to_rgb: ToRgb | None = None
        self._orientation = Orientation()

    def __call__(self, timed: TimedFrame) -> Pixels:
        if self._to_rgb is None:
            self._orientation = Orientation.of(timed.frame)
            width, height = self._info.width, self._info.height
            sides = (height, width) if self._orientation.transpose else (width, height)
            self._to_rgb = ToRgb(self._info.colour, *sides)
        return self._orientation(self._to_rgb(timed.frame))

    def alpha(self, timed: TimedFrame) -> Alpha | None:
        """The alpha, upright and of the same size; None if this frame has none."""
        if not has_alpha(timed.frame.format.name):
            return None
        orientation = Orientation.of(timed.frame)
        upright = orientation(alpha_of(timed.frame)[..., None])
        return fitted(upright[..., 0], self._info.width, self._info.height)


class _Planes:
    """Gives a decoded frame as planes; one of another kind or size than the first goes through RGB."""

    def __init__(self, planar: Planar, to_pixels: _Pixels) -> None:
        self._planar, self._to_pixels = planar, to_pixels
        self._orientation: Orientation | None = None
        self._matrix = yuv.from_rgb_matrix(planar.matrix, planar.full_range)

    def __call__(self, timed: TimedFrame) -> Pixels:
        frame, planar = timed.frame, self._planar
        self._orientation = self._orientation or Orientation.of(frame)
        if yuv.has_layout(frame, planar.transposed() if self._orientation.transpose else planar):
            return yuv.planes_of(frame, planar, self._orientation)
        return yuv.planes_of(yuv.frame_of(self._to_pixels(timed), planar.pix_fmt, self._matrix), planar)


def _from(frames: Iterator[TimedFrame], start: int, least: int) -> Iterator[TimedFrame]:
    """The frames from a time on; first the one that is on screen then, if that is for longer than ``least``."""
    before: TimedFrame | None = None
    following = None
    for timed in frames:
        if timed.pts >= start:
            following = timed
            break
        before = timed
    if before is not None:
        end = before.pts + (before.duration or 0) if following is None else following.pts
        if end - start > least:
            yield replace(before, pts=start, duration=end - start)
    if following is not None:
        yield following
        yield from frames


def _until(frames: Iterator[TimedFrame], end: int, least: int) -> Iterator[TimedFrame]:
    """The frames that start before a time; one that is held beyond it for longer than ``least`` ends there."""
    for timed in itertools.takewhile(lambda timed: timed.pts < end, frames):
        beyond = timed.pts + (timed.duration or 0) - end
        yield replace(timed, duration=end - timed.pts) if beyond > least else timed


def _resampled(frames: Iterator[TimedFrame], time_base: Fraction, fps: Fraction) -> Iterator[TimedFrame]:
    """The frame shown at every tick of ``fps``, so that frames are repeated or dropped; one at least."""
    first: int | None = None
    for timed, following in itertools.pairwise(itertools.chain(frames, [None])):
        if timed is None:
            return
        begin = round(timed.pts * time_base * fps)
        first = begin if first is None else first
        end = timed.pts + (timed.duration or 1 / (fps * time_base)) if following is None else following.pts
        last = round(end * time_base * fps)
        for tick in range(begin, max(last, first + 1) if following is None else last):
            yield replace(timed, pts=tick, duration=1)


def _count(length: Fraction | None, rate: Fraction | None) -> int | None:
    return None if length is None or rate is None else max(1, round(length * rate))


def _least(first: Fraction | None, second: Fraction | None) -> Fraction | None:
    known = [value for value in (first, second) if value is not None]
    return min(known, default=None)


def _decoding_threads(processors: int) -> int:
    return min(8, max(min(4, processors), processors // 2))


def _check(start: Seconds | None, end: Seconds | None, fps: Seconds | None) -> None:
    begin = float(start or 0)
    if not 0 <= begin < math.inf:
        raise UsageError(f"start must be at least 0, not {begin:g} s.")
    if end is not None and not begin < float(end) < math.inf:
        raise UsageError(f"end ({float(end):g} s) must be after start ({begin:g} s).")
    if fps is not None and not LEAST_FPS <= float(fps) <= MOST_FPS:
        raise UsageError(f"fps must be between {LEAST_FPS} and {MOST_FPS}, not {float(fps):g}.")


def _stamp(name: str) -> Stamp | None:
    try:
        return Stamp.of(name)
    except OSError:
        return None


def _name(path: PathLike | Readable) -> str:
    if isinstance(path, (str, os.PathLike)):
        return os.fspath(path)
    name = getattr(path, "name", None)
    return name if isinstance(name, str) else "standard input"
