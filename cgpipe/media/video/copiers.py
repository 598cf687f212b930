"""Three ways to bring a stream over into another file: copy, transcode, or convert subtitles."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import av
import av.container
import av.error
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from cgpipe.media.video.clip import VideoInfo
from cgpipe.media.video.libav import Packet

# Seconds by which a packet's time may go back and still count as in order.
_JITTER = Fraction(1, 20)
# By number of channels: the layout of audio that does not state one.
_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


@dataclass(frozen=True, slots=True)
class Span:
    """The part of the input that is kept: ``start`` becomes zero. If ``trimmed``, audio is cut to match."""

    start: Fraction
    end: Fraction | None
    trimmed: bool

    @classmethod
    def of(cls, info: VideoInfo) -> Span:
        return cls(info.start, info.end, info.trimmed)

    def shift(self, time_base: Fraction) -> int:
        """What to subtract from times, in units of ``time_base``."""
        return round(self.start / time_base)


class Copier(Protocol):
    """Converts the packets of one stream for the output; a packet without bytes marks the end.

    Attributes:
        number: packets received.
        bad_packets: packets that could not be kept.
    """

    number: int
    bad_packets: int

    def __call__(self, packet: Packet) -> Iterator[Packet]: ...


class StreamCopier:
    """Copies packets byte for byte, with shifted timestamps.

    Args:
        stream: the output's.
        span: the part of the input that is kept.
        overlap: keep a packet that starts before the span and reaches into it.
        hide: drop what the input's edit list hides, because the output cannot hide it.
        refused: numbers of the packets that the output refuses; they are dropped.
    """

    def __init__(
        self, stream: av.stream.Stream, span: Span, *, overlap: bool, hide: bool = False, refused: Container[int] = ()
    ) -> None:
        self.number = self.bad_packets = 0
        self._refused = refused
        self._hide = hide and stream.type == "audio"
        self._last: int | None = None
        self._stream = stream
        self._span = span
        self._overlap = overlap
        self._still = stream.type in ("video", "attachment")
        self._text = stream.type == "subtitle"
        # Between subtitles, mp4 has packets of empty text; the muxer inserts them itself.
        self._empty = 2 if stream.codec_context is not None and stream.codec_context.name == "mov_text" else 0

    def __call__(self, packet: Packet) -> Iterator[Packet]:
        if packet.size <= self._empty or not (self._still or self._within(packet)):
            return
        self.number += 1
        if self.number in self._refused:
            self.bad_packets += 1
            return
        packet.stream = self._stream
        if not self._still:
            shift = self._span.shift(packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
        if self._text and packet.pts is not None:
            self._cut_text(packet)
        if self._still or self._text or self._in_order(packet):
            yield packet

    def _cut_text(self, packet: Packet) -> None:
        """Shows a subtitle within the span alone."""
        pts, last = packet.pts or 0, (packet.pts or 0) + (packet.duration or 0)
        if self._span.end is not None:
            last = min(last, round((self._span.end - self._span.start) / packet.time_base))
        packet.pts = max(0, pts)
        packet.duration = max(0, last - packet.pts)
        if pts < 0:
            packet.dts = 0

    def _in_order(self, packet: Packet) -> bool:
        """Whether a packet follows those before it; one with an equal time is moved on by a tick."""
        if packet.dts is None:
            return True
        tick = max(1, math.ceil((self._stream.time_base or packet.time_base) / packet.time_base))
        if self._last is not None and packet.dts < self._last + tick:
            if (self._last - packet.dts) * packet.time_base > _JITTER:
                self.bad_packets += 1
                return False
            packet.dts = self._last + tick
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
        self._last = packet.dts
        return True

    def _within(self, packet: Packet) -> bool:
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None:
            return True
        begin = time * packet.time_base
        if self._hide and (packet.is_discard or begin < self._span.start - _JITTER / 50):
            return False
        if self._span.end is not None and begin >= self._span.end:
            return False
        last = begin + (packet.duration or 0) * packet.time_base
        return not self._span.trimmed or begin >= self._span.start or (self._overlap and last > self._span.start)


class Transcoder:
    """Decodes and re-encodes audio, cut to the sample, with silence in place of lost packets."""

    def __init__(self, stream: AudioStream, output: av.container.OutputContainer, codec: str, span: Span) -> None:
        self.number = self.bad_packets = 0
        self._span = span
        self._decoder = stream
        decoder = stream.codec_context
        rate = decoder.sample_rate
        if codec == "libopus":
            rate = min((opus for opus in _OPUS_RATES if opus >= rate), default=48000)
        encoder = output.add_stream(codec, rate=rate)
        assert isinstance(encoder, AudioStream)
        self._layout = layout_of(decoder)
        encoder.codec_context.layout = av.AudioLayout(self._layout)
        encoder.codec_context.bit_rate = 64_000 * max(1, encoder.codec_context.layout.nb_channels)
        encoder.codec_context.time_base = Fraction(1, rate)
        self._stream = encoder
        self._next: Fraction | None = None

    def __call__(self, packet: Packet) -> Iterator[Packet]:
        self.number += 1
        try:
            frames = self._decoder.decode(packet if packet.size else None)
        except av.error.FFmpegError:
            self.bad_packets += 1
            frames = []
        for frame in frames:
            for piece in self._in_step(frame):
                yield from self._stream.encode(piece)
        if not packet.size:
            yield from self._stream.encode(None)

    def _in_step(self, frame: av.AudioFrame) -> Iterator[av.AudioFrame]:
        """The frame cut to the span, preceded by silence for missing samples; times count from the span's start."""
        rate = frame.sample_rate
        time = self._next if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
        begin = Fraction(0) if time is None else time
        first = max(0, -int((begin - self._span.start) * rate)) if self._span.trimmed else 0
        last = frame.samples
        if self._span.end is not None:
            last = min(last, round((self._span.end - begin) * rate))
        if last <= first:
            return
        due = begin + Fraction(first, rate) - self._span.start
        expected = due if self._next is None else self._next - self._span.start
        missing = round((due - expected) * rate)
        if missing > rate // 50:
            yield self._silence(frame, missing, round(expected * rate))
        yield self._samples(frame, first, last, round(due * rate))
        self._next = begin + Fraction(last, rate)

    def _samples(self, frame: av.AudioFrame, first: int, last: int, pts: int) -> av.AudioFrame:
        if (first, last) == (0, frame.samples) and frame.layout.name == self._layout:
            piece = frame
        else:
            samples = frame.to_ndarray()
            width = 1 if frame.format.is_planar else frame.layout.nb_channels
            piece = self._frame(frame, np.ascontiguousarray(samples[:, first * width : last * width]))
        piece.pts, piece.time_base = pts, Fraction(1, frame.sample_rate)
        return piece

    def _silence(self, like: av.AudioFrame, count: int, pts: int) -> av.AudioFrame:
        planar = like.format.is_planar
        channels = like.layout.nb_channels
        dtype = like.to_ndarray().dtype
        quiet = 128 if dtype == np.uint8 else 0
        piece = self._frame(like, np.full((channels, count) if planar else (1, count * channels), quiet, dtype))
        piece.pts, piece.time_base = pts, Fraction(1, like.sample_rate)
        return piece

    def _frame(self, like: av.AudioFrame, samples: NDArray[Any]) -> av.AudioFrame:
        stated = (
            self._layout
            if like.layout.nb_channels == self._stream.codec_context.layout.nb_channels
            else like.layout.name
        )
        piece = av.AudioFrame.from_ndarray(samples, format=like.format.name, layout=stated)
        piece.sample_rate = like.sample_rate
        return piece


