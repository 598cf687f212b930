"""``like``: trains the look of a job on its own pictures before the job starts, unless the look exists."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from cgpipe.errors import MediaError, UsageError
from cgpipe.jobs.plan import plan_files
from cgpipe.models.choose import Chosen, choose_model
from cgpipe.notebook import ProgressBar
from cgpipe.options import Cut, Options
from cgpipe.storage import PathLike

if TYPE_CHECKING:
    from cgpipe.media.frames import Pixels
    from cgpipe.training.run import Progress

OnLearn = Callable[["Progress"], None]

FEW = 400
"""Frames up to which a clip is read sequentially; in a longer one, single frames are sought."""


def with_look(
    chosen: Chosen,
    options: Options,
    pictures: Callable[[int], Iterable[Pixels]],
    on_learn: OnLearn | None = None,
    progress: bool | None = None,
) -> Chosen:
    """Learns the look first, and returns its model.

    Args:
        chosen: from :func:`cgpipe.models.choose.choose_model`.
        options: of the job.
        pictures: returns up to the given number of pictures of the job, (H, W, 3) uint8 or uint16 each.
        on_learn: called for every training step.
        progress: same as for the job.

    Raises:
        UsageError: a painting cannot be used.
        DataError: no picture of the job can be read.
        CgpipeError: see :func:`cgpipe.training.look.learn_look`.
    """
    assert chosen.look is not None
    from cgpipe.training.look import learn_look

    with ProgressBar("step", progress) as bar:
        started = False

        def tell(now: Progress) -> None:
            nonlocal started
            if not started:
                bar.start(now.total_steps)
                bar.advance(now.step - 1)
            started = True
            bar.advance()
            if on_learn:
                on_learn(now)

        learn_look(chosen.look, pictures, gpu_ids=_gpu_ids(options.hardware.device), on_progress=tell)
    return choose_model(options.choice)


def pictures_of(
    inputs: PathLike | Sequence[PathLike], output: PathLike | None, options: Options, domain: str
) -> Callable[[int], Iterator[Pixels]]:
    """Pictures of a folder job, spread evenly over all shards; unreadable ones are skipped.

    Raises:
        UsageError: see :func:`cgpipe.jobs.plan.plan_files`.
    """
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    format, recursive = options.encoding.format, options.work.recursive
    plan = plan_files(given, output, domain=domain, format=format, recursive=recursive)

    def read(count: int) -> Iterator[Pixels]:
        from cgpipe.media.pictures.read import read_picture
        from cgpipe.training.look import SIDE

        every = max(1, plan.count // count)
        for input, _, _ in islice(plan.names(), 0, every * count, every):
            try:
                yield read_picture(input, reduced_to=SIDE).pixels
            except MediaError:  # which the job itself will say
                continue

    return read


def frames_of(inputs: Sequence[str], options: Options) -> Callable[[int], Iterator[Pixels]]:
    """Frames of videos, spread evenly over each; unreadable videos are skipped."""
    for input in inputs:
        _require_twice(input)

    def read(count: int) -> Iterator[Pixels]:
        share = max(1, count // max(1, len(inputs)))
        for input in inputs[:count]:
            try:
                yield from _spread(input, options, share)
            except MediaError:
                continue

    return read


def _spread(input: str, options: Options, count: int) -> Iterator[Pixels]:
    from cgpipe.jobs.video_job import at_hand
    from cgpipe.media.frames import Frame
    from cgpipe.media.video.opening import open_source

    reading: dict[str, Any] = {"deinterlace": options.look.deinterlace, "threads": options.work.workers}
    cut = options.cut
    with at_hand(input) as here:
        with open_source(here, **vars(cut), **reading) as source:
            info = source.info
            if not info.frames or not info.rate or info.frames <= FEW:
                every = max(1, -(-(info.frames or FEW) // count))
                yield from (item.pixels for item in islice(source, 0, every * count, every) if isinstance(item, Frame))
                return
            seconds = float(info.frames / info.rate)
        for place in range(count):
            start = (cut.start or 0) + seconds * place / count
            with open_source(here, **vars(Cut(start=start)), **reading) as source:
                yield from (item.pixels for item in islice(source, 1) if isinstance(item, Frame))


def _require_twice(input: str) -> None:
    """Raises UsageError for an input that can be read only once: learning and translating both read it."""
    from cgpipe.media.video.camera import PREFIX
    from cgpipe.media.video.pipes import is_pipe

    if input == "-" or input.startswith(PREFIX) or "://" in input or (os.path.exists(input) and is_pipe(input)):
        raise UsageError(
            f"{input} can be read only once, so no look can be learned on it. Learn it on pictures first, with "
            "`cgpipe translate photos/ --like PAINTING`; then the same --like works here."
        )


def _gpu_ids(device: str) -> str:
    """A job's device in the form of ``--gpu-ids``."""
    first = device.split(",")[0]
    if first == "auto":
        return "auto"
    return first.partition(":")[2] or "0" if first.startswith("cuda") else "-1"
