"""A few thumbnails of a clip, for a page: found by seeking, without decoding everything between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import av.container
import numpy as np
import numpy.typing as npt

from cgpipe.media.video.clip import Orientation
from cgpipe.media.video.libav import LENIENT_TAGS, address, format_of, reading

_LONGEST_SEARCH = 600
"""Maximum frames decoded after a seek; with longer gaps between keyframes, the last of them is used."""

Small = npt.NDArray[np.uint8]


def duration_of(path: Path) -> tuple[float, float]:
    """Duration of a clip in seconds, and its frames per second; 0 if it does not say.

    Raises:
        MediaError: it cannot be read.
    """
    with reading(str(path)), av.open(address(path), format=format_of(path), **LENIENT_TAGS) as container:
        video = container.streams.video[0]
        seconds = float(video.duration * video.time_base) if video.duration and video.time_base else 0.0
        return seconds or (container.duration or 0) / av.time_base, float(video.average_rate or 0)


def frames_at(path: Path, times: Sequence[float], width: int, height: int) -> Iterator[Small]:
    """The frame shown at each time, upright, RGB (height, width, 3), reduced to fit; fewer if the clip ends earlier.

    Args:
        times: seconds from the clip's start, ascending.

    Raises:
        MediaError: the clip cannot be read.
    """
    with reading(str(path)), av.open(address(path), format=format_of(path), **LENIENT_TAGS) as container:
        for time in times:
            frame = _frame_at(container, time)
            if frame is None:
                return
            yield _small(frame, width, height)


def _frame_at(container: av.container.InputContainer, time: float) -> av.VideoFrame | None:
    stream = container.streams.video[0]
    begin = float((stream.start_time or 0) * (stream.time_base or 0))
    container.seek(int((begin + time) * av.time_base), backward=True)
    shown = None
    for count, frame in enumerate(container.decode(stream)):
        if frame.time is not None and frame.time > begin + time + 1e-4:
            return shown or frame
        shown = frame
        if count > _LONGEST_SEARCH:
            break
    return shown


def _small(frame: av.VideoFrame, width: int, height: int) -> Small:
    upright = Orientation.of(frame)
    if upright.transpose:
        width, height = height, width
    scale = min(1.0, width / frame.width, height / frame.height)
    size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    pixels = frame.reformat(width=size[0], height=size[1], format="rgb24").to_ndarray().astype(np.uint8, copy=False)
    return upright(pixels).astype(np.uint8, copy=False)
