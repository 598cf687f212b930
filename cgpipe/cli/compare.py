"""``cgpipe compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cgpipe.cli.options import LocalPath, loudness_options, sheet_option
from cgpipe.cli.terminal import detail, say


@click.command()
@click.argument("original", metavar="IN", type=LocalPath(path_type=Path))
@click.argument("translated", metavar="OUT", type=LocalPath(path_type=Path))
@sheet_option("sheet.png")
@click.option("--count", type=click.IntRange(min=1), default=12, help="Number of pairs, sampled evenly.")
@click.option("--columns", type=click.IntRange(min=1), default=3, help="Pairs per row.")
@click.option("--height", type=click.IntRange(16, 4096), default=256, help="Height of each picture, in pixels.")
@loudness_options
def command(original: Path, translated: Path, sheet: Path, **options: Any) -> None:
    """Make a contact sheet of pictures and their translations, for a message or a slide.

    IN and OUT are two pictures, or two folders such as photos and photos-zebra.
    """
    from cgpipe.jobs.compare import compare

    shown = compare(original, translated, sheet, **options)
    for path in shown:
        detail(str(path))
    say(f"{len(shown)} pair{'s' * (len(shown) != 1)}: {sheet}", err=False)
