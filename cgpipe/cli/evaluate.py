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
    "--inputs", type=FOLDER, multiple=True, help="Pictures to translate, instead of the dataset's. Repeatable."
)
@click.option(
    "--reference",
    type=FOLDER,
    multiple=True,
    help="Real pictures to compare with, instead of the dataset's. Repeatable.",
)
@click.option(
    "--paired",
    is_flag=True,
    help="The pictures are pairs (of the same name, or side by side): measures L1, PSNR and SSIM instead.",
)
@click.option(
    "--direction",
    type=click.Choice(["auto", "AtoB", "BtoA"], case_sensitive=False),
    default="auto",
    help="Direction: which domain is the input. Also selects the generator of a checkpoint that holds both.",
)
@click.option(
    "--from",
    "source",
    metavar="DOMAIN",
    shell_complete=complete.sources,
    help="Source domain, if the model does not name it.",
)
@click.option(
    "--to", metavar="DOMAIN", shell_complete=complete.targets, help="Target domain, if the model does not name it."
)
@click.option(
    "--batch-statistics",
    is_flag=True,
    help="Let batch norm of another project's network use each picture's own statistics.",
)
@click.option(
    "--class",
    "class_name",
    default="auto",
    metavar="auto|none|NAME",
    help="ImageNet class to count among the translations; auto: the one named like the domain.",
)
@click.option(
    "--back",
    metavar="FILE|NAME",
    help="Model of the other direction, for the cycle error.  [the one beside MODEL, or found as by --to]",
)
@click.option(
    "--masks",
    type=LocalPath(path_type=Path),
    help="Masks of the inputs, white where change is wanted: measures the change elsewhere.",
)
@click.option(
    "--video",
    "videos",
    type=LocalPath(dir_okay=False, path_type=Path),
    multiple=True,
    help="A clip: measures the flicker of its translation. Repeatable. Without DATASET, nothing else is measured.",
)
@click.option(
    "--size",
    type=click.IntRange(min=8),
    default=256,
    help="Side at which pictures are translated (a clip: its short side).",
)
@click.option("-o", "--output", type=FOLDER, help="Folder for sample grids, figures.md, figures.json and figures.html.")
@click.option("--record", is_flag=True, help="Store the metrics and the working scales in the model file.")
@loudness_options
def command(class_name: str, direction: str, **options: Any) -> None:
    """Measure MODEL on the pictures of DATASET, a folder with testA and testB.

    MODEL is a name, a model file or a checkpoint. KID, FID and class share use EfficientNet-Lite0 and Lite2 (extra
    cgpipe[metrics]), and Inception if torch-fidelity or clean-fid is installed. Every value is printed with the
    pictures, the size and the weights it was measured with. Without DATASET, give --inputs and --reference.

    For a clip: the warping error (mean difference between a frame and its predecessor warped by the optical flow of
    the source), beside the source's own; the sharpness; the share of still pixels that change; and the share of fine
    detail that sticks to the network's grid instead of moving with the picture.
    """
    from cgpipe.evaluation.evaluate import evaluate

    options["class_name"] = None if class_name == "none" else class_name
    options["direction"] = None if direction == "auto" else direction
    report = evaluate(**options, on_grid=lambda path: say(f"Wrote {path}"))
    show(report.to_markdown())
    if options["record"]:
        say(f"\nRecorded in {options['model']}", err=False)
