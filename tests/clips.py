"""Small video files, encoded by the tests themselves with nothing of cgpipe."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter
from PIL import Image

from cgpipe.media.video.encoding import usual_scheduling

WIDTH, HEIGHT = 96, 64
SCALER = {1: 1, 5: 5, 6: 5, 9: 9}
"""libswscale's number of a matrix, by its number in H.273."""
PIPED = """
import sys
from cgpipe.media.video import open_sink, open_source
with open_source(sys.argv[1]) as source, open_sink(sys.argv[2], like=source.info) as sink:
    for frame in source:
        sink.write(frame)
"""
"""A program that copies a clip; ``-`` is standard input or output."""


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Smooth colours that change with ``index``: RGB, uint8. Red grows to the right, green to the bottom."""
    y, x = np.mgrid[0:height, 0:width]
    blue = 128 + 90 * np.sin(4 * (x / width + y / height / 1.5) + index / 4)
    return np.stack([20 + x * 200 / width, 20 + y * 200 / height, blue], -1).astype(np.uint8)


def handles() -> set[str]:
    """Open files and threads of this process, as ``fd/3`` and ``task/123``.

    Compare by what is there that was not before: those of earlier tests may still be closing, and their number fall.
    """
    return {f"{kind}/{name}" for kind in ("fd", "task") for name in os.listdir(f"/proc/self/{kind}")}


@dataclass(frozen=True)
class Sound:
    """A track of sound: ``seconds`` of a tone of ``pitch`` Hz, without the packets that begin in ``gap``.

    Of two channels, the second has the tone of the pitch ``right``, if one is given.
    """

    codec: str = "aac"
    pitch: float = 440
    right: float | None = None
    seconds: float = 1
    language: str = "eng"
    title: str = ""
    channels: int = 1
    disposition: int = 0
    gap: tuple[float, float] = (0, 0)


def make_clip(
    path: Path,
    *,
    count: int = 24,
    pts: Iterable[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    options: Mapping[str, str] | None = None,
    matrix: int | None = None,
    full_range: bool | None = None,
    transfer: int = 2,
    rotation: int = 0,
    mirrored: bool = False,
    aspect: Fraction | None = None,
    sounds: Sequence[Sound] = (),
    subtitles: Mapping[str, Sequence[str]] | None = None,
    chapters: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    cover: bool = False,
    attachment: bytes | None = None,
    sound_first: bool = False,
    pictures: Sequence[np.ndarray] | None = None,
    muxer: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Encodes ``count`` pictures, or as many as there are ``pts``, with all that is asked for; gives the path back."""
    times = list(range(count) if pts is None else pts)
    muxer = {"movie_timescale": str(max(1000, time_base.denominator)), **(muxer or {})}
    muxer = muxer if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=muxer) as container:
        container.metadata.update(metadata or {})
        tracks = [_add_sound(container, sound) for sound in sounds] if sound_first else []
        stream: Any = container.add_stream(codec, rate=25, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = time_base
        stream.metadata.update(tags or {})
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        if matrix is not None:
            stream.codec_context.colorspace = matrix
            stream.codec_context.color_primaries = matrix if matrix in (1, 9) else 6
            stream.codec_context.color_trc = transfer if transfer != 2 else 1
        if full_range is not None:
            stream.codec_context.color_range = 2 if full_range else 1
        tracks = tracks or [_add_sound(container, sound) for sound in sounds]
        texts = [_add_subtitles(container, kind, lines) for kind, lines in (subtitles or {}).items()]
        covers = _add_cover(container) if cover else []
        if attachment is not None:
            container.add_attachment("font.ttf", "application/x-truetype-font", attachment)
        if chapters:
            container.set_chapters([_chapter(index, title) for index, title in enumerate(chapters)])
        with usual_scheduling():
            packets = _video_packets(stream, times, time_base, size, pix_fmt, matrix, full_range, pictures)
        packets += [packet for track in tracks for packet in _sound_packets(*track)]
        packets += [packet for text in texts for packet in text]
        container.start_encoding()
        for packet in [*covers, *sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base)]:
            container.mux(packet)
    return path


