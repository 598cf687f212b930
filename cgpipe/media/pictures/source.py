"""Picture files as a source of frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cgpipe.errors import MediaError, reason_of
from cgpipe.media.frames import Coded, Failed, Frame, Jpeg
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.huge import confined_by_lines, read_huge
from cgpipe.media.pictures.jpegs import read_jpeg
from cgpipe.media.pictures.masks import PictureMasks
from cgpipe.media.pictures.planes import read_planes
from cgpipe.media.progress import Progress
from cgpipe.storage import Stamp, fetched_ahead, scratch_folder, store_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureOrigin:
    """Identifies a picture, says where its translation goes, and carries what that must keep.

    Args:
        index: its position among all pictures of the job.
        inputs: the file, and its own mask if it has one.
        stamps: of these files, before they are read.
        output: path of the translation.
        place: path relative to the input folder, which also names its mask.
        extras: what the file holds beside the pixels; None until it is read.
        decode_seconds: time spent reading it.
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
        tasks: returns the origins of the pictures; may be called more than once.
        masks: the masks that confine the change.
        channels: that each picture is read with (see :func:`~cgpipe.media.pictures.planes.read_planes`).
        by_lines: read pictures larger than memory, each into a file beside its output, and tell this of it.
        jpegs: leave plain JPEGs as they are, for a device that decodes them; only RGB without masks.
    """

    def __init__(
        self,
        tasks: Callable[[], Iterable[PictureOrigin]],
        masks: PictureMasks | None = None,
        *,
        channels: int = 3,
        by_lines: Progress | None = None,
        jpegs: bool = False,
    ) -> None:
        self.tasks = tasks
        self._masks = masks
        self._channels = channels
        self._by_lines = by_lines
        self._jpegs = jpegs

    def frames(self, first: int = 0) -> Iterator[Coded[PictureOrigin] | Failed[PictureOrigin]]:
        """Yields every picture, or the reason why it cannot be read."""
        tasks = (task for task in self.tasks() if task.index >= first)
        for task, at_hand in fetched_ahead(tasks, lambda task: task.inputs[0]):
            try:
                with at_hand() as path:
                    yield self.read(task, path)
            except Exception as error:
                yield Failed(origin=task, reason=reason_of(error))

    @property
    def read(self) -> Callable[[PictureOrigin, Path | None], Coded[PictureOrigin]]:
        """Reads one picture; an exception is that picture's failure. Can be pickled and sent to another process."""
        return _ReadCoded(self.decode) if self._jpegs else self.decode

    @property
    def decode(self) -> _Read:
        """The same, of JPEGs their pixels."""
        return _Read(self._masks, self._channels, self._by_lines)


@dataclass(frozen=True)
class _Read:
    masks: PictureMasks | None
    channels: int
    by_lines: Progress | None

    def __call__(self, task: PictureOrigin, path: Path | None = None) -> Frame[PictureOrigin]:
        """Reads a picture, from ``path`` if a local copy exists."""
        if path is None:
            with store_of(task.inputs[0]).fetched(str(task.inputs[0])) as here:
                return self(task, here)
        began = time.perf_counter()
        frame = self._whole(task, path) if self.by_lines is None else self._in_parts(task, path, self.by_lines)
        seconds = time.perf_counter() - began
        return Frame(pixels=frame.pixels, origin=replace(task, extras=frame.origin, decode_seconds=seconds))

    def _whole(self, task: PictureOrigin, path: Path) -> Frame[PictureExtras]:
        frame = read_planes(path, self.channels)
        return self.masks.confine(frame, task.place) if self.masks else frame

    def _in_parts(self, task: PictureOrigin, path: Path, progress: Progress) -> Frame[PictureExtras]:
        if self.channels != 3:
            raise MediaError(f"It is too large to be read with {self.channels} channels: cut it into smaller ones.")
        folder = scratch_folder(task.output)
        frame = read_huge(path, folder, progress)
        return confined_by_lines(frame, self.masks.read(task.place), folder) if self.masks else frame


@dataclass(frozen=True)
class _ReadCoded:
    decode: _Read

    def __call__(self, task: PictureOrigin, path: Path | None = None) -> Coded[PictureOrigin]:
        """Reads a picture that stays a JPEG if it is a plain one."""
        if path is None:
            with store_of(task.inputs[0]).fetched(str(task.inputs[0])) as here:
                return self(task, here)
        began = time.perf_counter()
        jpeg = read_jpeg(path)
        if jpeg is None:
            return self.decode(task, path)
        seconds = time.perf_counter() - began
        origin = replace(task, extras=jpeg.origin, decode_seconds=seconds)
        return Jpeg(
            content=jpeg.content,
            size=jpeg.size,
            orientation=jpeg.orientation,
            halved=jpeg.halved,
            origin=origin,
        )
