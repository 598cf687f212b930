"""Translates videos with one model: current outputs are skipped, all others go through the pipeline."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cgpipe.errors import MediaError, UsageError, reason_of
from cgpipe.jobs.early import video_looks_made
from cgpipe.jobs.gallery import claim_page, clip_page
from cgpipe.jobs.journal import Journal, Standing, foreign_reason, stamps_of
from cgpipe.jobs.learning import OnLearn
from cgpipe.jobs.loading import load_pipeline
from cgpipe.jobs.report import VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.models.choose import Chosen
from cgpipe.notebook import ProgressBar
from cgpipe.options import Options
from cgpipe.storage import LOCAL, PathLike, Stamp, fetched_whole, shown, store_of

if TYPE_CHECKING:
    from cgpipe.jobs.pipeline import Pipeline
    from cgpipe.media.frames import Pixels

OnStart = Callable[[str, int | None], None]
OnFrames = Callable[[int], None]
OnPicture = Callable[["Pixels", "Pixels"], bool | None]

STANDARD = "-"
"""Standard input or output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Who hears of a job, as :func:`cgpipe.translate_video` has it."""

    on_start: OnStart | None = None
    on_frames: OnFrames | None = None
    on_picture: OnPicture | None = None
    on_learn: OnLearn | None = None
    progress: bool | None = None


class VideoJob:
    """A model and options for any number of videos; the model is loaded when it is first needed."""

    def __init__(
        self,
        chosen: Chosen,
        options: Options,
        watch: Stopwatch,
        told: Told = Told(),
        gallery: bool | PathLike = False,
    ) -> None:
        self._gallery = gallery
        self._told = told
        self._chosen = chosen
        self._options = options
        self._watch: Stopwatch | None = watch  # of the first video alone
        self._pipeline: Pipeline | None = None
        self._journal = Journal(
            options.fingerprint(chosen.deciding),
            looks_made=partial(video_looks_made, side_by_side=options.look.side_by_side),
            overwrite=options.work.overwrite,
            checksum=options.work.checksum,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.__exit__(kind, error, trace)

    def run(self, input: str, output: str) -> VideoReport:
        """Translates one video; see :func:`cgpipe.translate_video`."""
        watch, self._watch = self._watch or Stopwatch(), None
        store_of(input).forget(os.path.dirname(input))
        if store_of(input) is store_of(output) is LOCAL and _are_one(input, output):
            raise UsageError(f"{shown(output)} is the input itself: name another output.")
        claim_page(self._gallery, output)
        report = VideoReport(input=shown(input), output=shown(output), model=str(self._chosen))
        if self._is_done(input, output, report):
            report.skipped = True
            report.page = clip_page(self._gallery, report, self._options)
            return report
        watch.reached("find")
        self._translate(self._loaded(watch), input, output, report, watch)
        report.first = watch.first
        report.seconds = watch.seconds | {"total": watch.total}
        report.page = clip_page(self._gallery, report, self._options)
        return report

    def forget(self) -> None:
        """Reads again what other processes may have recorded."""
        self._journal.forget()

    def survey(self, input: str, output: str) -> int:
        """Prepares a video whose parts other processes make before :meth:`run` joins them; gives its frames.

        0 if :meth:`run` must do all: the video is current, or cannot be divided.

        Raises:
            UsageError, MediaError: as of :meth:`run`.
        """
        report = VideoReport(input=shown(input), output=shown(output), model=str(self._chosen))
        inputs = _files(input)
        if not inputs or not is_segmented(output) or self._is_done(input, output, report):
            return 0
        from cgpipe.jobs.clip import Clip, survey_clip

        with at_hand(input) as here:
            resume = self._resume_key(input, here, stamps_of(inputs))
            clip = Clip(input=here, output=output, publish=self._journal.publisher(inputs, ()), resume=resume)
            return survey_clip(self._loaded(Stopwatch()), self._options, clip, report)

    def run_part(self, input: str, output: str, first: int, last: int | None) -> VideoReport:
        """Makes the segments of the frames from ``first`` to before ``last``."""
        from cgpipe.jobs.clip import Clip, translate_clip

        report = VideoReport(input=shown(input), output=shown(output), model=str(self._chosen))
        inputs, watch = _files(input), Stopwatch()
        with at_hand(input) as here:
            resume = self._resume_key(input, here, stamps_of(inputs))
            publish = self._journal.publisher(inputs, ())
            clip = Clip(input=here, output=output, publish=publish, resume=resume, part=(first, last))
            translate_clip(self._loaded(watch), self._options, clip, report, watch)
        report.seconds = watch.seconds
        return report

    def _loaded(self, watch: Stopwatch) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = load_pipeline(self._chosen, self._options, watch, video=True)
        return self._pipeline

    def _translate(self, pipeline: Pipeline, input: str, output: str, report: VideoReport, watch: Stopwatch) -> None:
        from cgpipe.jobs.clip import Clip, translate_clip

        inputs = _files(input)
        stamps = stamps_of(inputs)
        with at_hand(input) as here, ProgressBar("frame", self._told.progress) as bar:

            def start(frames: int | None) -> None:
                if self._told.on_start:
                    self._told.on_start(report.model, frames)
                bar.start(frames)

            def count(frames: int) -> None:
                bar.advance(frames)
                if self._told.on_frames:
                    self._told.on_frames(frames)

            clip = Clip(
                input=here,
                output=output,
                publish=self._journal.publisher(inputs, stamps),
                resume=self._resume_key(input, here, stamps),
                on_start=start,
                on_frames=count,
                on_picture=self._told.on_picture,
            )
            translate_clip(pipeline, self._options, clip, report, watch)

    def _is_done(self, input: str, output: str, report: VideoReport) -> bool:
        """Whether the output is current.

        Raises:
            MediaError: a file that cgpipe did not make is in its place.
        """
        if not _is_file_name(output):
            return False
        inputs = _files(input)
        standing = self._journal.standing(output, inputs)
        if standing is Standing.FOREIGN and not os.path.isdir(output):  # of which the sink speaks
            raise MediaError(foreign_reason(output, "another output (a folder for several inputs: -o FOLDER)"))
        if standing is Standing.EARLY:
            notice = (
                f"No journal knows {output}, but it looks like a translation. It is taken as up to date from now on, "
                "whatever made it. --overwrite redoes it."
            )
            report.tell([notice])
        return bool(inputs) and standing in (Standing.CURRENT, Standing.EARLY)

    def _resume_key(self, input: str, here: str, stamps: tuple[Stamp, ...]) -> str | None:
        """Identifies everything that determines the frames, to resume an interrupted run.

        None for an input that nothing tells from another, such as a camera or standard input.
        """
        from cgpipe.media.video.sequences import fingerprint, is_sequence

        seen: object = stamps
        if not stamps:
            if not is_sequence(here):
                return None
            seen = fingerprint(here, times=store_of(input) is LOCAL)
        pictures = self._options.fingerprint(self._chosen.deciding, pictures_only=True)
        return json.dumps([os.path.basename(input), seen, pictures])


def _are_one(input: str, output: str) -> bool:
    return os.path.isfile(input) and os.path.isfile(output) and os.path.samefile(input, output)


def _files(input: str) -> tuple[Path, ...]:
    """The input if it is a file, whose changes can be detected."""
    return (Path(input),) if store_of(input).is_file(input) else ()


@contextmanager
def at_hand(input: str) -> Iterator[str]:
    """The local name of an input; a remote one is first fetched, whole, and a numbered pattern with its folder."""
    from cgpipe.media.video.sequences import is_numbered

    with ExitStack() as stack:
        here = input
        if store_of(input) is not LOCAL:
            folder, pattern = os.path.split(input) if is_numbered(input) else (input, "")
            try:
                here = os.fspath(stack.enter_context(fetched_whole(folder)) / pattern)
            except OSError as error:
                raise MediaError(f"{shown(input)} cannot be read: {reason_of(error)}.") from error
        yield here


def is_segmented(output: str) -> bool:
    """Whether an output is a file that is written in segments."""
    from cgpipe.media.video.encoding import CONTAINERS, suffix_of

    return _is_file_name(output) and suffix_of(Path(output)) in CONTAINERS


def _is_file_name(output: str) -> bool:
    from cgpipe.media.video.pipes import is_pipe
    from cgpipe.media.video.sequences import names_sequence

    return output != STANDARD and not is_pipe(output) and not names_sequence(output)
