"""The right source for an input, and the right sink for an output, by their names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from cgpipe.storage import PathLike, Publish

STANDARD = "-"


def open_source(
    spec: PathLike,
    *,
    start: Seconds | None = None,
    end: Seconds | None = None,
    duration: Seconds | None = None,
    fps: Seconds | None = None,
    hwaccel: str | None = None,
    threads: int | None = None,
    deinterlace: bool = True,
) -> Source:
    """Opens what gives frames.

    Args:
        spec: a video file, ``-`` for standard input, the address of a stream (``rtsp://``, ``http://``), ``camera:0``,
            a numbered pattern of pictures (``frames/%05d.png``), or a folder of pictures.
        start: seconds into the clip.
        end: seconds into the clip.
        duration: seconds from the start on; another way of saying ``end``.
        fps: a constant rate; pictures need one.
        hwaccel: a device that decodes.
        threads: decoding threads.
        deinterlace: make whole pictures of interlaced frames.

    Raises:
        MediaError: the input cannot be read.
        UsageError: an option cannot be used.
    """
    name = os.fspath(spec)
    if duration is not None:
        stop = seconds(start or 0) + seconds(duration)
        end = stop if end is None else min(seconds(end), stop)
    if name.startswith(PREFIX):
        if start:
            raise UsageError(f"{name} is a camera, which has no start time: omit --start.")
        return CameraSource(name, fps=fps, end=end)
    if "://" not in name and is_sequence(name):
        return SequenceSource(name, fps=fps, start=start, end=end)
    if is_webp(name):
        return WebpSource(name, start=start, end=end, fps=fps)
    file: Any = name
    if name == STANDARD or is_pipe(name):
        file = readable(standard_input() if name == STANDARD else open(name, "rb"))  # noqa: SIM115
    return VideoSource(
        file,
        start=start,
        end=end,
        fps=fps,
        hwaccel=hwaccel,
        threads=threads,
        deinterlace=deinterlace,
        owned=file is not name and name != STANDARD,
    )


def open_sink(
    spec: PathLike,
    *,
    like: VideoInfo,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    pix_fmt: str | None = None,
    options: Mapping[str, str] | None = None,
    audio: bool = True,
    resume: str | None = None,
    overwrite: bool = False,
    publish: Publish = os.replace,
) -> Sink:
    """Opens what takes frames.

    Args:
        spec: a video file (mp4, m4v, mov, mkv, webm), an animation (gif, webp, apng), ``-`` for standard output, a
            named pipe, a numbered pattern of pictures (``frames/%05d.png``), or a folder for such.
        like: the source's info.
        codec: as for :class:`~cgpipe.media.video.VideoSink`, and so the rest.
        overwrite: whether a sequence of pictures that already exists may be replaced.
        publish: puts a finished file in its place.

    Raises:
        MediaError: the output cannot be written.
        UsageError: the name or an option cannot be used.
    """
    name = os.fspath(spec)
    if name != STANDARD and not is_pipe(name) and names_sequence(name):
        given = {"codec": codec, "crf": crf, "preset": preset, "pix_fmt": pix_fmt}
        meaningless = [option for option, value in given.items() if value is not None]
        if meaningless:
            raise UsageError(f"{name} is written as pictures: omit --{meaningless[0].replace('_', '-')}.")
        return SequenceSink(name, like=like, resume=resume, overwrite=overwrite)
    pipe = is_pipe(name)
    if name == STANDARD or pipe or suffix_of(Path(name)) in ANIMATIONS:
        target: Any = standard_output() if name == STANDARD else open(name, "wb", 0) if pipe else name  # noqa: SIM115
        return StreamSink(
            target,
            like=like,
            codec=codec,
            crf=crf,
            preset=preset,
            pix_fmt=pix_fmt,
            options=options,
            audio=audio,
            publish=publish,
            owned=pipe and name != STANDARD,
        )
    return VideoSink(
        name,
        like=like,
        codec=codec,
        crf=crf,
        preset=preset,
        pix_fmt=pix_fmt,
        options=options,
        audio=audio,
        resume=resume,
        publish=publish,
    )
