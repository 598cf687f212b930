"""``cgpipe watch``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from cgpipe.cli.options import (
    LocalPath,
    PictureFormat,
    engine_of,
    loudness_options,
    model_options,
    speed_options,
    work_options,
)
from cgpipe.cli.terminal import detail, escaped, say, warn


@click.command()
@click.argument("folder", type=LocalPath(path_type=Path), metavar="FOLDER")
@click.option("-o", "--output", type=LocalPath(path_type=Path), help="Output folder.  [default: <FOLDER>-<DOMAIN>]")
@model_options
@click.option(
    "--format",
    type=PictureFormat(),
    help="Output format of pictures; by default that of each input.",
)
@click.option("--quality", type=click.IntRange(1, 100), help="Quality of lossy formats.  [default: 95]")
@click.option("--codec", help="Video encoder; by default that of the container.")
@click.option("--crf", type=click.FloatRange(0, 63), help="Constant rate factor of the video encoder: lower is better.")
@click.option(
    "--every", type=click.FloatRange(0, min_open=True), default=1.0, metavar="SECONDS", help="Polling interval."
)
@work_options
@click.option("--recursive/--no-recursive", default=True, help="Include subfolders.")
@speed_options
@loudness_options
def command(folder: Path, **options: Any) -> None:
    """Translate the pictures and videos in a folder, and new ones as they arrive, until Ctrl-C.

    A file is translated once it has stopped changing. Files that are up to date are skipped; a file that failed is
    reported once, and retried when it changes. If the folder disappears, with its disk or network, watching waits.
    """
    from cgpipe.jobs.report import FileResult
    from cgpipe.jobs.watch import watch_folder

    options["engine"] = engine_of(*(options.pop(name) for name in ("engine", "compile", "torchscript")))
    counts: Counter[str] = Counter()

    def tell(result: FileResult) -> None:
        counts[result.status] += 1
        if result.status == "translated":
            detail(f"Translated: {result.input} -> {result.output}")
        else:
            word = "Failed" if result.status == "failed" else "Not read"
            warn(escaped(f"{word}: {result.input}: {result.reason}", one_line=True))

    try:
        watch_folder(
            folder,
            on_start=lambda model: say(f"Model: {model}\nWatching {folder} (Ctrl-C to stop)"),
            on_result=tell,
            on_notice=warn,
            **options,
        )
    except KeyboardInterrupt:
        say(", ".join(f"{count} {status}" for status, count in counts.items()) or "Nothing was translated.")
        raise
