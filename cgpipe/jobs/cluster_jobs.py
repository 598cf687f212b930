"""Folder and video jobs on a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from cgpipe.errors import CgpipeError
from cgpipe.jobs.chunks import Chunks, Item
from cgpipe.jobs.cluster import Crew
from cgpipe.jobs.cluster_worker import Part, PictureWorker, VideoAnswer, VideoTask, VideoWorker
from cgpipe.jobs.plan import Names
from cgpipe.jobs.ray_cluster import NewWorker, ray_cluster
from cgpipe.jobs.report import FileResult, VideoReport
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.worklist import Worklist
from cgpipe.media.video.sink import SEGMENT_FRAMES
from cgpipe.options import Options
from cgpipe.storage import mounted

T = TypeVar("T")
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

    with _crew(PictureWorker, options, fingerprint, lambda names: [os.path.dirname(names[1])]) as crew:
        for index, result in crew.run(Chunks(items(), len(worklist))):
            done(index, result)
        for stage, seconds in crew.seconds.items():
            watch.add(stage, seconds)
        return crew.settings | {"ray": options.work.ray}


PART_FRAMES = 5 * SEGMENT_FRAMES
"""Frames of a part of a video at least: each worker decodes the clip from its beginning up to its part."""


def translate_videos_on_cluster(
    options: Options, fingerprint: str, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[int, VideoReport | CgpipeError]]:
    """Translates videos on a cluster; yields the index of each pair, and its report or error.

    Where there are fewer videos than workers, long ones are shared: each worker makes the segments of one part, beside
    the output, and one joins them as it would those of an interrupted run. Whatever is missing then, it makes itself.
    """
    with _crew(VideoWorker, options, fingerprint, lambda task: [os.path.dirname(task.output)]) as crew:
        shares = -(-crew.capacity // len(pairs)) if pairs else 1
        videos = [_SharedVideo(_full(one), _full(target), shares) for one, target in pairs]
        items = [Item(number, video.first_task()) for number, video in enumerate(videos)]
        owner, chunks = list(range(len(videos))), Chunks(iter(items), len(items), largest=1)
        for index, result in crew.run(chunks):
            video = videos[owner[index]]
            if video.is_over(result):
                assert not isinstance(result, Part)
                yield owner[index], video.told(result)
            for task in video.tasks_after(result):
                chunks.add(Item(len(owner), task))
                owner.append(owner[index])


class _SharedVideo:
    """One video on its way through the cluster: surveyed, made in parts, joined.

    Args:
        shares: how many parts it may be made in.
    """

    def __init__(self, input: str, output: str, shares: int) -> None:
        self._input, self._output, self._shares = input, output, shares
        self._open = 0  # parts under way
        self._joining = False
        self._began = time.perf_counter()

    def first_task(self) -> VideoTask:
        return VideoTask(self._input, self._output, least=2 * PART_FRAMES if self._shares > 1 else 0)

    def is_over(self, result: VideoAnswer) -> bool:
        """Whether a result is that of the video."""
        return isinstance(result, VideoReport) or (not isinstance(result, Part) and (self._joining or not self._open))

    def tasks_after(self, result: VideoAnswer) -> list[VideoTask]:
        """What is to be done next."""
        if self.is_over(result):
            return []
        if not self._open and isinstance(result, Part):
            tasks = self._parts(result.frames)
            self._open = len(tasks)
            return tasks
        self._open -= 1
        if self._open:
            return []
        self._joining = True
        return [VideoTask(self._input, self._output)]

    def told(self, result: VideoReport | CgpipeError) -> VideoReport | CgpipeError:
        """The result of the video as one machine would have it."""
        if not self._joining or isinstance(result, CgpipeError):
            return result
        seconds = result.seconds | {"total": time.perf_counter() - self._began}
        return replace(result, resumed=0, seconds=seconds)

    def _parts(self, frames: int) -> list[VideoTask]:
        segments = -(-frames // SEGMENT_FRAMES)
        count = max(1, min(self._shares, frames // PART_FRAMES))
        starts = [number * segments // count * SEGMENT_FRAMES for number in range(count)]
        ends = [*starts[1:], None]
        return [
            VideoTask(self._input, self._output, first=first, last=last)
            for first, last in zip(starts, ends, strict=True)
        ]


@contextmanager
def _crew(
    worker: NewWorker[T, R], options: Options, fingerprint: str, folders_of: Callable[[T], Sequence[str]]
) -> Iterator[Crew[T, R]]:
    """Workers on the cluster of the options; ``folders_of`` as :class:`Crew` has it."""
    with (
        ray_cluster(options.work.ray or "local") as ray,
        Crew(ray, worker, options, fingerprint, folders_of) as crew,
    ):
        yield crew


def _full(name: str) -> str:
    return name if "://" in name or name == "-" or mounted(name) else os.path.abspath(name)
