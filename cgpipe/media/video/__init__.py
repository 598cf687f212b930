"""Videos in and out: :class:`VideoSource` gives frames, :class:`VideoSink` writes them with all else of the file."""

from __future__ import annotations

from cgpipe.media.video.clip import Damage, StreamInfo, VideoInfo, VideoOrigin
from cgpipe.media.video.sink import VideoSink
from cgpipe.media.video.source import VideoSource
from cgpipe.media.video.streams import StreamReport

__all__ = ["Damage", "StreamInfo", "StreamReport", "VideoInfo", "VideoOrigin", "VideoSink", "VideoSource"]
