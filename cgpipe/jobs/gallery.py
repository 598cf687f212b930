"""The page of a job, fed with its results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cgpipe.errors import UsageError
from cgpipe.jobs.report import FileResult, FolderReport, VideoReport
from cgpipe.options import Options, Shard
from cgpipe.storage import LOCAL, PathLike, shown, store_of

if TYPE_CHECKING:
    from cgpipe.pages.page import Page


@contextmanager
def folder_page(
    wanted: bool | PathLike, report: FolderReport, total: int, part: Shard | None = None
) -> Iterator[Callable[[FileResult], None]]:
    """Yields a function that adds a result to the page; the page is written during the body and at its end.

    Args:
        wanted: whether to write a page, or its path; by default ``<output>.html`` beside the first output.
        report: of the job; when the body ends it is complete, and goes on the page.
        total: number of results.
        part: the shard of a job shared by several processes, each of which has a page of its own.

    Raises:
        UsageError: the path is not a page's name, or a file that cgpipe did not make is in its place.
        MediaError: it cannot be written, at the start or, with the job done, at the end.
    """
    page = page_of(wanted, report.outputs[0])
    if page is None:
        yield lambda result: None
        return
    from cgpipe.pages.gallery import Gallery, Pair
    from cgpipe.pages.page import rows_of

    if part is not None:
        page = type(page)(page.path.with_stem(f"{page.path.stem}-{part.number}-of-{part.of}"))
    title = ", ".join(dict.fromkeys(root.name or str(root) for root in report.outputs))
    with Gallery(page, title=title, lead=report.model, roots=report.outputs, total=total) as gallery:
        report.page = page.path

        def show(result: FileResult) -> None:
            gallery.add(
                Pair(
                    before=result.input,
                    after=result.output,
                    status=result.status,
                    reason=result.reason,
                    decode_seconds=result.decode_seconds,
                    encode_seconds=result.encode_seconds,
                    notes=result.notes,
                )
            )

        yield show
        told = {"model": report.model, "outputs": [shown(root) for root in report.outputs]} | dict(report.settings)
        gallery.conclude({"Settings": rows_of(told), "Seconds": rows_of(report.seconds)})


def page_of(wanted: bool | PathLike, output: PathLike) -> Page | None:
    """The page of an output, if wanted.

    Raises:
        UsageError: the path is not a page's name.
    """
    if wanted is False:
        return None
    from cgpipe.pages.page import Page

    if wanted is True and store_of(output) is not LOCAL:
        raise UsageError(
            f"The page lies beside its output, and {shown(output)} is not on this machine: write to a folder on this "
            "machine, omit --gallery, or name the page in Python, such as gallery='photos.html'."
        )

    return Page.beside(output) if wanted is True else Page(require_page_name(wanted))


def claim_page(wanted: bool | PathLike, output: str) -> None:
    """Checks, before the work, that the page of a video can be written.

    Raises:
        UsageError: the output is not a file that a page can show, or another file is in the page's place.
        MediaError: the page cannot be written.
    """
    page = page_of(wanted, output)
    if page is None:
        return
    from cgpipe.media.video.pipes import is_pipe
    from cgpipe.media.video.sequences import names_sequence

    if output == "-" or is_pipe(output) or names_sequence(output):
        raise UsageError(f"A gallery needs one video file as output, which {output} is not: name one, such as out.mp4.")
    page.claim()


def require_page_name(path: PathLike) -> Path:
    """Returns the path of a page; UsageError if its suffix is wrong."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path} is not a page's name: use one such as gallery.html.")
    return Path(path)


def clip_page(wanted: bool | PathLike, report: VideoReport, options: Options) -> Path | None:
    """Writes the page of a video, whose report is complete: a player of both, and a strip of frames.

    Args:
        wanted: whether to write a page, or its path; by default ``<output>.html`` beside the output.

    Returns:
        The page; None if none is wanted or the output is not a single file.

    Raises:
        UsageError: the path is not a page's name, or a file that cgpipe did not make is in its place.
        MediaError: it cannot be written.
    """
    page = page_of(wanted, report.output)
    if page is None or not os.path.isfile(report.output):
        return None
    if report.skipped and page.data():  # which says more than can be known now
        return page.path
    from cgpipe.pages.clip import Clip, write_clip
    from cgpipe.pages.page import rows_of

    told = {"model": report.model, "frames": report.frames, "left out": report.failed, "filled": report.filled}
    tables = {"Settings": rows_of(told | report.settings), "Seconds": rows_of(report.seconds)}
    tables["Notices"] = [("", notice) for notice in report.notices]
    clip = Clip(
        before=Path(report.input) if os.path.isfile(report.input) else None,
        after=Path(report.output),
        start=float(options.cut.start or 0),
        beside=options.look.side_by_side,
        lead=report.model,
        tables={heading: rows for heading, rows in tables.items() if rows},
    )
    write_clip(page, clip)
    return page.path
