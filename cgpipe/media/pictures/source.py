"""Picture files as a source of frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cgpipe.errors import reason_of
from cgpipe.media.frames import Failed, Frame
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.masks import PictureMasks
from cgpipe.media.pictures.read import read_picture
from cgpipe.storage import Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureOrigin:
    """Who a picture is, where its translation goes, and what must be given back with it.

    Args:
        index: its place among all pictures of the job.
        inputs: the file, and its own mask, if it has one.
        stamps: of these files, before they are read.
        output: where the translation goes.
        place: of the picture below the folder that was named, for the name of its mask.
        extras: what the file holds beside the pixels; once it is read.
        decode_seconds: time taken to read it.
    """

    index: int
    inputs: tuple[Path, ...]
    stamps: tuple[Stamp, ...]
    output: Path
    place: Path
    extras: PictureExtras | None = None
    decode_seconds: float = 0.0


class PictureSource:
    """Reads picture files, each with its mask.

    Args:
        tasks: gives the origins of the pictures, as often as it is called.
        masks: what confines the change.
    """

    def __init__(self, tasks: Callable[[], Iterable[PictureOrigin]], masks: PictureMasks | None = None) -> None:
        self.tasks = tasks
        self._masks = masks

    def frames(self, first: int = 0) -> Iterator[Frame[PictureOrigin] | Failed[PictureOrigin]]:
        """Every picture, or why it cannot be read."""
        for task in self.tasks():
            if task.index < first:
                continue
            try:
                yield self.read(task)
            except Exception as error:
                yield Failed(origin=task, reason=reason_of(error))

    @property
    def read(self) -> Callable[[PictureOrigin], Frame[PictureOrigin]]:
        """Reads one picture; what it raises is that picture's failure. It can be sent to another process."""
        return _Read(self._masks)


@dataclass(frozen=True)
class _Read:
    masks: PictureMasks | None

    def __call__(self, task: PictureOrigin) -> Frame[PictureOrigin]:
        began = time.perf_counter()
        frame = read_picture(task.inputs[0])
        if self.masks:
            frame = self.masks.confine(frame, task.place)
        seconds = time.perf_counter() - began
        return Frame(pixels=frame.pixels, origin=replace(task, extras=frame.origin, decode_seconds=seconds))
