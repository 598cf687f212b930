"""Decides which pictures of a folder job need work, and the results of the others."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cgpipe.errors import CgpipeWarning, MediaError
from cgpipe.jobs.journal import Journal, Standing, foreign_reason, stamps_of
from cgpipe.jobs.plan import Names, Plan
from cgpipe.jobs.report import FileResult
from cgpipe.storage import Publish, Stamp, remove_stale, store_of

if TYPE_CHECKING:
    from cgpipe.media.pictures.masks import PictureMasks
    from cgpipe.media.pictures.source import PictureOrigin


class Worklist:
    """The open pictures of a plan: those without a result. Each gets one in the end.

    Args:
        plan: all pictures of the job.
        journal: knows which outputs are current.
        masks: the masks, if any; a picture's own mask counts as one of its inputs.
        only: the inputs to include; None: all.
    """

    def __init__(
        self, plan: Plan, journal: Journal, masks: PictureMasks | None, only: Collection[str] | None = None
    ) -> None:
        self._plan = plan
        self._journal = journal
        self.masks = masks
        self._only = only
        self._open = bytearray(plan.count)  # 1 while a picture has no result

    def __len__(self) -> int:
        return sum(self._open)

    def sort_out(self) -> Iterator[FileResult]:
        """Opens the pictures that need work, yields the results of all others, and sweeps the output folders."""
        early, first, last = 0, "", None
        for index, names in enumerate(self._plan.names()):
            if self._only is not None and names[0] not in self._only:
                continue
            folder = os.path.dirname(names[1])
            if folder != last:
                last = folder
                remove_stale(folder or ".")
            problem = self._plan.problem(names[1])
            standing = Standing.OPEN if problem else self._standing(*names)
            if standing is Standing.EARLY:
                early, first = early + 1, first or names[1]
            if problem or standing is Standing.FOREIGN:
                yield _failed(names, problem or foreign_reason(names[1]))
            elif standing is Standing.OPEN:
                self._open[index] = 1
            else:
                yield FileResult(input=Path(names[0]), output=Path(names[1]), status="skipped")
        if early:
            warnings.warn(
                f"Outputs that no journal knows, but that look like translations, are taken as up to date from now on, "
                f"whatever made them: {first}{f' and {early - 1} more' * (early > 1)}. --overwrite redoes them.",
                CgpipeWarning,
                stacklevel=6,
            )

    @property
    def parallel(self) -> int:
        """Outputs to write in parallel, for storage with latency; 0 if it has none."""
        first = next(self._plan.names(), None)
        return store_of(first[1]).parallel if first else 0

    def open_all(self) -> None:
        """Opens all pictures without checks, which another process has made."""
        self._open = bytearray(b"\1" * self._plan.count)

    def names(self) -> Iterator[tuple[int, Names]]:
        """The open pictures, each with its index in the plan."""
        return ((index, names) for index, names in enumerate(self._plan.names()) if self._open[index])

    def origins(self) -> Iterator[PictureOrigin]:
        """The open pictures, for a source."""
        from cgpipe.media.pictures.source import PictureOrigin

        for index, (input, output, place) in self.names():
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

    def publisher(self, origin: PictureOrigin) -> Publish:
        """A function that records a picture's translation and moves it into place."""
        return self._journal.publisher(origin.inputs, origin.stamps)

    def close(self, index: int) -> None:
        """Closes the picture at this index, which has its result."""
        self._open[index] = 0

    def lost(self) -> Iterator[FileResult]:
        """Failures for pictures that are still open at the end of the job, so that none vanishes silently."""
        if self:
            for _, names in self.names():
                yield _failed(names, "It was lost on its way through the job. Run the same command again.")

    def _standing(self, input: str, output: str, place: str) -> Standing:
        try:
            return self._journal.standing(output, self._inputs(input, place))
        except MediaError:  # no mask, which the reader says
            return Standing.OPEN

    def _inputs(self, input: str, place: str) -> tuple[str, ...]:
        """The inputs of a translation: the picture, and its own mask."""
        return (input,) if self.masks is None else (input, *map(str, self.masks.own(Path(place))))


def _failed(names: Names, reason: str) -> FileResult:
    return FileResult(input=Path(names[0]), output=Path(names[1]), status="failed", reason=reason)
