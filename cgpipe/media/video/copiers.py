"""Three ways to bring a stream over into another file: copy, transcode, or convert subtitles."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
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
# The layouts that Opus has (RFC 7845, section 5.1.1.2), by number of channels.
_OPUS_LAYOUTS = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")


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
        rate = _nearest_rate(codec, decoder.sample_rate)
        encoder = output.add_stream(codec, rate=rate)
        assert isinstance(encoder, AudioStream)
        self._layout = av.AudioLayout(layout_of(decoder))
        encoder.codec_context.layout = self._layout
        if codec == "libopus":
            count = min(self._layout.nb_channels, len(_OPUS_LAYOUTS))
            encoder.codec_context.layout = av.AudioLayout(_OPUS_LAYOUTS[count - 1])
        encoder.codec_context.bit_rate = 64_000 * max(1, encoder.codec_context.layout.nb_channels)
        encoder.codec_context.time_base = Fraction(1, rate)
        self._stream = encoder
        self._next: Fraction | None = None
        self._kind: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None

    def __call__(self, packet: Packet) -> Iterator[Packet]:
        self.number += 1
        try:
            frames = self._decoder.decode(packet if packet.size else None)
        except av.error.FFmpegError:
            self.bad_packets += 1
            frames = []
        for frame in frames:
            for piece in self._in_step(frame):
                yield from self._encoded(piece)
        if not packet.size:
            yield from self._encoded(None)

    def _encoded(self, frame: av.AudioFrame | None) -> Iterator[Packet]:
        """The packets of a frame, whose format, layout and rate may change in mid-stream; None: the last ones."""
        kind = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            for rest in [] if self._resampler is None else self._resampler.resample(None):
                yield from self._stream.encode(rest)
            encoder = self._stream.codec_context
            self._resampler = av.AudioResampler(encoder.format, encoder.layout, encoder.sample_rate)
            self._kind = kind
        if frame is None:
            yield from self._stream.encode(None)
            return
        assert self._resampler is not None
        for piece in self._resampler.resample(frame):
            yield from self._stream.encode(piece)

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
        if (first, last) == (0, frame.samples) and frame.layout.name == self._layout.name:
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
        layout = self._layout if like.layout.nb_channels == self._layout.nb_channels else like.layout
        piece = av.AudioFrame.from_ndarray(samples, format=like.format.name, layout=layout.name)
        piece.sample_rate = like.sample_rate
        return piece


def _nearest_rate(codec: str, rate: int) -> int:
    """The rate itself where an encoder has it, else the next higher one, or the highest."""
    rates = av.Codec(codec, "w").audio_rates
    return min((known for known in rates if known >= rate), default=max(rates)) if rates else rate


def layout_of(context: AudioCodecContext) -> str:
    """The name of a channel layout; if none is stated, the usual one for that number of channels."""
    layout = context.layout
    stated = not layout.name.endswith(" channels") and layout.nb_channels > 0
    if stated or not 0 < layout.nb_channels <= len(_LAYOUTS):
        return str(layout.name)
    return _LAYOUTS[layout.nb_channels - 1]


class SubtitleConverter:
    """Converts text subtitles from one codec to another.

    MP4 shows one text at a time: where cues overlap, their texts are shown together, a line below another.
    """

    def __init__(self, stream: av.stream.Stream, output: av.container.OutputContainer, codec: str, span: Span) -> None:
        self.number = self.bad_packets = 0
        self._span = span
        self._text_of = TEXT_OF[stream.codec_context.name]
        self._packed = PACKED[codec]
        self._one_at_a_time = codec == "mov_text"
        self._shown: list[_Cue] = []
        self._stream = output.add_mux_stream(codec)
        self._stream.time_base = Fraction(1, 1000)

    def __call__(self, packet: Packet) -> Iterator[Packet]:
        self.number += 1
        if not packet.size:
            yield from self._up_to(None)
            return
        cue = None if packet.pts is None else self._cue(packet)
        if cue is not None:
            yield from self._up_to(cue.begin)
            self._shown.append(cue)
            if not self._one_at_a_time:
                yield from self._up_to(None)

    def _cue(self, packet: Packet) -> _Cue | None:
        """What a packet shows within the span, in milliseconds from its start; None if there is nothing."""
        begin = (packet.pts or 0) * packet.time_base
        end = begin + (packet.duration or 0) * packet.time_base
        text = self._text_of(bytes(packet))
        kept = not self._span.trimmed or end > self._span.start
        if not text or not kept or (self._span.end is not None and begin >= self._span.end):
            return None
        begin = max(begin, self._span.start) if self._span.trimmed else begin
        end = end if self._span.end is None else min(end, self._span.end)
        return _Cue(round((begin - self._span.start) * 1000), round((end - self._span.start) * 1000), text)

    def _up_to(self, time: int | None) -> Iterator[Packet]:
        """What is shown up to ``time``, or to the end of all, as a packet for each change of the text."""
        while self._shown:
            begin = max(cue.begin for cue in self._shown)
            end = min(cue.end for cue in self._shown)
            if time is not None and begin >= time:
                return
            until = end if time is None else min(end, time)
            if until > begin or until == end:
                yield self._packet(begin, until, "\n".join(cue.text for cue in self._shown))
            self._shown = [replace(cue, begin=max(begin, until)) for cue in self._shown if cue.end > until]

    def _packet(self, begin: int, end: int, text: str) -> Packet:
        packet: Packet = av.Packet(self._packed(text))
        packet.stream, packet.time_base = self._stream, Fraction(1, 1000)
        packet.pts = packet.dts = begin
        packet.duration = end - begin
        packet.is_keyframe = True
        return packet


@dataclass(frozen=True, slots=True)
class _Cue:
    """A text, and from when to when it is shown, in milliseconds."""

    begin: int
    end: int
    text: str


def _plain(data: bytes) -> str:
    """SubRip, whose tags are those of HTML, and of some programs those of ASS."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").strip("\0\n ")
    return re.sub(r"</?\w[^<>]*>|\{\\[^{}]*\}", "", text)


def _of_webvtt(data: bytes) -> str:
    return html.unescape(_plain(data))


def _to_webvtt(text: str) -> bytes:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").encode()


def _of_ass(data: bytes) -> str:
    """The text of a line of ASS, without its tags, and without drawings, which ``\\p1`` begins and ``\\p0`` ends."""
    text = data.decode("utf-8", "replace").split(",", 8)[-1]
    text = re.sub(r"\{[^}]*\\p[1-9][^}]*\}.*?(?=\{[^}]*\\p0[^}]*\}|$)", "", text, flags=re.DOTALL)
    return re.sub(r"\{[^}]*\}", "", text).replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ").strip("\0\n ")


def _of_mov_text(data: bytes) -> str:
    return data[2 : 2 + int.from_bytes(data[:2], "big")].decode("utf-8", "replace")


TEXT_OF: dict[str, Callable[[bytes], str]] = {
    "subrip": _plain,
    "srt": _plain,
    "text": _plain,
    "webvtt": _of_webvtt,
    "ass": _of_ass,
    "ssa": _of_ass,
    "mov_text": _of_mov_text,
}
PACKED: dict[str, Callable[[str], bytes]] = {
    "mov_text": lambda text: len(text.encode()).to_bytes(2, "big") + text.encode(),
    "subrip": str.encode,
    "webvtt": _to_webvtt,
}
