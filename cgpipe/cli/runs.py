"""``cgpipe runs``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cgpipe.cli.options import LocalPath, json_flag, loudness_options
from cgpipe.cli.terminal import say, show


@click.command()
@click.argument("folder", type=LocalPath(path_type=Path))
@click.option(
    "-o", "--output", "page", type=LocalPath(dir_okay=False, path_type=Path), help="Write a page too: runs.html."
)
@json_flag
@loudness_options
def command(folder: Path, page: Path | None, as_json: bool) -> None:
    """List the training runs in FOLDER: steps, hours, losses, KID, and the settings that differ.

    The page that -o writes shows their curves in one picture, and links to the page of each run.
    """
    from cgpipe.pages.runs import find_runs, table_of, to_json, to_text, write_runs

    runs = find_runs(folder)
    if page is not None:
        write_runs(runs, folder, page)
    show(json.dumps(to_json(runs, folder), indent=2) if as_json else to_text(*table_of(runs, folder)))
    if page is not None:
        say(f"Page: {page}")
