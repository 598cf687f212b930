"""Translates pictures: folders, files and patterns."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Unpack

import cv2

from cgpipe.engine.loader import load
from cgpipe.engine.prefetch import prefetch
from cgpipe.engine.translator import TranslatorOptions
from cgpipe.errors import MediaError
from cgpipe.jobs.common import domain_of, load_translator, settings_of
from cgpipe.jobs.freshness import Freshness
from cgpipe.jobs.plan import Plan, plan_files
from cgpipe.jobs.report import FileResult, FolderReport
from cgpipe.jobs.startup import StartUp
from cgpipe.media.frames import Batch, Failed, Frame
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.masks import PictureMasks
from cgpipe.media.pictures.read import read_picture
from cgpipe.media.pictures.write import write_picture
from cgpipe.models import find_model
from cgpipe.models.foreign import Direction

PathLike = str | os.PathLike[str]

WRITERS = 2
"""Threads that encode: the codecs let go of Python's lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureOrigin:
    """Who a picture is, where its translation goes, and what must be given back with it."""

    input: Path
    output: Path
    extras: PictureExtras | None = None
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Takes the place of a picture that was translated before and is current."""

    origin: PictureOrigin


def translate_folder(
    inputs: PathLike | Sequence[PathLike],
    output: PathLike | None = None,
    *,
    to: str | None = None,
    source: str | None = None,
    model: PathLike | None = None,
    direction: Direction | None = None,
    batch_statistics: bool = False,
    mask: PathLike | None = None,
    format: str | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    recursive: bool = True,
    batch_size: int | None = None,
    workers: int | None = None,
    ahead: int = 2,
    on_start: Callable[[str, int], None] | None = None,
    on_result: Callable[[FileResult], None] | None = None,
    **options: Unpack[TranslatorOptions],
) -> FolderReport:
    """Translates every picture of some folders, files or patterns; one that fails never stops the others.

    Sizes, names, sub-folders, formats, orientation, transparency, profiles and 16 bits are kept. A picture whose
    translation is there and current is skipped. Every file appears whole or not at all.

    Args:
        inputs: a folder, a file, a pattern such as ``photos/**/*.jpg``, or several of them.
        output: the folder to write; by default ``<folder>-<domain>`` beside the input.
        to, source, model, direction, batch_statistics: which model, as in :meth:`cgpipe.Translator.find`.
        mask: confines the change: a folder with a grey picture of the same name for each, in any picture format, or
            one picture for all. White translates, black keeps the original. A picture without a mask fails.
        format: ``jpg``, ``png``, ``webp``, ``tiff`` or ``bmp``; by default each picture's own.
        quality: of JPEG and WebP, 1 to 100.
        overwrite: translate again what is done.
        recursive: go into sub-folders.
        batch_size: pictures of one size translated together; by default what is fastest, which is tried on a GPU.
        workers: processes that decode; 0 decodes in a thread of this one. By default one for every four processors
            where processes fork, else 0: elsewhere a script that does not guard its main module could not start them.
        ahead: batches that each of them decodes ahead.
        on_start: told the model in words and the number of pictures, when the work begins.
        on_result: told what became of each file.
        options: of :class:`cgpipe.Translator`.

    Raises:
        UsageError: an input or the mask is missing, or two inputs would write the same file; nothing has been written.
        MediaError: the one mask for all cannot be read.
        ModelError: the model cannot be found or read.
    """
    started, start = time.perf_counter(), StartUp()
    found = find_model(to, source=source, file=model)
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    plan = plan_files(given, domain=domain_of(found, to), output=output, format=format, recursive=recursive)
    masks = None if mask is None else PictureMasks(mask)
    plan.remove_stale()
    translator = load_translator(
        found, to=to, source=source, direction=direction, batch_statistics=batch_statistics, start=start, **options
    )
    # Nothing is known yet of the pictures' sizes: the one that the generator knows stands for them.
    side = translator.model.card.training_size or 256
    batch_size = batch_size or translator.batch_size(side, side)
    busy = translator.busy_seconds  # by trying batches
    default_workers = (os.cpu_count() or 1) // 4 if multiprocessing.get_start_method() == "fork" else 0
    workers = min(default_workers if workers is None else workers, plan.count)
    work = {"batch_size": batch_size, "workers": workers, "mask": None if mask is None else os.fspath(mask)}
    report = FolderReport(model=str(found), outputs=plan.roots, settings=work, ignored=plan.ignored)
    deciding = [found.path, format, quality, translator.size, translator.strength, work["mask"]]
    freshness = Freshness(plan.roots, deciding)
    if on_start:
        on_start(report.model, plan.count)
    batches = load(
        partial(_read_share, plan, None if overwrite else freshness, masks),
        batch_size=batch_size,
        workers=workers,
        ahead=ahead,
    )
    translated = prefetch(start.at_first("inference", translator.stream(start.at_first("decode", batches))), ahead)
    with closing(translated), PictureWriter(format, quality) as writer:
        for result in writer.write(translated):
            if result.status == "translated":
                start.reached("encode")
            report.add(result)
            if on_result:
                on_result(result)
    report.first = start.seconds
    report.settings = settings_of(translator) | work
    report.seconds |= {"inference": translator.busy_seconds - busy, "total": time.perf_counter() - started}
    return report


def _read_share(
    plan: Plan, freshness: Freshness | None, masks: PictureMasks | None, worker: int, workers: int
) -> Iterator[Frame | Failed | Done]:
    """One worker's share of the pictures; the folders are walked anew, so that no list is handed over."""
    cv2.setNumThreads(0)  # 1 would wait for threads that a forked worker has not got
    for pair in plan.pairs(worker, workers):
        origin = PictureOrigin(input=pair.input, output=pair.output)
        made_with_mask = masks is None or masks.is_older(pair.place, pair.output)
        if freshness and made_with_mask and freshness.is_current(pair.input, pair.output):
            yield Done(origin=origin)
        else:
            yield _read(origin, masks, pair.place)


