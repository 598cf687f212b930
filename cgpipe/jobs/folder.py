"""Translates pictures: folders, files and patterns."""

from __future__ import annotations

import filecmp
import multiprocessing
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgpipe.errors import CgpipeWarning, MediaError, reason_of
from cgpipe.jobs.journal import Journal, Standing, foreign_reason, stamps_of
from cgpipe.jobs.plan import Left, Plan, plan_files
from cgpipe.jobs.report import FileResult, FolderReport, Status
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.media.pictures.formats import kind_of_file, picture_format
from cgpipe.models.choose import Chosen, choose_model
from cgpipe.notebook import ProgressBar
from cgpipe.options import Options, takes_options
from cgpipe.storage import PathLike, Publish, Stamp, remove_stale

if TYPE_CHECKING:
    from cgpipe.jobs.pipeline import Pipeline
    from cgpipe.media.pictures.masks import PictureMasks
    from cgpipe.media.pictures.sink import Written
    from cgpipe.media.pictures.source import PictureOrigin

OnStart = Callable[[str, int], None]
OnResult = Callable[[FileResult], None]


@takes_options("pictures")
def translate_folder(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike | None = None,
    *,
    options: Options,
    progress: bool | None = None,
    on_start: OnStart | None = None,
    on_result: OnResult | None = None,
) -> FolderReport:
    """Translates every picture of some folders, files or patterns; one that fails never stops the others.

    Sizes, names, sub-folders, formats, orientation, transparency, profiles and 16 bits are kept. A picture whose
    translation is there and current is skipped, and a file that cgpipe did not make is never replaced. Every file
    appears whole or not at all.

    Args:
        inputs: a folder, a file, a pattern such as ``photos/**/*.jpg``, or several of them.
        output: the folder to write, or a file for one input; by default ``<folder>-<domain>`` beside the input.
        progress: show a progress bar; by default in a notebook alone.
        on_start: told the model in words and the number of pictures, when the work begins.
        on_result: told what became of each file.

    All else is an option of one of the groups in :mod:`cgpipe.options`: a field as a keyword (``to="zebra"``,
    ``strength=0.5``, ``workers=0``), or a whole group (``look=Look(strength=0.5)``). ``workers`` are processes that
    decode, by default one for every four processors where processes fork, else 0: elsewhere a script that does not
    guard its main module could not start them. A picture that ``mask`` holds no mask for fails.

    Raises:
        UsageError: an option cannot be used, an input or the mask is missing, or two inputs would write the same file;
            nothing has been written.
        MediaError: the one mask for all cannot be read.
        ModelError: the model cannot be found or read.
    """
    job = FolderJob(choose_model(options.choice), options, Stopwatch())
    return job.run(inputs, output, progress=progress, on_start=on_start, on_result=on_result)


