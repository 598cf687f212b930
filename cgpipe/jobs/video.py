"""Translates videos: the flow of all jobs, with a video at both ends."""

from __future__ import annotations

import filecmp
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cgpipe.errors import MediaError
from cgpipe.jobs.journal import Journal, Standing, foreign_reason, stamps_of
from cgpipe.jobs.report import VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.models.choose import Chosen, choose_model
from cgpipe.notebook import ProgressBar
from cgpipe.options import Options, takes_options
from cgpipe.storage import PathLike, Stamp

if TYPE_CHECKING:
    from cgpipe.jobs.pipeline import Pipeline
    from cgpipe.media.video import VideoInfo
    from cgpipe.media.video.masks import VideoMask

OnStart = Callable[[str, int | None], None]
OnFrames = Callable[[int], None]

STANDARD = "-"
"""Standard input or output."""


@takes_options("video")
def translate_video(
    input: PathLike,
    output: PathLike,
    *,
    options: Options,
    progress: bool | None = None,
    on_start: OnStart | None = None,
    on_frames: OnFrames | None = None,
) -> VideoReport:
    """Translates a video; only the look of its pictures changes.

    Every frame keeps its time. Sound, subtitles, chapters, metadata, colour, size and orientation are kept. The output
    appears when it is whole, and does not replace a file that cgpipe did not make; an interrupted job goes on where it
    was when it is started again.

    Args:
        input: a file, a folder or numbered pattern of pictures, ``camera:0``, the address of a stream, or ``-``.
        output: a file (mp4, mov, mkv, webm, gif, webp), a folder or pattern of pictures, or ``-``.
        progress: show a progress bar; by default in a notebook alone.
        on_start: told the model in words and the number of frames, or None where the input does not say.
        on_frames: told how many frames were written.

    All else is an option of one of the groups in :mod:`cgpipe.options`: a field as a keyword (``to="zebra"``,
    ``crf=18``, ``start=3.5``), or a whole group (``cut=Cut(start=3.5)``). ``workers`` are threads of the decoder.

    Raises:
        UsageError: an option cannot be used, such as a codec that the container does not take.
        MediaError: the input or the mask cannot be read at all, the mask does not fit, or the output cannot be written.
        ModelError: the model cannot be found or read.
    """
    with VideoJob(choose_model(options.choice), options, Stopwatch(), on_start, on_frames, progress) as job:
        return job.run(os.fspath(input), os.fspath(output))


