"""Translates the pictures of a folder job through the pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

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
    encoding, model = options.encoding, pipeline.translator.model
    _require_maskable(model, worklist)
    takes, gray = model.generator.channels[0], model.card.channels[1] == 1
    batch_size = _batch_size(pipeline)
    workers = _workers(options.work.workers, pipeline.translator.device.type, len(worklist))
    moving: list[PictureOrigin] = []
    large: list[PictureOrigin] = []

    def finish(written: Written) -> None:
        worklist.close(written.origin.index)
        tell(_result(written))

    def written_or_put_off(written: Written) -> None:
        if written.reason and _is(is_animation, written.origin):
            moving.append(written.origin)
            return
        if written.reason and _is(is_huge, written.origin):
            large.append(written.origin)
            return
        if not written.reason:
            watch.reached("encode")
        finish(written)

    codec = _codec(pipeline, worklist)
    source = PictureSource(worklist.origins, worklist.masks, channels=takes, jpegs=codec is not None)
    progress = Progress(tell_part)
    with PictureSink(
        written_or_put_off,
        worklist.publisher,
        format=encoding.format,
        quality=encoding.quality,
        gray=gray,
        writers=max(WRITERS, worklist.parallel),
        progress=progress,
        processes=_writing_processes(codec, worklist),
    ) as sink:
        jpegs = None
        if codec is not None:
            jpegs = JpegStages(codec, source.decode, sink.takes_jpeg, sink.jpeg_quality, sink.write_jpegs)
        pipeline.run(source, sink, watch, batch_size=batch_size, workers=workers, progress=progress, jpegs=jpegs)
    for origin in large:  # one after the other, each in this process
        one = PictureSource(partial(list, [origin]), worklist.masks, channels=takes, by_lines=progress)
        with PictureSink(
            finish, worklist.publisher, format=encoding.format, quality=encoding.quality, gray=gray, progress=progress
        ) as sink:
            pipeline.run(one, sink, watch, batch_size=1, progress=progress)
    for origin in moving:
        from cgpipe.jobs.animations import translate_animation  # with it comes all that videos need

        finish(translate_animation(pipeline, options, origin, worklist, watch))
    return pipeline.settings() | {"batch_size": batch_size, "workers": workers}


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
