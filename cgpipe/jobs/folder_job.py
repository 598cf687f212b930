"""Translates sets of pictures with one model: current outputs are skipped, all others go through the pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cgpipe.jobs.gallery import folder_page
from cgpipe.jobs.learning import OnLearn
from cgpipe.jobs.picture_work import PictureWork
from cgpipe.jobs.plan import Left, Plan, plan_files
from cgpipe.jobs.report import FileResult, FolderReport
from cgpipe.jobs.shards import ShardReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.models.choose import Chosen
from cgpipe.notebook import ProgressBar
from cgpipe.options import Options
from cgpipe.storage import PathLike

if TYPE_CHECKING:
    from cgpipe.jobs.pipeline import Pipeline

OnStart = Callable[[str, int | None], None]
OnResult = Callable[[FileResult], None]
OnPart = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderTold:
    """The callbacks of a job; see :func:`cgpipe.translate_folder`."""

    on_start: OnStart | None = None
    on_result: OnResult | None = None
    on_part: OnPart | None = None
    on_learn: OnLearn | None = None
    progress: bool | None = None


class FolderJob:
    """A model and options for any number of sets of pictures; the model is loaded when it is first needed.

    Args:
        watch: started before the model was chosen; counts for the first set.
        pipeline: the model, if it is already loaded.
    """

    def __init__(
        self, chosen: Chosen, options: Options, watch: Stopwatch | None = None, pipeline: Pipeline | None = None
    ) -> None:
        self._chosen = chosen
        self._options = options
        self._watch = watch
        self._work = PictureWork(chosen, options, pipeline)

    def run(
        self,
        inputs: PathLike | Sequence[PathLike],
        output: PathLike | None = None,
        *,
        only: Collection[str] | None = None,
        gallery: bool | PathLike = False,
        told: FolderTold = FolderTold(),
    ) -> FolderReport:
        """Translates one set; see :func:`cgpipe.translate_folder`.

        Args:
            only: the files to translate among the inputs; None: all. Two files that would become one stop none of the
                others then.
        """
        watch, self._watch = self._watch or Stopwatch(), None
        given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
        plan = self._plan(given, output, strict=only is None)
        report = FolderReport(model=str(self._chosen), outputs=plan.roots, settings=self._work.asked())
        report.ignore(plan)
        report.earlier = plan.left[Left.EARLIER]
        with (
            ProgressBar("picture", told.progress) as bar,
            folder_page(gallery, report, plan.count, self._options.work.part) as show,
        ):

            def tell(result: FileResult) -> None:
                report.add(result)
                bar.advance()
                show(result)
                if told.on_result:
                    told.on_result(result)

            def tell_part(share: float) -> None:
                bar.part(share)
                if told.on_part:
                    told.on_part(share)

            watch.reached("find")
            bar.start(plan.count)
            if told.on_start:
                told.on_start(report.model, plan.count)
            self._translate(plan, only, report, tell, tell_part, watch)
            report.first = watch.first
            report.seconds |= watch.seconds | {"total": watch.total}
        if shard := self._options.work.part:
            ShardReport.of_pictures(report, shard, self._work.fingerprint).leave(plan.folders)
        return report

    def _plan(self, inputs: Sequence[PathLike], output: PathLike | None, *, strict: bool) -> Plan:
        return plan_files(
            inputs,
            output,
            domain=self._chosen.domain,
            format=self._options.encoding.format,
            recursive=self._options.work.recursive,
            shard=self._options.work.part,
            strict=strict,
        )

    def _translate(
        self,
        plan: Plan,
        only: Collection[str] | None,
        report: FolderReport,
        tell: OnResult,
        tell_part: OnPart,
        watch: Stopwatch,
    ) -> None:
        """Gives every picture of a plan its result."""
        with self._work.open_journal() as journal:
            worklist = self._work.worklist(plan, journal, only)
            for settled in worklist.sort_out():
                tell(settled)
            if worklist:
                report.settings = self._work.translate(worklist, tell, watch, tell_part)
            for lost in worklist.lost():
                tell(lost)
