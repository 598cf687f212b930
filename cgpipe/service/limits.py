"""What a service takes on at most."""

from __future__ import annotations

from dataclasses import dataclass

GRACE_SECONDS = 10.0
"""For the first bytes of an upload to come."""

SLOWEST_BYTES = 32 << 10
"""An upload's least rate, a second: whoever sends more slowly would hold a place for hours."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a service takes on at most.

    Args:
        picture_bytes, video_bytes: of an upload.
        pixels: of a picture, or of a video's frame.
        picture_seconds: from the last byte of a picture to its translation.
        video_seconds: of work on a video.
        pictures: being uploaded, waiting or at work; one more is refused with 429.
        videos: at work at once.
        waiting_videos: being uploaded, waiting or at work.
        keep_seconds: for which a finished video can be fetched.
    """

    picture_bytes: int = 64 << 20
    video_bytes: int = 2 << 30
    pixels: int = 50_000_000
    picture_seconds: float = 60.0
    video_seconds: float = 3600.0
    pictures: int = 64
    videos: int = 1
    waiting_videos: int = 8
    keep_seconds: float = 3600.0
