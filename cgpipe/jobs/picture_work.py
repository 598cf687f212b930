"""A model and options for pictures: which results are current, and how those that are missing are made."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cgpipe.errors import MediaError
from cgpipe.jobs.early import picture_looks_made
from cgpipe.jobs.journal import Journal
from cgpipe.jobs.loading import load_pipeline
from cgpipe.jobs.plan import Plan
from cgpipe.jobs.report import FileResult
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.worklist import Worklist
from cgpipe.models.choose import Chosen
from cgpipe.options import Options
from cgpipe.storage import shown, store_of

if TYPE_CHECKING:
    from cgpipe.jobs.pipeline import Pipeline
    from cgpipe.media.pictures.masks import PictureMasks


class PictureWork:
    """Translates what is open in one list after another; the model is loaded when the first picture needs it.

    Args:
        pipeline: the model, where it is loaded already.

    Attributes:
        fingerprint: of all that decides a result.
    """

    def __init__(self, chosen: Chosen, options: Options, pipeline: Pipeline | None = None) -> None:
        self._chosen = chosen
        self._options = options
        self._pipeline = pipeline
        self._masks = _masks(options)
        self.fingerprint = _fingerprint(chosen, options)

    def open_journal(self) -> Journal:
        """What knows which results are current."""
        work = self._options.work
        return Journal(
            self.fingerprint, looks_made=picture_looks_made, overwrite=work.overwrite, checksum=work.checksum
        )

    def mask_of(self, place: str) -> tuple[str, ...]:
        """The mask that belongs to the picture at ``place`` alone, if there is one."""
        with suppress(MediaError):  # which the reader says
            return () if self._masks is None else tuple(map(os.fspath, self._masks.own(Path(place))))
        return ()

    def worklist(self, plan: Plan, journal: Journal, only: Collection[str] | None = None) -> Worklist:
        """The pictures of a plan, or some of them, of which none is open yet."""
        return Worklist(plan, journal, self._masks, only)

    def translate(
        self,
        worklist: Worklist,
        tell: Callable[[FileResult], None],
        watch: Stopwatch,
        tell_part: Callable[[float], None] | None = None,
    ) -> dict[str, object]:
        """Translates the open pictures here, or on the cluster that was named; gives what was chosen for the work."""
        if self._options.work.ray is not None:
            from cgpipe.jobs.cluster_jobs import translate_pictures_on_cluster

            chosen = translate_pictures_on_cluster(self._options, self.fingerprint, worklist, tell, watch)
        else:
            from cgpipe.jobs.pictures import translate_pictures

            chosen = translate_pictures(self._loaded(watch), self._options, worklist, tell, watch, tell_part)
        return chosen | self.asked()

    def asked(self) -> dict[str, object]:
        """How the result is to look, for a report."""
        look = self._options.look
        mask = None if look.mask is None else shown(look.mask)
        return {"size": look.size, "strength": look.strength, "mask": mask}

    def _loaded(self, watch: Stopwatch) -> Pipeline:
        if self._pipeline is None:
            self._pipeline = load_pipeline(self._chosen, self._options, watch)
        return self._pipeline


def _masks(options: Options) -> PictureMasks | None:
    if options.look.mask is None:
        return None
    from cgpipe.media.pictures.masks import PictureMasks

    return PictureMasks(options.look.mask)


def _fingerprint(chosen: Chosen, options: Options) -> str:
    """Of all that was asked for; a folder's masks are inputs of their pictures."""
    if options.look.mask is not None and store_of(options.look.mask).is_folder(os.fspath(options.look.mask)):
        options = replace(options, look=replace(options.look, mask=None))
    return options.fingerprint(chosen.deciding)