def _read(origin: PictureOrigin, masks: PictureMasks | None, place: Path) -> Frame | Failed:
    started = time.perf_counter()
    try:
        frame = read_picture(origin.input)
        if masks:
            frame = masks.confine(frame, place)
    except (MediaError, OSError, MemoryError) as error:
        return Failed(origin=origin, reason=_reason(error))
    seconds = time.perf_counter() - started
    return Frame(
        pixels=frame.pixels,
        origin=PictureOrigin(input=origin.input, output=origin.output, extras=frame.origin, decode_seconds=seconds),
    )


class PictureWriter:
    """Encodes translated pictures in threads, a bounded number at a time, and says what became of each."""

    def __init__(self, format: str | None = None, quality: int | None = None) -> None:
        self.format = format
        self.quality = quality
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="cgpipe-writer")

    def __enter__(self) -> PictureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def write(self, items: Iterator[Batch | Failed | Done]) -> Iterator[FileResult]:
        """Writes every picture; the results come in the order of the pictures."""
        under_way: deque[Future[FileResult]] = deque()
        for item in items:
            for frame in item.frames() if isinstance(item, Batch) else [item]:
                under_way.append(self._threads.submit(self._finish, frame))
            while len(under_way) > 2 * WRITERS:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()

    def _finish(self, item: Frame | Failed | Done) -> FileResult:
        origin: PictureOrigin = item.origin
        if isinstance(item, Done):
            return FileResult(input=origin.input, output=origin.output, status="skipped")
        if isinstance(item, Failed):
            return FileResult(input=origin.input, output=origin.output, status="failed", reason=item.reason)
        started = time.perf_counter()
        height, width = item.pixels.shape[:2]
        reason = ""
        try:
            origin.output.parent.mkdir(parents=True, exist_ok=True)
            write_picture(origin.output, item.pixels, origin.extras, format=self.format, quality=self.quality)
        except (MediaError, OSError) as error:
            reason = _reason(error)
        return FileResult(
            input=origin.input,
            output=origin.output,
            status="failed" if reason else "translated",
            reason=reason,
            width=width,
            height=height,
            decode_seconds=origin.decode_seconds,
            encode_seconds=time.perf_counter() - started,
        )


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
