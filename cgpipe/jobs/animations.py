"""Animations among the pictures of a folder, which are translated like videos."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace

from cgpipe.errors import CgpipeWarning, MediaError, reason_of
from cgpipe.jobs.clip import Clip, translate_clip
from cgpipe.jobs.pipeline import Pipeline
from cgpipe.jobs.report import VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.worklist import Worklist
from cgpipe.media.pictures.formats import picture_format
from cgpipe.media.pictures.sink import Written
from cgpipe.media.pictures.source import PictureOrigin
from cgpipe.options import Options
from cgpipe.storage import PathLike, fetched, shown, spooled

ANIMATED = ("GIF", "PNG", "WEBP")
"""Picture formats in which animations are written."""


def translate_animation(
    pipeline: Pipeline,
    options: Options,
    origin: PictureOrigin,
    worklist: Worklist,
    watch: Stopwatch,
) -> Written:
    """Translates an animated GIF, PNG or WebP, with every frame at its own time; an exception is its failure.

    Its mask is one picture for all frames, or another animation.
    """
    publish = worklist.publisher(origin)

    def into_place(temporary: PathLike, _: PathLike) -> None:
        publish(temporary, origin.output)

    try:
        format = picture_format(origin.output)
        if format not in ANIMATED:
            advice = "" if picture_format(origin.inputs[0]) == format else ": omit --format"
            raise MediaError(f"It is an animation, and those are written as GIF, PNG and WebP alone{advice}.")
        mask = None if worklist.masks is None else worklist.masks.path_of(origin.place)
        # `workers` are processes that decode pictures here, but threads of a video's decoder there.
        own = replace(options, look=replace(options.look, mask=mask), work=replace(options.work, workers=None))
        written = origin.output.with_suffix(".apng") if format == "PNG" else origin.output
        # A name with %d would be that of numbered pictures; its own is the one it gets at the end.
        unnumbered = written.with_name(written.name.replace("%", "_"))
        with fetched(origin.inputs[0]) as here, spooled(unnumbered) as there:
            there.parent.mkdir(parents=True, exist_ok=True)
            report = _Report(input=shown(origin.inputs[0]), output=shown(origin.output), model="")
            info = translate_clip(
                pipeline, own, Clip(input=str(here), output=str(there), publish=into_place), report, watch
            )
    except Exception as error:
        return Written(origin=origin, reason=reason_of(error))
    return Written(origin=origin, height=info.height, width=info.width)


class _Report(VideoReport):
    """The report of one clip among many files, whose notices name it."""

    def tell(self, notices: Iterable[str]) -> None:
        for notice in notices:
            warnings.warn(f"{self.input}: {notice}", CgpipeWarning, stacklevel=4)