def _video_packets(stream, times, time_base, size, pix_fmt, matrix, full_range, pictures) -> list[Any]:
    scaler = VideoReformatter()
    packets = []
    for index, pts in enumerate(times):
        pixels = picture(index, *size) if pictures is None else pictures[index]
        kind = "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
        frame = scaler.reformat(
            av.VideoFrame.from_ndarray(pixels, kind),
            format=pix_fmt,
            dst_colorspace=SCALER[6 if matrix is None else matrix],
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
            interpolation="BICUBIC",
        )
        frame.pts, frame.time_base = pts, time_base
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _add_sound(container: Any, sound: Sound) -> tuple[Any, Sound]:
    stream = container.add_stream(sound.codec, rate=48000)
    stream.codec_context.layout = "stereo" if sound.channels == 2 else "mono"
    stream.metadata["language"] = sound.language
    if sound.title:
        stream.metadata["title"] = sound.title
    stream.disposition = sound.disposition
    return stream, sound


def _sound_packets(stream: Any, sound: Sound) -> list[Any]:
    """A tone; in 16-bit PCM, where nothing is lost, the number of each sample instead."""
    count = round(sound.seconds * 48000)
    if sound.codec == "pcm_s16le":
        samples = np.arange(count * sound.channels, dtype=np.int16).reshape(1, -1)
        kind = "s16"
    else:
        pitches = np.array([sound.pitch, sound.right or sound.pitch])[: sound.channels, None]
        samples = (0.4 * np.sin(2 * np.pi * pitches * np.arange(count) / 48000)).astype(np.float32)
        kind = "fltp"
        if sound.codec == "flac":
            samples, kind = (samples * 32767).astype(np.int16), "s16p"
    packets = []
    for first in range(0, count, 1024):
        piece = np.ascontiguousarray(samples[:, first : first + 1024])
        frame = av.AudioFrame.from_ndarray(piece, format=kind, layout="stereo" if sound.channels == 2 else "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, first, Fraction(1, 48000)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    return [packet for packet in packets if not sound.gap[0] <= packet.pts * packet.time_base < sound.gap[1]]


def _add_subtitles(container: Any, kind: str, lines: Sequence[str]) -> list[Any]:
    """One line every 0.4 s, shown for 0.3 s, from 0.1 s on."""
    stream = container.add_mux_stream(kind)
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = "spa"
    packets = []
    for index, line in enumerate(lines):
        data = line.encode()
        packet = av.Packet(len(data).to_bytes(2, "big") + data if kind == "mov_text" else data)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = 100 + 400 * index
        packet.duration, packet.is_keyframe = 300, True
        packets.append(packet)
    return packets


def _add_cover(container: Any) -> list[Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 40, 40)).save(buffer, "PNG")
    if container.format.name == "matroska":
        container.add_attachment("cover.png", "image/png", buffer.getvalue())
        return []
    stream = container.add_mux_stream("png", width=32, height=32)
    stream.disposition = av.stream.Disposition.attached_pic
    packet = av.Packet(buffer.getvalue())
    packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 90000)
    packet.is_keyframe = True
    return [packet]


def _chapter(index: int, title: str) -> dict[str, Any]:
    start = 400 * index
    return {
        "id": index + 1,
        "start": start,
        "end": start + 400,
        "time_base": Fraction(1, 1000),
        "metadata": {"title": title},
    }


def times_of(path: Path) -> list[Fraction]:
    """When each frame shows, in seconds, read with nothing of cgpipe."""
    with av.open(str(path)) as container:
        stream = next(
            video for video in container.streams.video if not video.disposition & av.stream.Disposition.attached_pic
        )
        return [frame.pts * stream.time_base for frame in container.decode(stream)]


def packets_of(path: Path, kind: str) -> list[list[bytes]]:
    """The bytes of all packets of every stream of a kind."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        found: dict[int, list[bytes]] = {stream.index: [] for stream in streams}
        for packet in container.demux(streams) if streams else ():
            if packet.size:
                found[packet.stream.index].append(bytes(packet))
    return list(found.values())


def damaged(path: Path, first: float, last: float, seed: int) -> Path:
    """The same file with garbage between two shares of its length."""
    data = bytearray(path.read_bytes())
    begin, end = round(first * len(data)), round(last * len(data))
    data[begin:end] = np.random.default_rng(seed).bytes(end - begin)
    path.write_bytes(data)
    return path
