"""The limits of a service."""

from __future__ import annotations

from dataclasses import dataclass

GRACE_SECONDS = 10.0
"""Seconds to wait for the first bytes of an upload."""

SLOWEST_BYTES = 32 << 10
"""Minimum rate of an upload in bytes per second: a slower client would occupy the queue for hours."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a service.

    Args:
        picture_bytes, video_bytes: most bytes of an upload.
        pixels: most pixels of a picture or frame.
        picture_seconds: most seconds from the upload of a picture to its translation.
        video_seconds: most seconds of work on a video.
        pictures: most pictures uploading, waiting or in work; further ones are refused with 429.
        videos: most videos in work.
        waiting_videos: most videos uploading, waiting or in work.
        keep_seconds: seconds for which a finished video is kept.
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
