"""``cgpipe translate``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cgpipe.cli import BEGAN
from cgpipe.cli.bar import CountingBar, LearningBar
from cgpipe.cli.options import (
    STANDARD_OUTPUT,
    PictureFormat,
    Place,
    engine_of,
    gallery_option,
    like_options,
    loudness_options,
    model_options,
    report_option,
    speed_options,
    work_options,
)
from cgpipe.cli.pictures import Preview
from cgpipe.cli.terminal import Loudness, describe, detail, loudness, say
from cgpipe.storage import shown

if TYPE_CHECKING:
    from cgpipe.jobs.report import FolderReport


@click.command()
@click.argument("inputs", nargs=-1, required=True, type=Place(), metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    type=Place(),
    help="Output folder, file, or archives such as out.zip and 'out-{000..}.tar'.  [default: <INPUT>-<DOMAIN>]",
)
@model_options
@like_options
@click.option(
    "--format",
    type=PictureFormat(),
    help="Output format; by default that of each input. PNG and WebP are compressed for speed, to within a tenth of "
    "the smallest size.",
)
@click.option(
    "--quality", type=click.IntRange(1, 100), help="Quality of lossy formats (JPEG, WebP, AVIF, HEIC).  [default: 95]"
)
@work_options
@click.option("--recursive/--no-recursive", default=True, help="Include subfolders.")
@speed_options
@gallery_option
@click.option("--preview", is_flag=True, help="Show pictures as the job runs, where standard output is a terminal.")
@report_option
@loudness_options
def command(inputs: tuple[str, ...], report_file: Path | None, preview: bool, **options: Any) -> None:
    """Translate pictures: folders (with subfolders), files, or patterns such as 'photos/*.jpg'.

    The output mirrors the input: names, folders, formats, sizes, orientation, transparency and color profiles are
    kept. Pictures that are already translated are skipped, so an interrupted job resumes when it is run again.
    """
    from cgpipe.jobs.folder import translate_folder
    from cgpipe.jobs.report import FileResult, ReportFile

    options["engine"] = engine_of(*(options.pop(name) for name in ("engine", "compile", "torchscript")))
    imports = time.perf_counter() - BEGAN
    with ReportFile(report_file) as written, CountingBar("picture") as bar, LearningBar() as learning:
        pictures = Preview(bar, wanted=preview)
        verbose = loudness() == Loudness.VERBOSE

        def tell(result: FileResult) -> None:
            written.add(result)
            bar.advance()
            if result.status == "translated":
                pictures.show(result.input, result.output)
            if result.status == "failed":
                bar.write(f"Failed: {shown(result.input)}: {result.reason}")
            elif result.status == "unsupported":
                bar.write(f"Unsupported: {shown(result.input)}: {result.reason}")
            elif verbose:
                bar.detail(f"{result.status.capitalize()}: {shown(result.input)} -> {shown(result.output)}")

        report = translate_folder(
            inputs, on_start=bar.start, on_result=tell, on_part=bar.part, on_learn=learning.update, **options
        )
        report.first = {"imports": imports} | report.first
        written.finish(report.to_json())
    _name_ignored(report)
    describe(report.settings, report.seconds)
    say(report.summary(), err=report_file == STANDARD_OUTPUT)
    if report.page is not None:
        say(f"Page: {report.page}", err=report_file == STANDARD_OUTPUT)
    click.get_current_context().exit(report.exit_code)


def _name_ignored(report: FolderReport) -> None:
    """Prints which files were not pictures, with ``--verbose`` only."""
    for path in report.ignored_files:
        detail(f"Ignored (not a picture): {shown(path)}")
    if more := report.ignored - len(report.ignored_files):
        detail(f"Ignored (not pictures): {more} more")
