"""Containers, encoders and their settings, and the encoder of a stream."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error
from av.codec.context import ThreadType
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.colour import Colour
from cgpipe.media.frames import Frame
from cgpipe.media.planar import Planar
from cgpipe.media.video.alpha import ToFrame, has_alpha
from cgpipe.media.video.clip import VideoInfo, VideoOrigin
from cgpipe.media.video.libav import writing
from cgpipe.media.video.plays import muxer_option
from cgpipe.media.yuv import FORMATS
from cgpipe.options import Encoding

_REAL_TIME = {getattr(os, "SCHED_FIFO", None), getattr(os, "SCHED_RR", None)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What a container can hold.

    Args:
        format: libav's name of the muxer.
        codecs: encoders for it, the default first.
        audio: encoder for audio that it cannot hold as it is.
        subtitle: codec for text subtitles that it cannot hold as they are; None if it holds none.
        edit_lists: whether playback may start within a packet.
        options: of the muxer.
        tick: its only time base; None if it takes any, or one as fine.
        shortest: minimum duration of a frame in ticks.
        guesses_last: whether libav ignores how long the last frame is shown.
    """

    format: str
    codecs: tuple[str, ...]
    audio: str | None = None
    subtitle: str | None = None
    edit_lists: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    tick: Fraction | None = None
    shortest: int = 1
    guesses_last: bool = False

    def muxer_options(self, info: VideoInfo) -> dict[str, str]:
        """The muxer's options for a video; an animation is shown as often as before."""
        return {**self.options, **muxer_option(self.format, info.plays)}


