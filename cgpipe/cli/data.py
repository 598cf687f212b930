"""``cgpipe data``: datasets of the reference projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cgpipe.cli import complete
from cgpipe.cli.bar import ByteBar
from cgpipe.cli.group import CommandGroup
from cgpipe.cli.options import LocalPath, loudness_options
from cgpipe.cli.terminal import say, show


@click.group(cls=CommandGroup)
def command() -> None:
    """Download and list training datasets."""


@command.command("list")
def list_() -> None:
    """List the datasets that can be downloaded by name."""
    from cgpipe.data.download import DATASETS

    width = max(map(len, DATASETS))
    for name, known in DATASETS.items():
        show(f"{name.ljust(width)}  {known.domains[0]} and {known.domains[1]}")


@command.command("fetch")
@click.argument("name", shell_complete=complete.datasets)
@click.option(
    "-o",
    "--output",
    "folder",
    type=LocalPath(file_okay=False, path_type=Path),
    default=Path("datasets"),
    help="Folder of all datasets.",
)
@click.option("--url", help="URL of a zip archive with trainA and trainB, instead of the authors' server.")
@click.option("--sha256", metavar="HEX", help="Expected SHA-256 of the archive.")
@click.option(
    "--max-size", type=click.FloatRange(min=0, min_open=True), default=20.0, help="Maximum size of the archive, in GB."
)
@loudness_options
def fetch_(name: str, max_size: float, **options: Any) -> None:
    """Download, verify and unpack a dataset. Interrupted downloads resume.

    NAME is one of `cgpipe data list`, or, with --url, the name of the folder to create.
    """
    from cgpipe.data.download import fetch

    with ByteBar(name) as bar:
        report = fetch(name, on_bytes=bar.show, max_size=int(max_size * 1e9), **options)
    say(
        f"{report.folder}{'' if report.downloaded else ' already exists'}; SHA-256 of its file list: {report.digest}",
        err=False,
    )
    if options["sha256"] and not report.downloaded:
        say(
            "--sha256 is of the archive, and nothing was downloaded: remove the folder to fetch and check it.",
            err=False,
        )
    else:
        say("Checksum OK." if report.verified else "No known checksum.", err=False)
    if report.domains:
        source, target = report.domains
        say(f"Train on it: cgpipe train --dataset-dir {report.folder} --source {source} --target {target}", err=False)
