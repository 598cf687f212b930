"""``cgpipe test``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cgpipe.cli import complete
from cgpipe.cli.options import LocalPath, loudness_options
from cgpipe.cli.terminal import say, show
from cgpipe.training.config import TrainConfig, load_config

if TYPE_CHECKING:
    from cgpipe.evaluation.runs import TestReport


@click.command()
@click.option(
    "--config",
    "recipe",
    type=LocalPath(dir_okay=False, path_type=Path),
    shell_complete=complete.recipes,
    help="Recipe of the run.",
)
@click.option("--dataset-dir", type=LocalPath(file_okay=False, path_type=Path), help="Folder with testA and testB.")
@click.option("--test-a", type=LocalPath(path_type=Path), help="A folder or a .txt list, instead of testA.")
@click.option("--test-b", type=LocalPath(path_type=Path), help="Same, instead of testB.")
@click.option("--checkpoint-dir", type=LocalPath(file_okay=False, path_type=Path), help="Folder of the run.")
@click.option("--results-dir", type=LocalPath(file_okay=False, path_type=Path), help="Folder for the sample grids.")
@click.option("--source", help="Name of domain A.")
@click.option("--target", help="Name of domain B.")
@click.option("--epoch", type=click.IntRange(min=1), help="Test the models that --snapshot-every kept of this epoch.")
@click.option(
    "--size",
    type=click.IntRange(min=8),
    help="Side at which pictures are translated.  [256; for pairs, that of training]",
)
@click.option("--figures/--no-figures", default=True, help="Compute metrics (needs the extra cgpipe[metrics]).")
@click.option("--record", "keep", is_flag=True, help="Store the metrics and the working scales in the model files.")
@loudness_options
def command(
    recipe: Path | None, epoch: int | None, size: int | None, figures: bool, keep: bool, **settings: object
) -> None:
    """Test a run's models: grids of every test picture (real, generated, reconstructed or partner), and metrics."""
    given = {name: value for name, value in settings.items() if value is not None}
    config = load_config(recipe, given, resume=True)  # the run's recipe names the domains and the dataset
    if keep and not figures:
        raise click.UsageError("--record needs metrics: omit --no-figures.")
    from cgpipe.evaluation.runs import find_snapshot, record

    folder = config.checkpoint_dir if epoch is None else find_snapshot(config.checkpoint_dir, epoch)
    report = show_test(config, folder, size=size, figures=figures)
    for path in record(config, folder, report) if keep else ():
        say(f"Recorded in {path}", err=False)


def show_test(
    config: TrainConfig, folder: Path | None = None, *, size: int | None = None, figures: bool = True
) -> TestReport:
    """Tests the models in ``folder``, by default the run's own, and prints the grids' paths and the metrics."""
    from cgpipe.evaluation.runs import test
    from cgpipe.networks.generators import build_generator

    if size is None:
        size = 256
        if config.is_paired:
            size = config.test_size(build_generator(config.gen_net, **config.generator_settings()).multiple)
    report = test(
        config,
        folder or config.checkpoint_dir,
        config.results_dir,
        size=size,
        figures=figures,
        paired=config.is_paired,
        on_grid=lambda path: say(f"Wrote {path}"),
    )
    tables = [found.to_markdown() for found in report.evaluations.values()]
    for table in tables + [found.to_markdown() for found in report.pairs.values()]:
        show("\n" + table)
    return report
