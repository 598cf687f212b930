"""Folder and video jobs on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from cgpipe.errors import CgpipeError
from cgpipe.jobs.chunks import Chunks, Item
from cgpipe.jobs.cluster import Crew
from cgpipe.jobs.cluster_worker import PictureWorker, VideoWorker
from cgpipe.jobs.plan import Names
from cgpipe.jobs.ray_cluster import NewWorker, ray_cluster
from cgpipe.jobs.report import FileResult, VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.worklist import Worklist
from cgpipe.options import Options
from cgpipe.storage import mounted

T = TypeVar("T", bound=Sequence[str])
R = TypeVar("R")


def translate_pictures_on_cluster(
    options: Options, fingerprint: str, worklist: Worklist, tell: Callable[[FileResult], None], watch: Stopwatch
) -> dict[str, object]:
    """:func:`cgpipe.jobs.pictures.translate_pictures` on a cluster."""
    known: dict[int, Names] = {}

    def items() -> Iterator[Item[Names]]:
        for index, names in worklist.names():
            known[index] = names
            yield Item(index, (_full(names[0]), _full(names[1]), names[2]))

    def done(index: int, result: FileResult | CgpipeError) -> None:
        input, output = map(Path, known.pop(index)[:2])
        worklist.close(index)
        if isinstance(result, CgpipeError):
            tell(FileResult(input=input, output=output, status="failed", reason=str(result)))
        else:
            watch.reached("encode")
            tell(replace(result, input=input, output=output))

    with _crew(PictureWorker, options, fingerprint) as crew:
        for index, result in crew.run(Chunks(items(), len(worklist))):
            done(index, result)
        for stage, seconds in crew.seconds.items():
            watch.add(stage, seconds)
        return crew.settings | {"ray": options.work.ray}


def translate_videos_on_cluster(
    options: Options, fingerprint: str, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[int, VideoReport | CgpipeError]]:
    """Translates whole videos on a cluster; yields the index of each pair, and its report or error."""
    items = (Item(index, (_full(one), _full(target))) for index, (one, target) in enumerate(pairs))
    with _crew(VideoWorker, options, fingerprint) as crew:
        yield from crew.run(Chunks(items, len(pairs), largest=1))


@contextmanager
def _crew(worker: NewWorker[T, R], options: Options, fingerprint: str) -> Iterator[Crew[T, R]]:
    """Workers on the cluster of the options, for items whose second value is an output."""
    with (
        ray_cluster(options.work.ray or "local") as ray,
        Crew(ray, worker, options, fingerprint, lambda names: [os.path.dirname(names[1])]) as crew,
    ):
        yield crew


def _full(name: str) -> str:
    return name if "://" in name or name == "-" or mounted(name) else os.path.abspath(name)