def layout_of(context: AudioCodecContext) -> str:
    """The name of a channel layout; if none is stated, the usual one for that number of channels."""
    layout = context.layout
    stated = not layout.name.endswith(" channels") and layout.nb_channels > 0
    if stated or not 0 < layout.nb_channels <= len(_LAYOUTS):
        return str(layout.name)
    return _LAYOUTS[layout.nb_channels - 1]


class SubtitleConverter:
    """Converts text subtitles from one codec to another."""

    def __init__(self, stream: av.stream.Stream, output: av.container.OutputContainer, codec: str, span: Span) -> None:
        self.number = self.bad_packets = 0
        self._span = span
        self._text_of = TEXT_OF[stream.codec_context.name]
        self._packed = PACKED[codec]
        self._stream = output.add_mux_stream(codec)
        self._stream.time_base = Fraction(1, 1000)

    def __call__(self, packet: Packet) -> Iterator[Packet]:
        self.number += 1
        if not packet.size or packet.pts is None:
            return
        begin = packet.pts * packet.time_base
        end = begin + (packet.duration or 0) * packet.time_base
        text = self._text_of(bytes(packet))
        kept = not self._span.trimmed or end > self._span.start
        if not text or not kept or (self._span.end is not None and begin >= self._span.end):
            return
        begin = max(begin, self._span.start) if self._span.trimmed else begin
        end = end if self._span.end is None else min(end, self._span.end)
        copy: Packet = av.Packet(self._packed(text))
        copy.stream, copy.time_base = self._stream, Fraction(1, 1000)
        copy.pts = copy.dts = round((begin - self._span.start) * 1000)
        copy.duration = round((end - begin) * 1000)
        copy.is_keyframe = True
        yield copy


def _plain(data: bytes) -> str:
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").strip("\0\n ")
    return re.sub(r"</?\w[^<>]*>", "", text)


def _of_ass(data: bytes) -> str:
    text = data.decode("utf-8", "replace").split(",", 8)[-1]
    return re.sub(r"\{[^}]*\}", "", text).replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ").strip("\0\n ")


def _of_mov_text(data: bytes) -> str:
    return data[2 : 2 + int.from_bytes(data[:2], "big")].decode("utf-8", "replace")


TEXT_OF: dict[str, Callable[[bytes], str]] = {
    "subrip": _plain,
    "srt": _plain,
    "text": _plain,
    "webvtt": _plain,
    "ass": _of_ass,
    "ssa": _of_ass,
    "mov_text": _of_mov_text,
}
PACKED: dict[str, Callable[[str], bytes]] = {
    "mov_text": lambda text: len(text.encode()).to_bytes(2, "big") + text.encode(),
    "subrip": str.encode,
    "webvtt": str.encode,
}
