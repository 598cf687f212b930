"""The page of a video: a synchronised player of before and after, and a strip of frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cgpipe.errors import MediaError
from cgpipe.pages.page import Page, readable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FRAMES = 24
"""Most frames in the strip, spread evenly over the clip."""

WIDTH, HEIGHT = 960, 540
"""Bounds of a frame in the strip, which replaces a clip that the browser cannot play."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video and its translation.

    Args:
        before: the original; None if there is no file, as for a camera.
        after: the translation.
        start: seconds into the original at which the translation starts.
        beside: whether the translation has the original in its left half.
        lead: one line below the title.
        tables: rows of names and values, by heading.
    """

    before: Path | None
    after: Path
    start: float = 0.0
    beside: bool = False
    lead: str = ""
    tables: Mapping[str, list[tuple[str, str]]]


def write_clip(page: Page, clip: Clip) -> None:
    """Writes the page, with its frames.

    Raises:
        UsageError: a file that cgpipe did not make is in its place.
        MediaError: it cannot be written.
    """
    page.claim()
    seconds, rate = _duration(clip.after)
    count = min(FRAMES, max(1, round(seconds * rate))) if rate else FRAMES
    times = [seconds * (index + 0.5) / count for index in range(count)] if seconds else [0.0]
    before = None if clip.beside else clip.before
    try:
        originals = _save(page, "before", before, [clip.start + time for time in times])
        strip = _strip(times, originals, _save(page, "after", clip.after, times))
    except OSError as error:
        raise MediaError(f"The page cannot be written to {page.path}: {error.strerror}.") from error
    page.write(
        "clip.html",
        title=readable(clip.after.name),
        lead=clip.lead,
        notice="",
        tables=list(clip.tables.items()),
        data={
            "files": f"{page.address(page.files)}/",
            "before": None if before is None else page.address(before),
            "after": page.address(clip.after),
            "start": clip.start,
            "rate": rate,
            "strip": strip,
        },
    )


def _duration(path: Path) -> tuple[float, float]:
    from cgpipe.media.video.strip import duration_of

    try:
        return duration_of(path)
    except MediaError:  # an animation that libav does not read: the browser shows it all the same
        return 0.0, 0.0


def _save(page: Page, which: str, path: Path | None, times: Sequence[float]) -> list[NDArray[np.uint8]]:
    """Writes and returns the frames at the given times, as far as the clip can be read."""
    from cgpipe.media.video.strip import frames_at
    from cgpipe.pages.thumbnails import save

    frames: list[NDArray[np.uint8]] = []
    if path is not None:
        with suppress(MediaError):
            for index, pixels in enumerate(frames_at(path, times, WIDTH, HEIGHT)):
                save(page.files / f"{index:02}-{which}.jpg", pixels)
                frames.append(pixels)
    return frames


def _strip(
    times: Sequence[float], before: Sequence[NDArray[np.uint8]], after: Sequence[NDArray[np.uint8]]
) -> list[dict[str, object]]:
    from cgpipe.pages.thumbnails import change

    strip = []
    for index, frame in enumerate(after):
        there = index < len(before)
        changed = round(change(before[index], frame), 1) if there else None
        height, width = frame.shape[:2]
        strip.append({"time": round(times[index], 3), "w": width, "h": height, "x": int(there), "c": changed})
    return strip
