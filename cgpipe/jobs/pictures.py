"""Translates the pictures of a folder job through the pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cgpipe.engine.jpegs import Codec, JpegStages, find_codec
from cgpipe.errors import UsageError
from cgpipe.jobs.pipeline import Pipeline
from cgpipe.jobs.report import FileResult, Status
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.worklist import Worklist
from cgpipe.media.pictures.formats import kind_of_file
from cgpipe.media.pictures.huge import is_huge
from cgpipe.media.pictures.read import is_animation
from cgpipe.media.pictures.sink import WRITERS, PictureSink, Written
from cgpipe.media.pictures.source import PictureOrigin, PictureSource
from cgpipe.media.pictures.writers import can_fork
from cgpipe.media.progress import Progress
from cgpipe.models import Model
from cgpipe.options import Options
from cgpipe.storage import fetched

FEW_TO_READ = 4
"""Pictures that are read before processes could begin: these fork when what a GPU needs is loaded."""
EACH_WRITES = 64
"""Least pictures for each process that writes."""


def translate_pictures(
    pipeline: Pipeline,
    options: Options,
    worklist: Worklist,
    tell: Callable[[FileResult], None],
    watch: Stopwatch,
    tell_part: Callable[[float], None] | None = None,
) -> dict[str, object]:
    """Translates the open pictures of a worklist, and closes each with a result.

    Args:
        tell: called with each result.
        tell_part: called with the fraction, 0 to 1, of a slow result, from any thread.

    Returns:
        The chosen settings, for a report.
    """
    _require_maskable(pipeline.translator.model, worklist)
    batch_size = _batch_size(pipeline)
    workers = _workers(options.work.workers, pipeline.translator.device.type, len(worklist))
    job = _Job(pipeline, options, worklist, tell, watch, Progress(tell_part))
    job.translate_all(batch_size, workers)
    for origin in job.large:
        job.translate_by_lines(origin)
    for origin in job.moving:
        job.translate_animation(origin)
    return pipeline.settings() | {"batch_size": batch_size, "workers": workers}


@dataclass(frozen=True, slots=True)
class _Job:
    """The pictures of a worklist: most in one stream, those that it cannot do one by one after it.

    Attributes:
        large: pictures that do not fit in memory.
        moving: animations.
    """

    pipeline: Pipeline
    options: Options
    worklist: Worklist
    tell: Callable[[FileResult], None]
    watch: Stopwatch
    progress: Progress
    large: list[PictureOrigin] = field(default_factory=list)
    moving: list[PictureOrigin] = field(default_factory=list)

    def translate_all(self, batch_size: int, workers: int) -> None:
        """Translates all open pictures in batches, decoded and written in parallel; puts off those of another kind."""
        codec = _codec(self.pipeline, self.worklist)
        source = self._source(self.worklist.origins, jpegs=codec is not None)
        sink = self._sink(
            self._finish_or_put_off,
            writers=max(WRITERS, self.worklist.parallel),
            processes=_writing_processes(codec, self.worklist),
        )
        with sink:
            jpegs = None
            if codec is not None:
                jpegs = JpegStages(codec, source.decode, sink.takes_jpeg, sink.jpeg_quality, sink.write_jpegs)
            self._run(source, sink, batch_size=batch_size, workers=workers, jpegs=jpegs)

    def translate_by_lines(self, origin: PictureOrigin) -> None:
        """Translates a picture that does not fit in memory, in this process."""
        with self._sink(self._finish) as sink:
            self._run(self._source(partial(list, [origin]), by_lines=self.progress), sink, batch_size=1)

    def translate_animation(self, origin: PictureOrigin) -> None:
        """Translates an animation as a clip."""
        from cgpipe.jobs.animations import translate_animation  # with it comes all that videos need

        self._finish(translate_animation(self.pipeline, self.options, origin, self.worklist, self.watch))

    def _finish(self, written: Written) -> None:
        self.worklist.close(written.origin.index)
        self.tell(_result(written))

    def _finish_or_put_off(self, written: Written) -> None:
        if written.reason and _is(is_animation, written.origin):
            self.moving.append(written.origin)
        elif written.reason and _is(is_huge, written.origin):
            self.large.append(written.origin)
        else:
            if not written.reason:
                self.watch.reached("encode")
            self._finish(written)

    def _source(self, origins: Callable[[], Iterable[PictureOrigin]], **kind: Any) -> PictureSource:
        channels = self.pipeline.translator.model.generator.channels[0]
        return PictureSource(origins, self.worklist.masks, channels=channels, **kind)

    def _sink(self, tell: Callable[[Written], None], **parallel: int) -> PictureSink:
        return PictureSink(
            tell,
            self.worklist.publisher,
            format=self.options.encoding.format,
            quality=self.options.encoding.quality,
            gray=self.pipeline.translator.model.card.channels[1] == 1,
            progress=self.progress,
            **parallel,
        )

    def _run(self, source: PictureSource, sink: PictureSink, **way: Any) -> None:
        self.pipeline.run(source, sink, self.watch, progress=self.progress, **way)


def _require_maskable(model: Model, worklist: Worklist) -> None:
    taken, given = model.generator.channels
    if taken != given and worklist.masks is not None:
        raise UsageError(f"This model makes {given} channels of {taken}, which a mask cannot blend: omit the mask.")


def _codec(pipeline: Pipeline, worklist: Worklist) -> Codec | None:
    """What decodes and encodes JPEGs on the device that translates RGB pictures without masks."""
    translator = pipeline.translator
    if translator.takes != 3 or translator.replicas or worklist.masks is not None:
        return None
    return find_codec(translator.device, len(worklist))


def _writing_processes(codec: Codec | None, worklist: Worklist) -> int:
    """Number of processes that write what a codec encoded to this machine: none for a few."""
    if codec is None or worklist.parallel or not can_fork():
        return 0
    return min(WRITERS, len(worklist) // EACH_WRITES)


def _batch_size(pipeline: Pipeline) -> int:
    """The batch size for the generator's training size, since the pictures' sizes are not known yet."""
    side = pipeline.translator.model.card.training_size or 256
    return pipeline.batch_size_for(side, side)


def _result(written: Written) -> FileResult:
    origin = written.origin
    return FileResult(
        input=origin.inputs[0],
        output=origin.output,
        status=_status(written),
        reason=written.reason,
        width=written.width,
        height=written.height,
        decode_seconds=origin.decode_seconds,
        encode_seconds=written.encode_seconds,
        notes=() if written.reason or origin.extras is None else origin.extras.notes,
    )


def _status(written: Written) -> Status:
    if not written.reason:
        return "translated"
    with suppress(OSError), fetched(written.origin.inputs[0]) as here:
        kind = kind_of_file(here)
        return "unsupported" if kind and kind.advice else "failed"
    return "failed"


def _is(kind: Callable[[Path], bool], origin: PictureOrigin) -> bool:
    with suppress(OSError), fetched(origin.inputs[0]) as here:
        return kind(here)
    return False


def _workers(asked: int | None, device: str, pictures: int) -> int:
    """Number of decoding processes: more with a GPU, since the processor has little else to do, but none for a few."""
    if asked is not None:
        return min(asked, pictures)
    if not can_fork() or (device != "cpu" and pictures <= FEW_TO_READ):
        return 0
    return min((os.cpu_count() or 1) // (4 if device == "cpu" else 2), pictures)
