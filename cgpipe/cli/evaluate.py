"""``cgpipe evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cgpipe.cli import complete
from cgpipe.cli.options import LocalPath, loudness_options
from cgpipe.cli.terminal import say, show

FOLDER = LocalPath(file_okay=False, path_type=Path)


@click.command()
@click.argument("model", shell_complete=complete.models)
@click.argument("dataset", type=FOLDER, required=False)
@click.option(
    "--inputs", type=FOLDER, multiple=True, help="Pictures to translate, in place of the dataset's; repeat it."
)
@click.option("--reference", type=FOLDER, multiple=True, help="Real pictures to compare with, likewise.")
@click.option(
    "--direction",
    type=click.Choice(["auto", "AtoB", "BtoA"], case_sensitive=False),
    default="auto",
    help="Which way the dataset, and a file that holds both generators, is taken.",
)
@click.option(
    "--from",
    "source",
    metavar="DOMAIN",
    shell_complete=complete.sources,
    help="What goes in, where the model does not say.",
)
@click.option(
    "--to", metavar="DOMAIN", shell_complete=complete.targets, help="What comes out, where the model does not say."
)
@click.option(
    "--batch-statistics", is_flag=True, help="Normalise a foreign network with batch norm by each picture's own."
)
@click.option(
    "--class",
    "class_name",
    default="auto",
    metavar="auto|none|NAME",
    help="ImageNet class to count among the results; auto: the one that the domains name.",
)
@click.option(
    "--back", metavar="FILE|NAME", help="Model of the other direction.  [the one beside it, or that --to finds]"
)
@click.option(
    "--masks",
    type=LocalPath(path_type=Path),
    help="Masks of the inputs, white where a change belongs: measures what changes elsewhere.",
)
@click.option(
    "--video",
    "videos",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="A clip: measures how still its translation holds; repeat it. Without DATASET, only that is measured.",
)
@click.option(
    "--size",
    type=click.IntRange(min=8),
    default=256,
    help="Side at which pictures are translated, the short side for a clip.",
)
@click.option("-o", "--output", type=FOLDER, help="Folder for grids of every input, figures.md and figures.json.")
@click.option("--record", is_flag=True, help="Put the figures and the working scales into the model file.")
@loudness_options
def command(class_name: str, **options: Any) -> None:
    """Measure MODEL on the pictures of DATASET, a folder with testA and testB.

    MODEL is a name or a model file of any known project. KID, FID and the share of a class are by EfficientNet-Lite0
    and Lite2 (extra cgpipe[metrics]), and by Inception where torch-fidelity or clean-fid is. Each figure stands with
    the pictures, the size and the weights that it was measured with. Without DATASET, name --inputs and --reference.

    Of a clip: the warping error, which is the mean difference of a frame and its predecessor brought to it along the
    optical flow of the source, beside the source's own; the sharpness; and the share of still pixels that change.
    """
    from cgpipe.evaluation.evaluate import evaluate

    chosen = None if class_name == "none" else class_name
    report = evaluate(**options, class_name=chosen, on_grid=lambda path: say(f"Wrote {path}"))
    show(report.to_markdown())
    if options["record"]:
        say(f"\nRecorded in {options['model']}", err=False)
