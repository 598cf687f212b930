"""Animated WebP as a source: libav writes it but cannot read it, so Pillow does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.colour import RGB, Colour
from cgpipe.media.frames import Frame
from cgpipe.media.video.clip import LEAST_HELD, Seconds, VideoInfo, VideoOrigin, seconds
from cgpipe.media.video.interfaces import Pass, Source
from cgpipe.media.video.plays import plays_in


def is_webp(name: str) -> bool:
    """Whether a file is WebP by its name and first bytes, still or animated."""
    head = _head(name)
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _head(name: str) -> bytes:
    path = Path(name)
    if path.suffix.lower() != ".webp" or not path.is_file():
        return bytes(12)
    with path.open("rb") as file:
        return file.read(12)


class WebpSource(Source):
    """The frames of an animated WebP, each with its own time and opacity.

    Args:
        path: the file.
        start: seconds into the animation.
        end: seconds into the animation.
        fps: must be None: an animation keeps its times.

    Raises:
        MediaError: the file cannot be read.
        UsageError: ``fps`` is given.
    """

    def __init__(
        self, path: str, *, start: Seconds | None = None, end: Seconds | None = None, fps: Seconds | None = None
    ) -> None:
        super().__init__()
        if fps is not None:
            raise UsageError(f"{path}: the frame rate of an animated WebP cannot be changed. Omit --fps.")
        self._path = path
        try:
            with Image.open(path) as image:
                size, plays = image.size, plays_in(image)
                shown = [_shown(image, number) for number in range(_count(image))]
        except (OSError, UnidentifiedImageError, EOFError) as error:
            raise MediaError(f"{path} cannot be read: {error}.") from error
        transparent = any(alpha for _, alpha in shown)
        times = [0, *itertools.accumulate(duration for duration, _ in shown)]
        self._frames = list(_between(times, start, end))
        if not self._frames:
            raise MediaError(f"{path} has no frame between start and end: check them.")
        length = sum(duration for _, _, duration in self._frames)
        self.info = VideoInfo(
            width=size[0],
            height=size[1],
            colour=Colour(matrix=RGB, full_range=True),
            time_base=Fraction(1, 1000),
            rate=Fraction(1000 * len(self._frames), length).limit_denominator(1001) if length else None,
            frames=len(self._frames),
            start=Fraction(self._frames[0][1], 1000) if start else Fraction(0),
            codec="webp",
            plays=plays,
            pix_fmt="rgba" if transparent else "rgb24",
            alpha=transparent,
        )

    def _read(self, first: int) -> Pass:
        with Image.open(self._path) as image:
            for index, (number, time, duration) in enumerate(self._frames[first:], first):
                image.seek(number)
                pixels = np.asarray(image.convert("RGB"))
                alpha = np.asarray(image.convert("RGBA"))[..., 3] if self.info.alpha else None
                origin = VideoOrigin(
                    index=index, pts=time, time_base=self.info.time_base, duration=duration or None, alpha=alpha
                )
                yield Frame(pixels=pixels, origin=origin)


def _between(times: Sequence[int], start: Seconds | None, end: Seconds | None) -> Iterator[tuple[int, int, int]]:
    """Number, time and duration of the frames of a part, in milliseconds; cut as a clip is."""
    begin = round(1000 * seconds(start or 0))
    finish = times[-1] + 1 if end is None else round(1000 * seconds(end))
    for number, (time, until) in enumerate(itertools.pairwise(times)):
        if time < finish and (time >= begin or until - begin > 1000 * LEAST_HELD):
            shown = max(time, begin)
            yield number, shown, min(until, finish) - shown


def _count(image: Image.Image) -> int:
    return int(getattr(image, "n_frames", 1))


def _shown(image: Image.Image, number: int) -> tuple[int, bool]:
    """How many milliseconds a frame is shown, and whether it is transparent anywhere."""
    image.seek(number)
    image.load()
    return int(image.info.get("duration", 0)), image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