class VideoJob:
    """A model and options for one video after another; the model is loaded when the first needs it."""

    def __init__(
        self,
        chosen: Chosen,
        options: Options,
        watch: Stopwatch,
        on_start: OnStart | None = None,
        on_frames: OnFrames | None = None,
        progress: bool | None = None,
    ) -> None:
        self._progress = progress
        self._chosen = chosen
        self._options = options
        self._watch: Stopwatch | None = watch  # of the first video alone
        self._on_start = on_start
        self._on_frames = on_frames
        self._pipeline: Pipeline | None = None
        self._journal = Journal(
            options.fingerprint(chosen.deciding),
            looks_made=self._looks_made,
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
        """Translates one video; see :func:`translate_video`."""
        watch, self._watch = self._watch or Stopwatch(), None
        report = VideoReport(input=input, output=output, model=str(self._chosen))
        if self._is_done(report):
            report.skipped = True
            return report
        watch.reached("find")
        if self._pipeline is None:
            from cgpipe.jobs.pipeline import Pipeline

            self._pipeline = Pipeline(self._chosen, self._options, watch)
        self._translate(self._pipeline, report, watch)
        report.first = watch.first
        report.seconds = watch.seconds | {"total": watch.total}
        return report

    def _translate(self, pipeline: Pipeline, report: VideoReport, watch: Stopwatch) -> None:
        from cgpipe.jobs.video_ends import VideoFrames, VideoResult
        from cgpipe.media.video.opening import open_sink, open_source

        inputs = _files(report.input)
        stamps = stamps_of(inputs)
        cut, encoding, work = self._options.cut, self._options.encoding, self._options.work
        reading: dict[str, Any] = {"hwaccel": self._options.hardware.hwaccel, "threads": work.workers}
        reading["deinterlace"] = self._options.look.deinterlace
        writing = {name: getattr(encoding, name) for name in ("codec", "crf", "preset", "pix_fmt", "audio")}
        with (
            open_source(report.input, **vars(cut), **reading) as source,
            self._mask(source.info) as mask,
            ProgressBar("frame", self._progress) as bar,
        ):
            report.tell(source.info.notices)
            batch_size = pipeline.batch_size_for(source.info.height, source.info.width)
            with open_sink(
                report.output,
                like=self._seen(source.info),
                resume=self._resume_key(report.input, stamps),
                overwrite=work.overwrite,
                publish=self._journal.publisher(inputs, stamps),
                **writing,
            ) as sink:
                if self._on_start:
                    self._on_start(report.model, source.info.frames)
                bar.start(source.info.frames)

                def count(frames: int) -> None:
                    bar.advance(frames)
                    if self._on_frames:
                        self._on_frames(frames)

                if sink.resumed:
                    count(sink.resumed)
                frames = VideoFrames(source, mask, watch, originals=self._options.look.side_by_side)
                into = VideoResult(sink, report, watch, count)
                pipeline.run(frames, into, watch, batch_size=batch_size, first=sink.resumed)
                report.tell(frames.notices)
            report.tell(sink.notices)
            damage = source.damage + sink.damage
            report.bad_sound, report.changed = damage.bad_sound, damage.changed
            report.frames, report.resumed, report.streams = sink.frames, sink.resumed, sink.streams
            report.filled, report.bad_packets, report.missing = damage.filled, damage.bad_packets, damage.missing
            asked = {"batch_size": batch_size, "mask": _text(self._options.look.mask)}
            report.settings = pipeline.settings() | asked | dict(sink.settings)

    def _is_done(self, report: VideoReport) -> bool:
        """Whether the output is current.

        Raises:
            MediaError: there is a file that cgpipe did not make.
        """
        if not _is_file_name(report.output):
            return False
        inputs, output = _files(report.input), Path(report.output)
        standing = self._journal.standing(output, inputs)
        if standing is Standing.FOREIGN and not output.is_dir():  # of which the sink speaks
            raise MediaError(foreign_reason(output))
        if standing is Standing.EARLY:
            report.tell([f"{output} is from before cgpipe kept journals: it is taken as current"])
        return bool(inputs) and standing in (Standing.CURRENT, Standing.EARLY)

    def _resume_key(self, input: str, stamps: tuple[Stamp, ...]) -> str:
        """Names all that decides the pictures, for those of an interrupted run."""
        return json.dumps(
            [
                os.path.basename(input),
                stamps,
                self._options.fingerprint(self._chosen.deciding, pictures_only=True),
            ]
        )

    def _mask(self, info: VideoInfo) -> AbstractContextManager[VideoMask | None]:
        if self._options.look.mask is None:
            return nullcontext()
        from cgpipe.media.video.masks import VideoMask

        return VideoMask(self._options.look.mask, info, **vars(self._options.cut))

    def _seen(self, info: VideoInfo) -> VideoInfo:
        return replace(info, width=2 * info.width) if self._options.look.side_by_side else info

    def _looks_made(self, source: Path, output: Path) -> bool:
        """Whether a video that no journal knows may be a translation: of the right size, and no copy."""
        from cgpipe.media.video.opening import open_source

        try:
            with open_source(source) as read, open_source(output) as written:
                wanted, there = self._seen(read.info), written.info
            alike = (there.width, there.height) == (wanted.width, wanted.height)
            return alike and not filecmp.cmp(source, output, shallow=False)
        except Exception:  # whatever a damaged file makes libav raise
            return False


def _files(input: str) -> tuple[Path, ...]:
    """The input, where it is a file, which can be told to be unchanged."""
    return (Path(input),) if os.path.isfile(input) else ()


def _is_file_name(output: str) -> bool:
    from cgpipe.media.video.pipes import is_pipe
    from cgpipe.media.video.sequences import names_sequence

    return output != STANDARD and not is_pipe(output) and not names_sequence(output)


def _text(path: PathLike | None) -> str | None:
    return None if path is None else os.fspath(path)
