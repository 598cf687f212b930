"""One lot of pictures after another with one model: what is current is skipped, all else goes through the pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cgpipe.jobs.early import picture_looks_made
from cgpipe.jobs.gallery import folder_page
from cgpipe.jobs.journal import Journal
from cgpipe.jobs.plan import Left, Names, Plan, plan_files
from cgpipe.jobs.report import FileResult, FolderReport
from cgpipe.jobs.shards import ShardReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.worklist import Worklist
from cgpipe.models.choose import Chosen
from cgpipe.notebook import ProgressBar
from cgpipe.options import Options
from cgpipe.storage import PathLike

if TYPE_CHECKING:
    from cgpipe.jobs.pipeline import Pipeline
    from cgpipe.media.pictures.masks import PictureMasks

OnStart = Callable[[str, int], None]
OnResult = Callable[[FileResult], None]


class FolderJob:
    """A model and options for one lot of pictures after another; the model is loaded when the first needs it.

    Args:
        watch: runs since before the model was chosen; of the first lot alone.
        pipeline: the model, where it is loaded already.

    Attributes:
        fingerprint: of all that decides a result.
    """

    def __init__(
        self, chosen: Chosen, options: Options, watch: Stopwatch | None = None, pipeline: Pipeline | None = None
    ) -> None:
        self._chosen = chosen
        self._options = options
        self._watch = watch
        self._pipeline = pipeline
        self._masks = _masks(options)
        self.fingerprint = _fingerprint(chosen, options)

    def run(
        self,
        inputs: PathLike | Sequence[PathLike],
        output: PathLike | None = None,
        *,
        only: Collection[str] | None = None,
        gallery: bool | PathLike = False,
        progress: bool | None = None,
        on_start: OnStart | None = None,
        on_result: OnResult | None = None,
    ) -> FolderReport:
        """Translates one lot; see :func:`cgpipe.translate_folder`.

        Args:
            only: of what the inputs name, the files to take; None: all.
        """
        watch, self._watch = self._watch or Stopwatch(), None
        plan = self._plan([inputs] if isinstance(inputs, str | os.PathLike) else list(inputs), output)
        report = FolderReport(model=str(self._chosen), outputs=plan.roots, settings=_asked(self._options))
        report.ignored, report.earlier = plan.left[Left.NO_PICTURE], plan.left[Left.EARLIER]
        with (
            self.open_journal() as journal,
            ProgressBar("picture", progress) as bar,
            folder_page(gallery, report, plan.count, self._options.work.part) as show,
        ):

            def tell(result: FileResult) -> None:
                report.add(result)
                bar.advance()
                show(result)
                if on_result:
                    on_result(result)

            worklist = Worklist(plan, journal, self._masks, only)
            watch.reached("find")
            bar.start(plan.count)
            if on_start:
                on_start(report.model, plan.count)
            for settled in worklist.sort_out():
                tell(settled)
            if worklist:
                report.settings = self._translate(worklist, tell, watch)
            for lost in worklist.lost():
                tell(lost)
            report.first = watch.first
            report.seconds |= watch.seconds | {"total": watch.total}
        if shard := self._options.work.part:
            ShardReport.of_pictures(report, shard, self.fingerprint).leave(plan.folders)
        return report

    def pipeline(self, watch: Stopwatch) -> Pipeline:
        """The model, loaded."""
        if self._pipeline is None:
            from cgpipe.jobs.pipeline import Pipeline

            self._pipeline = Pipeline(self._chosen, self._options, watch)
        return self._pipeline

    def run_listed(
        self,
        every: Iterable[Names],
        journal: Journal,
        tell: Callable[[FileResult], None],
        watch: Stopwatch,
        *,
        again: bool,
    ) -> dict[str, object]:
        """Translates what the plan of another process found open; gives what was chosen for the work.

        Args:
            again: some of it may be done since.
        """
        worklist = Worklist(Plan.of(every), journal, self._masks)
        if again:
            journal.forget()
            for settled in worklist.sort_out():
                tell(settled)
        else:
            worklist.open_all()
        return self._translate(worklist, tell, watch) if worklist else {}

    def _translate(self, worklist: Worklist, tell: Callable[[FileResult], None], watch: Stopwatch) -> dict[str, object]:
        if self._options.work.ray is not None:
            from cgpipe.jobs.cluster_jobs import translate_pictures_on_cluster

            chosen = translate_pictures_on_cluster(self._options, self.fingerprint, worklist, tell, watch)
        else:
            from cgpipe.jobs.pictures import translate_pictures

            chosen = translate_pictures(self.pipeline(watch), self._options, worklist, tell, watch)
        return chosen | _asked(self._options)

    def _plan(self, inputs: Sequence[PathLike], output: PathLike | None) -> Plan:
        return plan_files(
            inputs,
            output,
            domain=self._chosen.domain,
            format=self._options.encoding.format,
            recursive=self._options.work.recursive,
            shard=self._options.work.part,
        )

    def open_journal(self) -> Journal:
        """What knows which results are current."""
        work = self._options.work
        return Journal(
            self.fingerprint, looks_made=picture_looks_made, overwrite=work.overwrite, checksum=work.checksum
        )


def _masks(options: Options) -> PictureMasks | None:
    if options.look.mask is None:
        return None
    from cgpipe.media.pictures.masks import PictureMasks

    return PictureMasks(options.look.mask)


def _fingerprint(chosen: Chosen, options: Options) -> str:
    """Of all that was asked for; a folder's masks are inputs of their pictures."""
    if options.look.mask is not None and Path(options.look.mask).is_dir():
        options = replace(options, look=replace(options.look, mask=None))
    return options.fingerprint(chosen.deciding)


def _asked(options: Options) -> dict[str, object]:
    mask = options.look.mask
    return {
        "size": options.look.size,
        "strength": options.look.strength,
        "mask": None if mask is None else os.fspath(mask),
    }
