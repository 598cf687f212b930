"""The page of a job: one more that is told of its results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cgpipe.errors import UsageError
from cgpipe.jobs.report import FileResult, FolderReport
from cgpipe.storage import PathLike


@contextmanager
def folder_page(wanted: bool | PathLike, report: FolderReport, total: int) -> Iterator[Callable[[FileResult], None]]:
    """Gives what shows a result on the page of a folder job; the page is written while the body runs and at its end.

    Args:
        wanted: whether there is one, or where it goes; by default ``<output>.html`` beside the first output.
        report: of the job: when the body ends, all of it is there, and the page says it too.
        total: how many results there will be.

    Raises:
        UsageError: the name is none of a page, or something that cgpipe did not make is in its place.
        MediaError: it cannot be written, at the beginning, or at the end, when the job is done all the same.
    """
    if wanted is False:
        yield lambda result: None
        return
    from cgpipe.pages.gallery import Gallery, Pair
    from cgpipe.pages.page import Page, rows_of

    page = Page.beside(report.outputs[0]) if wanted is True else Page(require_page_name(wanted))
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
        told = {"model": report.model, "outputs": report.outputs} | dict(report.settings)
        gallery.conclude({"Settings": rows_of(told), "Seconds": rows_of(report.seconds)})


def require_page_name(path: PathLike) -> Path:
    """The path, if it is that of a page; UsageError where it is not."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path} is not a page's name: use one such as gallery.html.")
    return Path(path)