_H26X = ("libx264", "libx265", "h264_nvenc", "hevc_nvenc")
_FREE = ("libsvtav1", "av1_nvenc")
# Their streams do not carry the sample aspect ratio, and PyAV cannot make Matroska write it.
_WITHOUT_ASPECT = (*_FREE, "libvpx-vp9", "ffv1")
# The index goes to the front, so that playback can start before a download ends.
_MP4 = {"movflags": "+faststart"}
CONTAINERS: Mapping[str, Container] = {
    ".mp4": Container(
        format="mp4",
        codecs=(*_H26X, *_FREE, "libvpx-vp9"),
        audio="aac",
        subtitle="mov_text",
        edit_lists=True,
        options=_MP4,
    ),
    ".mov": Container(
        format="mov", codecs=(*_H26X, "prores_ks"), audio="aac", subtitle="mov_text", edit_lists=True, options=_MP4
    ),
    ".mkv": Container(
        format="matroska", codecs=(*_H26X, *_FREE, "libvpx-vp9", "ffv1", "prores_ks"), audio="aac", subtitle="subrip"
    ),
    ".webm": Container(format="webm", codecs=("libvpx-vp9", *_FREE), audio="libopus", subtitle="webvtt"),
}
ANIMATIONS: Mapping[str, Container] = {
    ".gif": Container(format="gif", codecs=("gif",), tick=Fraction(1, 100), shortest=2),
    ".webp": Container(
        format="webp", codecs=("libwebp_anim",), tick=Fraction(1, 1000), options={"loop": "0"}, guesses_last=True
    ),
    ".apng": Container(format="apng", codecs=("apng",), options={"plays": "0"}, guesses_last=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoder:
    """The properties of an encoder.

    Args:
        crf: default constant quality, and the name of its option; None if there is none.
        preset: the same for speed against size.
        pix_fmt: default for 8 bits and even sides.
        odd: default for odd sides; the same as ``pix_fmt`` if the format allows them.
        deep: default for sources with more than 8 bits.
        alpha: default for sources with alpha; None if the encoder drops it.
        deep_alpha: the same for more than 8 bits, if it differs.
        options: always set.
    """

    crf: tuple[str, str] | None = None
    preset: tuple[str, str] | None = None
    pix_fmt: str = "yuv420p"
    odd: str = "yuv444p"
    deep: str | None = None
    alpha: str | None = None
    deep_alpha: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


# The quality of each is chosen to look alike: hardly distinguishable from the network's output.
# Odd sides: H.264 and HEVC crop in whole chroma samples, so 4:2:0 cannot hold them; 4:4:4 keeps every pixel and plays
# in VLC, mpv, Chrome and whatever decodes in software. VP9 and AV1 take odd sides as they are.
_NVENC = _Encoder(crf=("cq", "20"), preset=("preset", "p5"), options={"rc": "vbr"})
_ENCODERS: Mapping[str, _Encoder] = {
    "libx264": _Encoder(
        crf=("crf", "18"),
        # The same file size as "medium", in less than half the processor time.
        preset=("preset", "veryfast"),
        # Otherwise the bytes differ from run to run; a resumed job must equal an uninterrupted one.
        options={"x264-params": "cpu-independent=1"},
    ),
    "libx265": _Encoder(crf=("crf", "20"), preset=("preset", "medium"), options={"x265-params": "log-level=none"}),
    "libsvtav1": _Encoder(crf=("crf", "26"), preset=("preset", "8"), odd="yuv420p"),
    "libvpx-vp9": _Encoder(
        crf=("crf", "22"),
        preset=("cpu-used", "4"),
        odd="yuv420p",
        alpha="yuva420p",
        options={"deadline": "good", "row-mt": "1"},
    ),
    "ffv1": _Encoder(
        pix_fmt="bgr0",
        odd="bgr0",
        deep="gbrp16le",
        alpha="bgra",
        deep_alpha="rgba64le",
        options={"level": "3", "slicecrc": "1"},
    ),
    "prores_ks": _Encoder(pix_fmt="yuv422p10le", odd="yuv444p10le", alpha="yuva444p10le"),
    "h264_nvenc": _NVENC,
    "hevc_nvenc": _NVENC,
    "av1_nvenc": _NVENC,
    "gif": _Encoder(pix_fmt="pal8", odd="pal8", alpha="pal8"),
    "libwebp_anim": _Encoder(odd="yuv420p", alpha="bgra", options={"quality": "90"}),
    "apng": _Encoder(
        pix_fmt="rgb24", odd="rgb24", deep="rgb48be", alpha="rgba", deep_alpha="rgba64be", options={"pred": "mixed"}
    ),
}
_TEN_BITS = "yuv420p10le"
_SHORT_NAMES = {
    "h264": "libx264",
    "x264": "libx264",
    "hevc": "libx265",
    "h265": "libx265",
    "x265": "libx265",
    "av1": "libsvtav1",
    "svtav1": "libsvtav1",
    "vp9": "libvpx-vp9",
    "prores": "prores_ks",
    "nvenc": "h264_nvenc",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """A checked choice of encoder and settings.

    Args:
        codec: libav's name of the encoder.
        pix_fmt: libav's name of its input pixel format.
        options: all its options, as text.
        square: whether pixels must be made square, because another shape cannot be stored, or is not shown.
    """

    codec: str
    pix_fmt: str
    options: Mapping[str, str] = field(default_factory=dict)
    square: bool = False

    @classmethod
    def choose(
        cls,
        info: VideoInfo,
        container: Container,
        asked: Encoding = Encoding(),
        options: Mapping[str, str] | None = None,
    ) -> EncoderSettings:
        """Fills in defaults, and refuses impossible settings.

        Args:
            options: further options of the encoder, by its own names.

        Raises:
            UsageError: the codec is unknown, cannot go into the container, does not work on this machine, or lacks one
                of the settings.
        """
        crf = asked.crf
        if crf is not None and not 0 <= crf <= 63:
            raise UsageError(f"crf must be between 0 (best) and 63 (smallest), not {crf:g}.")
        name = codec_name(asked.codec, container)
        rules = _ENCODERS[name]
        chosen = dict(rules.options)
        if name == "libx265" and info.width < 64:
            chosen["x265-params"] += ":cutree=0"  # it writes past its memory for pictures of up to 48 pixels in width
        chosen |= _setting(name, "crf", rules.crf, None if crf is None else f"{crf:g}")
        chosen |= _setting(name, "preset", rules.preset, asked.preset)
        for option, value in (options or {}).items():
            both = option in ("x264-params", "x265-params") and option in chosen
            chosen[option] = f"{chosen[option]}:{value}" if both else str(value)
        wordless = container in ANIMATIONS.values() or (
            name in _WITHOUT_ASPECT and container.format in ("matroska", "webm")
        )
        square = wordless and info.sample_aspect_ratio != 1
        return cls(codec=name, pix_fmt=_pix_fmt(name, rules, info, asked.pix_fmt), options=chosen, square=square)

    def planar(self, info: VideoInfo) -> Planar | None:
        """The layout in which frames of ``info`` can be given as planes; None if as RGB alone."""
        if self.square or self.pix_fmt not in FORMATS:
            return None
        colour = info.colour.written_as(self.pix_fmt, info.height)
        return colour.planar(self.pix_fmt, info.height, info.width)

    def notices(self, info: VideoInfo, asked: Encoding) -> tuple[str, ...]:
        """Notices for the user about how ``info`` is written, where that is not what was asked for."""
        told = []
        if info.alpha and not has_alpha(self.pix_fmt):
            told.append(
                f"The clip has transparency, which {self.codec} with {self.pix_fmt} cannot hold: it becomes opaque. "
                ".webm, .gif, .webp and .apng keep it, and so do .mov with --codec prores and .mkv with --codec ffv1."
            )
        if self.square:
            told.append("Files of this kind are shown with square pixels: the picture is stretched.")
        if asked.pix_fmt is None and self._drops_bits(info):
            told.append(
                f"The clip has {info.colour.depth} bits per channel and the output 8. --pix-fmt {_TEN_BITS} keeps 10; "
                "some players do not support that in H.264 (--codec hevc is safer)."
            )
        odd = info.width % 2 or info.height % 2
        if odd and "444" in self.pix_fmt and self.codec in _H26X:
            told.append(
                f"A side of {info.width}x{info.height} is odd, which {self.codec} can hold only in 4:4:4. Some "
                "players do not support that (VP9 and AV1 have no such limit)."
            )
        return tuple(told)

    def _drops_bits(self, info: VideoInfo) -> bool:
        """Whether more than 8 bits become 8, though the encoder can write 10. HDR has a notice of its own."""
        if info.colour.is_hdr or info.colour.depth <= 8 or info.width % 2 or info.height % 2:
            return False
        bits = max(component.bits for component in av.VideoFormat(self.pix_fmt).components)
        return bits <= 8 and _TEN_BITS in (layout.name for layout in av.Codec(self.codec, "w").video_formats or ())

    @property
    def is_lean(self) -> bool:
        """Whether memory has room for two of the encoder at once; of some, one takes gigabytes."""
        return self.codec == "libx264"

    @property
    def segment_format(self) -> str:
        """The container of a segment, which must take any time base so that segments join exactly.

        VP9 keeps alpha beside its packets, only in Matroska, which is then the format of the output too.
        """
        if self.codec == "prores_ks":
            return "mov"
        return "matroska" if self.codec == "libvpx-vp9" and has_alpha(self.pix_fmt) else "mp4"


def codec_name(codec: str | None, container: Container) -> str:
    """libav's name of an encoder.

    Args:
        codec: that name or a short one, such as ``hevc``; None for the container's own.

    Raises:
        UsageError: it is unknown, cannot go into the container, or does not work on this machine.
    """
    name = container.codecs[0] if codec is None else _SHORT_NAMES.get(codec, codec)
    if name not in _ENCODERS:
        raise UsageError(f"Unknown codec {codec!r}: use one of {', '.join(container.codecs)}.")
    if name not in container.codecs:
        fitting = ", ".join(container.codecs)
        raise UsageError(f"{container.format} cannot hold codec {name}: use one of {fitting}, or another file name.")
    if name.endswith("_nvenc") and not works_here(name):
        raise UsageError(f"Codec {name} needs a GPU with that encoder, which this machine lacks: use libx264.")
    return name


def _setting(codec: str, asked: str, default: tuple[str, str] | None, value: str | None) -> dict[str, str]:
    if default is not None:
        return {default[0]: value or default[1]}
    if value is not None:
        raise UsageError(f"{codec} has no --{asked}: omit it.")
    return {}


def _pix_fmt(codec: str, rules: _Encoder, info: VideoInfo, asked: str | None) -> str:
    odd = bool(info.width % 2 or info.height % 2)
    if asked is None:
        deep = info.colour.depth > 8
        if info.alpha and rules.alpha:
            return (rules.deep_alpha if deep else None) or rules.alpha
        return (rules.deep if deep else None) or (rules.odd if odd else rules.pix_fmt)
    known = [layout.name for layout in av.Codec(codec, "w").video_formats or ()]
    if asked not in known:
        raise UsageError(f"{codec} does not support the pixel format {asked!r}: use one of {', '.join(known)}.")
    layout = av.VideoFormat(asked, info.width, info.height)
    halved = (info.width % 2 and layout.chroma_width(2) == 1) or (info.height % 2 and layout.chroma_height(2) == 1)
    if halved and rules.odd != rules.pix_fmt:
        raise UsageError(
            f"{codec} cannot write {info.width}x{info.height} as {asked}, because a side is odd: use a 444 format."
        )
    return asked


def works_here(codec: str) -> bool:
    """Whether a listed encoder works: hardware encoders are listed on machines without the hardware."""
    try:
        context = av.CodecContext.create(codec, "w")
        assert isinstance(context, VideoCodecContext)
        context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
        context.time_base = Fraction(1, 25)
        context.encode(av.VideoFrame(256, 256, "yuv420p"))
        context.encode(None)
    except (av.error.FFmpegError, ValueError):
        return False
    return True


def encoders_here() -> list[str]:
    """The encoders that cgpipe has settings for and that work on this machine."""
    there = [name for name in _ENCODERS if name in av.codecs_available]
    return [name for name in there if _ENCODERS[name] is not _NVENC or works_here(name)]


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """Threads that are real-time ones at the end get the calling thread's scheduling, where that is a usual one.

    SVT-AV1, opened by root, gives its own threads and the one that opens it the highest real-time priority, which all
    threads and processes started later inherit: when two of them are busy, a machine of two cores stands still.
    """
    if sys.platform != "linux" or (usual := os.sched_getscheduler(0)) in _REAL_TIME:
        yield
        return
    try:
        yield
    finally:
        for thread in map(int, os.listdir("/proc/self/task")):
            with suppress(OSError):  # it has ended, or may not be changed
                if os.sched_getscheduler(thread) in _REAL_TIME:
                    os.sched_setscheduler(thread, usual, os.sched_param(0))


class VideoEncoder:
    """The encoder of one stream in an open container.

    Args:
        container: where the packets go.
        info: size, colour, rate and time base of the stream.
        encoding: encoder and settings.
        name: name of the file in messages.
    """

    def __init__(
        self, container: av.container.OutputContainer, info: VideoInfo, encoding: EncoderSettings, name: str
    ) -> None:
        self._container = container
        self._name = name
        self._encoding = encoding
        self._info = info
        planar = encoding.planar(info)
        self._shapes: dict[Planar | None, tuple[int, ...]] = {None: (info.height, info.width, 3)}
        if planar is not None:
            self._shapes[planar] = (1, sum(planar.sizes), 1)
        colour = info.colour.written_as(encoding.pix_fmt, info.height)
        if encoding.square:
            width = 2 * round(info.width * info.sample_aspect_ratio / 2)
            self._info = replace(info, width=width, sample_aspect_ratio=Fraction(1))
        self._to_frame = ToFrame(colour, encoding.pix_fmt, width=self._info.width)
        self._durations: dict[int, int] = {}
        self._count = 0
        self.stream = self._add_stream(colour)

    def _add_stream(self, colour: Colour) -> VideoStream:
        info, encoding = self._info, self._encoding
        stream = self._container.add_stream(
            encoding.codec, rate=info.rate or Fraction(25), options=dict(encoding.options)
        )
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = info.width, info.height, encoding.pix_fmt
        # Frame threads if the encoder has them: PyAV's default, slice threads, is slower.
        context.thread_type = ThreadType.AUTO
        context.time_base = info.time_base
        stream.time_base = info.time_base
        context.sample_aspect_ratio = info.sample_aspect_ratio
        colour.tag(context)
        if encoding.codec in ("libx265", "hevc_nvenc"):
            # Apple's players accept HEVC only under this tag.
            context.codec_tag = "hvc1"
        return stream

    def open(self) -> None:
        """Opens the encoder and writes the container's header, so that errors show before the work.

        Raises:
            UsageError: the encoder rejects a setting, or does not know it.
            MediaError: the file cannot be written.
        """
        codec, options = self._encoding.codec, self._encoding.options
        try:
            with writing(self._name), usual_scheduling():
                self._container.start_encoding()
        except MediaError as error:
            if isinstance(error.__cause__, OSError):
                raise
            told = " ".join(f"{option}={value}" for option, value in options.items())
            raise UsageError(f"{codec} rejects its settings ({told}). Change --crf, --preset or --pix-fmt.") from error
        # libav ignores unknown options silently, but returns those that were not used.
        unused = ", ".join(sorted(set(self.stream.codec_context.options) & set(options)))
        if unused:
            raise UsageError(f"{codec} does not know the option {unused}: check the spelling.")

    def encode(self, given: Frame[VideoOrigin], pts: int, duration: int | None) -> Iterator[av.Packet[VideoStream]]:
        """The packets ready after this picture; ``pts`` and ``duration`` are in units of the info's time base."""
        if given.pixels.shape != self._shapes.get(given.planar):
            raise ValueError(f"{self._name} takes frames of shape {self._shapes[None]}, not {given.pixels.shape}.")
        self._count += 1
        frame = self._to_frame(given.pixels, given.origin.alpha, given.planar)
        frame.pts, frame.time_base = pts, self._info.time_base
        if duration:
            self._durations[pts] = frame.duration = duration
        with writing(self._name):
            packets = self.stream.encode(frame)
        return self._finished(packets)

    def flush(self) -> Iterator[av.Packet[VideoStream]]:
        """The packets that the encoder still holds; it accepts no more frames."""
        with writing(self._name):
            packets = self.stream.encode(None)
        return self._finished(packets)

    def _finished(self, packets: list[av.Packet[VideoStream]]) -> Iterator[av.Packet[VideoStream]]:
        for packet in packets:
            duration = self._durations.pop(packet.pts or 0, None)
            if self._count <= 2:
                # x265 leaves this empty if there are fewer frames than its lookahead.
                packet.dts = packet.pts
            if duration is not None and packet.time_base == self._info.time_base:
                packet.duration = duration
            yield packet


def suffix_of(path: Path) -> str:
    """A path's suffix in lower case, as in the tables."""
    return ".mp4" if path.suffix.lower() == ".m4v" else path.suffix.lower()


def container_of(path: Path) -> Container:
    """The container that a file name stands for.

    Raises:
        UsageError: the name has no suffix of a video.
    """
    try:
        return CONTAINERS[suffix_of(path)]
    except KeyError:
        known = ", ".join([*CONTAINERS, *ANIMATIONS])
        raise UsageError(f"{path.name} is not a valid name for a video: use one of {known}.") from None
