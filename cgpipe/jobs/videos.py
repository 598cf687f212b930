"""Several videos in one job: one that fails never stops the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from cgpipe.errors import MissingDependencyError, ModelError, UsageError, reason_of
from cgpipe.jobs.gallery import clip_page
from cgpipe.jobs.learning import frames_of, with_look
from cgpipe.jobs.plan import with_located_mask
from cgpipe.jobs.report import VideoReport, write_report
from cgpipe.jobs.shards import ShardReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.video_job import Told, VideoJob
from cgpipe.jobs.video_plan import output_place, plan_videos
from cgpipe.models.choose import Chosen, choose_model
from cgpipe.notebook import html_table
from cgpipe.options import Options, takes_options
from cgpipe.storage import PathLike, shown

FATAL = (MissingDependencyError, ModelError)
"""Errors that are not a video's fault: all others would fail too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFailure:
    """A video that failed, and why."""

    input: str
    reason: str


@dataclass(kw_only=True)
class VideosReport:
    """The result of :func:`translate_videos`: the reports of translated videos, and the failures."""

    videos: list[VideoReport] = field(default_factory=list)
    failures: list[VideoFailure] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: all well; 1: nothing could be done; 3: something failed or was damaged."""
        if self.failures:
            return 3 if self.videos else 1
        return max((video.exit_code for video in self.videos), default=0)

    def _repr_html_(self) -> str:
        failed = html_table("Failed", [(failure.input, failure.reason) for failure in self.failures])
        return "".join(video._repr_html_() for video in self.videos) + (failed if self.failures else "")

    def write(self, path: Path) -> None:
        """The report as a JSON file.

        Raises:
            CgpipeError: the file cannot be written.
        """
        write_report(
            path,
            {
                "videos": [video.to_json() for video in self.videos],
                "failures": [asdict(failure) for failure in self.failures],
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VideosTold(Told):
    """Who hears of a job of several videos, as :func:`translate_videos` has it."""

    on_failure: Callable[[str], None] | None = None


@takes_options("video", told=VideosTold)
def translate_videos(
    inputs: Sequence[PathLike],
    output: PathLike | None = None,
    *,
    options: Options,
    told: VideosTold,
    gallery: bool = False,
) -> VideosReport:
    """Translates one or several videos with one model; one that fails never stops the others.

    Args:
        inputs: files, patterns, and folders (with all videos below them), or the other inputs of
            :func:`cgpipe.translate_video`; without ``output``, the second of two is the first one's output, and a
            single one goes to ``<name>-<domain>`` beside it.
        output: a folder, where each result has the name of its input; or a file for one input.
        gallery: write a page beside each result, ``<output>.html``.
        progress, on_start, on_frames: see :func:`cgpipe.translate_video`, also for all other options.
        on_picture: as there; not called for frames that a cluster translates.
        on_failure: called with a line about each video that failed.
        on_learn: called for every training step of a look (``like``).

    Raises:
        UsageError: an input is missing, or two would write the same file; nothing has been written.
        ModelError: the model cannot be found or read.
        CgpipeError: the only input failed.
    """
    watch, options = Stopwatch(), with_located_mask(options)
    chosen = choose_model(options.choice)
    pairs = plan_videos([os.fspath(path) for path in inputs], output, chosen.domain)
    clips = [one for one, _ in pairs]
    alone, shard, report = len(pairs) == 1, options.work.part, VideosReport()
    folder = os.path.dirname(pairs[0][1]) if output is None or alone else output_place(output)
    if shard:
        pairs = [pair for pair in pairs if shard.holds(os.path.relpath(pair[1], folder))]
    if chosen.is_missing:
        chosen = with_look(chosen, options, frames_of(clips, options), told.on_learn, told.progress)
    for (one, target), result in _results(pairs, chosen, options, watch, told, gallery):
        if isinstance(result, VideoReport):
            report.videos.append(replace(result, input=shown(one), output=shown(target)))
            continue
        if alone or isinstance(result, FATAL):
            raise result
        reason = reason_of(result)
        if isinstance(result, UsageError):  # of an option, which does not suit this video
            reason = f"{shown(one)}: {reason}"
        report.failures.append(VideoFailure(input=shown(one), reason=reason))
        if told.on_failure:
            told.on_failure(f"Failed: {reason}")
    if shard:
        job_name = options.fingerprint(chosen.deciding)
        ShardReport.of_videos(report, shard, job_name, str(chosen), watch.total).leave([folder])
    return report


Pair = tuple[str, str]


def _results(
    pairs: Sequence[Pair],
    chosen: Chosen,
    options: Options,
    watch: Stopwatch,
    told: Told,
    gallery: bool,
) -> Iterator[tuple[Pair, VideoReport | Exception]]:
    """The result of each pair: its report, or its exception."""
    if options.work.ray is not None:
        from cgpipe.jobs.cluster_jobs import translate_videos_on_cluster

        if told.on_start:
            told.on_start(str(chosen), None)
        for index, result in translate_videos_on_cluster(options, options.fingerprint(chosen.deciding), pairs):
            if told.on_frames and isinstance(result, VideoReport):
                told.on_frames(result.frames)
            if isinstance(result, VideoReport):
                result.page = clip_page(gallery, result, options)
            yield pairs[index], result
        return
    with VideoJob(chosen, options, watch, told, gallery) as job:
        for pair in pairs:
            try:
                yield pair, job.run(*pair)
            except Exception as error:
                yield pair, error
