"""Reads and writes videos: sources yield frames, sinks write them with everything else of the file."""

from __future__ import annotations

from cgpipe.media.video.clip import Damage, StreamInfo, VideoInfo, VideoOrigin
from cgpipe.media.video.interfaces import Sink, Source
from cgpipe.media.video.opening import open_sink, open_source
from cgpipe.media.video.sink import VideoSink
from cgpipe.media.video.source import VideoSource
from cgpipe.media.video.streams import StreamReport

__all__ = [
    "Damage",
    "Sink",
    "Source",
    "StreamInfo",
    "StreamReport",
    "VideoInfo",
    "VideoOrigin",
    "VideoSink",
    "VideoSource",
    "open_sink",
    "open_source",
]
