"""Animations among the pictures of a folder: they go the way that videos go."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from cgpipe.errors import MediaError
from cgpipe.jobs.report import VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.video_ends import VideoFrames, VideoResult
from cgpipe.media.pictures.formats import picture_format
from cgpipe.media.video.masks import VideoMask
from cgpipe.media.video.opening import open_sink, open_source
from cgpipe.storage import PathLike, Publish

if TYPE_CHECKING:
    from cgpipe.jobs.pipeline import Pipeline

ANIMATED = ("GIF", "PNG", "WEBP")
"""Formats of pictures that are written moving."""


def translate_animation(
    pipeline: Pipeline, input: Path, output: Path, *, mask: Path | None, publish: Publish, watch: Stopwatch
) -> tuple[int, int]:
    """Translates a GIF, PNG or WebP that moves, every frame at its own time.

    Args:
        output: ``.gif``, ``.webp`` or ``.png``.
        mask: an animation, a video or one picture for all frames.
        publish: puts the finished file in its place.

    Returns:
        Height and width in pixels.

    Raises:
        CgpipeError: it cannot be read or written, or a frame of it cannot be translated.
    """

    def into_place(temporary: PathLike, _: PathLike) -> None:
        publish(temporary, output)

    if picture_format(output) not in ANIMATED:
        raise MediaError("an animation, which only GIF, PNG and WebP hold; omit --format")
    written = output.with_suffix(".apng") if picture_format(output) == "PNG" else output
    report = VideoReport(input=str(input), output=str(output), model="")
    with open_source(input) as source:
        info = source.info
        with nullcontext() if mask is None else VideoMask(mask, info) as confined:
            batch_size = pipeline.batch_size_for(info.height, info.width)
            with open_sink(written, like=info, publish=into_place) as sink:
                frames = VideoFrames(source, confined, watch, originals=False)
                result = VideoResult(sink, report, watch, lambda count: None)
                pipeline.run(frames, result, watch, batch_size=batch_size)
    return info.height, info.width
