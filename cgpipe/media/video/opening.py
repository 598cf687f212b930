"""Opens the source for an input and the sink for an output, by their names."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import IO, Unpack

from cgpipe.errors import UsageError
from cgpipe.media.video.camera import PREFIX, CameraSource
from cgpipe.media.video.clip import Seconds, VideoInfo, seconds
from cgpipe.media.video.encoding import ANIMATIONS, suffix_of
from cgpipe.media.video.interfaces import Sink, Source
from cgpipe.media.video.pipes import is_pipe, readable, standard_input, standard_output
from cgpipe.media.video.sequences import SequenceSink, SequenceSource, is_sequence, names_sequence
from cgpipe.media.video.sink import VideoSink
from cgpipe.media.video.source import VideoSource
from cgpipe.media.video.stream_sink import StreamSink
from cgpipe.media.video.webp import WebpSource, is_webp
from cgpipe.options import Cut, CutFields, Encoding, EncodingFields
from cgpipe.storage import PathLike, Publish

STANDARD = "-"


_LIVE = ("rtsp:", "rtsps:", "rtmp:", "rtmps:", "rtp:", "srt:", "udp:", "tcp:", "mms:", "mmsh:")


def open_source(
    spec: PathLike,
    *,
    cut: Cut = Cut(),
    hwaccel: str | None = None,
    threads: int | None = None,
    deinterlace: bool = True,
    name: str | None = None,
    **given: Unpack[CutFields],
) -> Source:
    """Opens a source of frames.

    Args:
        spec: a video file, ``-`` for standard input, the URL of a stream (``rtsp://``, ``http://``), ``camera:0``, a
            numbered pattern of pictures (``frames/%05d.png``), or a folder of pictures.
        cut: the part to read, and the frame rate, which pictures need; each field also as a keyword (``start=3.5``).
        hwaccel: libav's name of a hardware decoder, such as ``cuda``; ``off`` is none, as by default.
        threads: decoding threads; by default one per processor up to 4, and one per two processors up to 8.
        deinterlace: deinterlace interlaced frames.
        name: what messages call a video file; by default its path.

    Raises:
        MediaError: the input cannot be read.
        UsageError: an option is invalid for this input.
    """
    path = os.fspath(spec)
    cut = replace(cut, **given)
    start, end, fps = cut.start, _end(cut), cut.fps
    if path.startswith(PREFIX):
        if start:
            raise UsageError(f"{path} is a camera, which has no start time: omit --start.")
        return CameraSource(path, fps=fps, end=end)
    if "://" not in path and is_sequence(path):
        return SequenceSource(path, fps=fps, start=start, end=end)
    if is_webp(path):
        return WebpSource(path, start=start, end=end, fps=fps)
    file = _opened(path)
    return VideoSource(
        path if file is None else readable(file),
        start=start,
        end=end,
        fps=fps,
        hwaccel=hwaccel,
        threads=threads,
        deinterlace=deinterlace,
        owned=file is not None and path != STANDARD,
        name=name,
    )


def is_live(spec: PathLike) -> bool:
    """Whether an input is a camera or a stream, which goes on until it is stopped."""
    return os.fspath(spec).lower().startswith((PREFIX, *_LIVE))


def _end(cut: Cut) -> Seconds | None:
    """The end of the cut, in seconds into the clip."""
    if cut.duration is None:
        return cut.end
    stop = seconds(cut.start or 0) + seconds(cut.duration)
    return stop if cut.end is None else min(seconds(cut.end), stop)


def _opened(name: str) -> IO[bytes] | None:
    """Standard input or a named pipe, opened; None for everything that libav opens by name."""
    if name == STANDARD:
        return standard_input()
    return open(name, "rb") if is_pipe(name) else None


def open_sink(
    spec: PathLike,
    *,
    like: VideoInfo,
    encoding: Encoding = Encoding(),
    resume: str | None = None,
    overwrite: bool = False,
    publish: Publish = os.replace,
    **given: Unpack[EncodingFields],
) -> Sink:
    """Opens a sink for frames.

    Args:
        spec: a video file (mp4, m4v, mov, mkv, webm), an animation (gif, webp, apng), ``-`` for standard output, a
            named pipe, a numbered pattern of pictures (``frames/%05d.png``), or a folder of pictures.
        like: the source's info.
        encoding: encoder, quality, pixel format, audio; each field also as a keyword (``crf=18``).
        resume: identifies the input and everything done to the frames; None: resume nothing and keep nothing to resume.
        overwrite: whether an existing sequence of pictures may be replaced.
        publish: moves the finished file into place.

    Raises:
        MediaError: the output cannot be written.
        UsageError: the name or an option is invalid.
    """
    name = os.fspath(spec)
    encoding = replace(encoding, **given)
    if name == STANDARD:
        return StreamSink(standard_output(), like=like, encoding=encoding)
    if is_pipe(name):
        return StreamSink(open(name, "wb", 0), like=like, encoding=encoding, owned=True)
    if names_sequence(name):
        _require_no_encoder(name, encoding)
        return SequenceSink(name, like=like, resume=resume, overwrite=overwrite)
    if suffix_of(Path(name)) in ANIMATIONS:
        return StreamSink(name, like=like, encoding=encoding, publish=publish)
    return VideoSink(name, like=like, encoding=encoding, resume=resume, publish=publish)


def _require_no_encoder(name: str, encoding: Encoding) -> None:
    for option in ("codec", "crf", "preset", "pix_fmt"):
        if getattr(encoding, option) is not None:
            raise UsageError(f"{name} is written as pictures: omit --{option.replace('_', '-')}.")
