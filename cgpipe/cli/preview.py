"""``cgpipe preview``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from cgpipe.cli import complete
from cgpipe.cli.options import LocalPath, device, loudness_options, sheet_option, size
from cgpipe.cli.terminal import detail, say
from cgpipe.options import ModelChoice, Size

Value = TypeVar("Value")


def several(kind: Callable[[str], Value]) -> Callable[[click.Context, click.Parameter, str], tuple[Value, ...]]:
    """Takes values with commas between them."""

    def callback(ctx: click.Context, param: click.Parameter, value: str) -> tuple[Value, ...]:
        try:
            return tuple(kind(part.strip()) for part in value.split(",") if part.strip())
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is not a valid list: use numbers such as 0.5,1.") from error

    return callback


@click.command()
@click.argument("photo", type=LocalPath(path_type=Path))
@sheet_option("sheet.png")
@click.option("--to", multiple=True, metavar="DOMAIN", shell_complete=complete.targets, help="A look; repeatable.")
@click.option(
    "--model", "models", multiple=True, metavar="FILE|NAME", shell_complete=complete.models, help="Same, by its model."
)
@click.option(
    "--strengths", callback=several(float), default="0.5,1,1.5", metavar="LIST", help="Strengths, 0 to 2, one a column."
)
@click.option(
    "--sizes", callback=several(size), default="auto,512", metavar="LIST", help="Working sizes, as --size takes them."
)
@click.option("--height", type=click.IntRange(16, 4096), default=256, help="Height of each picture, in pixels.")
@click.option("--device", type=device, default="auto", help="Where to run.")
@loudness_options
def command(
    photo: Path,
    sheet: Path,
    to: tuple[str, ...],
    models: tuple[str, ...],
    strengths: tuple[float, ...],
    sizes: tuple[Size, ...],
    height: int,
    device: str,
) -> None:
    """Show one PHOTO at several strengths, sizes and looks on one sheet.

    cgpipe preview photo.jpg -o sheet.png --to monet --to zebra --strengths 0.5,1
    """
    from cgpipe.jobs.preview import preview

    choices = [ModelChoice(to=domain) for domain in to] + [ModelChoice(model=model) for model in models]
    shown = preview(
        photo,
        sheet,
        choices=choices,
        strengths=strengths,
        sizes=sizes,
        height=height,
        device=device,
        on_cell=lambda title, count: detail(title),
    )
    say(f"{len(shown)} picture{'s' * (len(shown) != 1)}: {sheet}", err=False)