class FolderJob:
    """A model and options for one lot of pictures after another; the model is loaded when the first needs it.

    Args:
        watch: runs since before the model was chosen; of the first lot alone.
        pipeline: the model, where it is loaded already.
    """

    def __init__(
        self, chosen: Chosen, options: Options, watch: Stopwatch | None = None, pipeline: Pipeline | None = None
    ) -> None:
        self._chosen = chosen
        self._options = options
        self._watch = watch
        self._pipeline = pipeline
        self._masks = _masks(options)
        self._fingerprint = _fingerprint(chosen, options)

    def run(
        self,
        inputs: PathLike | Sequence[PathLike],
        output: PathLike | None = None,
        *,
        only: Collection[str] | None = None,
        progress: bool | None = None,
        on_start: OnStart | None = None,
        on_result: OnResult | None = None,
    ) -> FolderReport:
        """Translates one lot; see :func:`translate_folder`.

        Args:
            only: of what the inputs name, the files to take; None: all.
        """
        watch, self._watch = self._watch or Stopwatch(), None
        work = self._options.work
        plan = self._plan([inputs] if isinstance(inputs, str | os.PathLike) else list(inputs), output)
        with (
            Journal(
                self._fingerprint, looks_made=looks_made, overwrite=work.overwrite, checksum=work.checksum
            ) as journal,
            ProgressBar("picture", progress) as bar,
        ):
            lot = _Lot(self._chosen, self._options, plan, self._masks, journal, bar, on_result)
            watch.reached("find")
            bar.start(plan.count)
            if on_start:
                on_start(str(self._chosen), plan.count)
            lot.sort_out(only)
            if any(lot.open):
                lot.translate(self.pipeline(watch), watch)
        lot.report.first = watch.first
        lot.report.seconds |= watch.seconds | {"total": watch.total}
        return lot.report

    def pipeline(self, watch: Stopwatch) -> Pipeline:
        """The model, loaded."""
        if self._pipeline is None:
            from cgpipe.jobs.pipeline import Pipeline

            self._pipeline = Pipeline(self._chosen, self._options, watch)
        return self._pipeline

    def _plan(self, inputs: Sequence[PathLike], output: PathLike | None) -> Plan:
        return plan_files(
            inputs,
            output,
            domain=self._chosen.domain,
            format=self._options.encoding.format,
            recursive=self._options.work.recursive,
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


class _Lot:
    """The pictures of a plan, each of which gets one result.

    Attributes:
        open: for each picture, 1 while there is work to do.
    """

    def __init__(
        self,
        chosen: Chosen,
        options: Options,
        plan: Plan,
        masks: PictureMasks | None,
        journal: Journal,
        bar: ProgressBar,
        on_result: OnResult | None,
    ) -> None:
        self.report = FolderReport(model=str(chosen), outputs=plan.roots, settings=_asked(options))
        self.report.ignored, self.report.earlier = plan.left[Left.NO_PICTURE], plan.left[Left.EARLIER]
        self.open = bytearray(plan.count)
        self._chosen = chosen
        self._options = options
        self._plan = plan
        self._masks = masks
        self._journal = journal
        self._bar = bar
        self._on_result = on_result

    def sort_out(self, only: Collection[str] | None = None) -> None:
        """Gives a result to every picture that needs no work, or must not be written; sweeps the output folders.

        Args:
            only: the inputs to look at; None: all.
        """
        early, last = 0, None
        for index, (input, output, place) in enumerate(self._plan.names()):
            if only is not None and input not in only:
                continue
            folder = os.path.dirname(output)
            if folder != last:
                last = folder
                remove_stale(folder or ".")
            problem = self._plan.problem(output)
            standing = Standing.OPEN if problem else self._standing(input, output, place)
            early += standing is Standing.EARLY
            if problem or standing is Standing.FOREIGN:
                self._tell(Path(input), Path(output), "failed", reason=problem or foreign_reason(output))
            elif standing is Standing.OPEN:
                self.open[index] = 1
            else:
                self._tell(Path(input), Path(output), "skipped")
        if early:
            warnings.warn(
                f"{early} results are there from before cgpipe kept journals: they are taken as current, whatever they "
                "were made with. --overwrite translates them again.",
                CgpipeWarning,
                stacklevel=5,
            )

    def translate(self, pipeline: Pipeline, watch: Stopwatch) -> None:
        """Does the work."""
        from cgpipe.media.pictures.read import is_animation
        from cgpipe.media.pictures.sink import PictureSink
        from cgpipe.media.pictures.source import PictureSource

        # Nothing is known yet of the pictures' sizes: the one that the generator knows stands for them.
        side = pipeline.translator.model.card.training_size or 256
        batch_size = pipeline.batch_size_for(side, side)
        workers = min(_workers(self._options.work.workers, pipeline.translator.device.type), sum(self.open))

        moving: list[PictureOrigin] = []

        def finish(written: Written) -> None:
            if written.reason and is_animation(written.origin.inputs[0]):
                moving.append(written.origin)
                return
            if not written.reason:
                watch.reached("encode")
            self._finish(written)

        encoding = self._options.encoding
        with PictureSink(finish, self._publisher, format=encoding.format, quality=encoding.quality) as sink:
            source = PictureSource(self._tasks, self._masks)
            pipeline.run(source, sink, watch, batch_size=batch_size, workers=workers)
        for origin in moving:
            self._finish(self._animated(pipeline, origin, watch))
        self.report.settings = (
            pipeline.settings() | {"batch_size": batch_size, "workers": workers} | _asked(self._options)
        )
        self._account_for_all()

    def _standing(self, input: str, output: str, place: str) -> Standing:
        try:
            return self._journal.standing(output, self._inputs(input, place))
        except MediaError:  # no mask, which the reader says
            return Standing.OPEN

    def _inputs(self, input: str, place: str) -> tuple[str, ...]:
        """What goes into a translation: the picture, and its own mask."""
        if self._masks is None or not self._masks.path.is_dir():
            return (input,)
        return input, str(self._masks.path_of(Path(place)))

    def _tasks(self) -> Iterator[PictureOrigin]:
        from cgpipe.media.pictures.source import PictureOrigin

        for index, (input, output, place) in enumerate(self._plan.names()):
            if self.open[index]:
                inputs: tuple[str, ...] = (input,)
                stamps: tuple[Stamp, ...] = ()
                with suppress(MediaError, OSError):  # which the reader says
                    inputs = self._inputs(input, place)
                    stamps = stamps_of(inputs)
                yield PictureOrigin(
                    index=index,
                    inputs=tuple(map(Path, inputs)),
                    stamps=stamps,
                    output=Path(output),
                    place=Path(place),
                )

    def _animated(self, pipeline: Pipeline, origin: PictureOrigin, watch: Stopwatch) -> Written:
        """What became of a picture that moves; whatever it raises is its failure."""
        from cgpipe.jobs.animations import translate_animation
        from cgpipe.media.pictures.sink import Written

        mask = None if self._masks is None else self._masks.path
        try:
            if mask is not None and self._masks is not None and mask.is_dir():
                mask = self._masks.path_of(origin.place)
            height, width = translate_animation(
                pipeline, origin.inputs[0], origin.output, mask=mask, publish=self._publisher(origin), watch=watch
            )
        except Exception as error:
            return Written(origin=origin, reason=reason_of(error))
        return Written(origin=origin, height=height, width=width)

    def _publisher(self, origin: PictureOrigin) -> Publish:
        return self._journal.publisher(origin.inputs, origin.stamps)

    def _finish(self, written: Written) -> None:
        origin = written.origin
        self.open[origin.index] = 0
        self._tell(
            origin.inputs[0],
            origin.output,
            _status(written),
            reason=written.reason,
            width=written.width,
            height=written.height,
            decode_seconds=origin.decode_seconds,
            encode_seconds=written.encode_seconds,
            notes=() if written.reason or origin.extras is None else origin.extras.notes,
        )

    def _account_for_all(self) -> None:
        """Names the pictures that got lost on the way: none vanishes without a word."""
        if any(self.open):
            for index, (input, output, _) in enumerate(self._plan.names()):
                if self.open[index]:
                    reason = "it was lost on its way through the job; run it again"
                    self._tell(Path(input), Path(output), "failed", reason=reason)

    def _tell(self, input: Path, output: Path, status: Status, **more: Any) -> None:
        result = FileResult(input=input, output=output, status=status, **more)
        self.report.add(result)
        self._bar.advance()
        if self._on_result:
            self._on_result(result)


def _status(written: Written) -> Status:
    if not written.reason:
        return "translated"
    kind = kind_of_file(written.origin.inputs[0])
    return "unsupported" if kind and kind.advice else "failed"


def _asked(options: Options) -> dict[str, Any]:
    mask = options.look.mask
    return {
        "size": options.look.size,
        "strength": options.look.strength,
        "mask": None if mask is None else os.fspath(mask),
    }


def _workers(asked: int | None, device: str) -> int:
    """Processes that decode: beside a GPU the processor has little else to do."""
    if asked is not None:
        return asked
    share = 4 if device == "cpu" else 2
    return (os.cpu_count() or 1) // share if multiprocessing.get_start_method() == "fork" else 0


def looks_made(source: Path, output: Path) -> bool:
    """Whether a picture that no journal knows may be a translation: of the right format and size, and no copy."""
    from PIL import Image

    try:
        with Image.open(source) as read, Image.open(output) as written:
            alike = sorted(read.size) == sorted(written.size)  # upright, or as it was
            known = {"MPO": "JPEG"}.get(str(written.format), written.format) == picture_format(output)
        return alike and known and not filecmp.cmp(source, output, shallow=False)
    except Exception:  # a damaged file makes decoders raise nearly anything
        return False
