"""``cgpipe train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cgpipe.cli import complete
from cgpipe.cli.bar import TrainingBar
from cgpipe.cli.options import LocalPath, loudness_options, setting_options
from cgpipe.cli.terminal import say
from cgpipe.cli.test import show_test
from cgpipe.training.config import TrainConfig, load_config

IN_RECIPES_ONLY = ("gen_settings", "feature_taps", "moment_taps", "moment_lite1_taps", "stages")


@click.command()
@click.option(
    "--config",
    "recipe",
    type=LocalPath(dir_okay=False, path_type=Path),
    shell_complete=complete.recipes,
    help="A recipe in TOML.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --checkpoint-dir, exactly where it was.")
@click.option("--testing", is_flag=True, help="Show what the run's models do, as `cgpipe test`, instead of training.")
@setting_options(TrainConfig, leave_out=IN_RECIPES_ONLY)
@loudness_options
def command(recipe: Path | None, resume: bool, testing: bool, **settings: Any) -> None:
    """Train models from two folders of unpaired pictures.

    Without options: the first recipe of the shipped horse and zebra models, on datasets/horse2zebra. A dataset has the
    folders trainA and trainB, and optionally testA and testB for the sample grids. What stands in square brackets is
    taken where neither the command line nor the recipe says anything.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    config = load_config(recipe, given)
    if testing:
        show_test(config)
        return
    from cgpipe.parallel import is_first, is_member, launch
    from cgpipe.training.device import gpus_of
    from cgpipe.training.trainer import train

    if "," in config.gpu_ids and not is_member():
        processes = len(gpus_of(config.gpu_ids))
        click.get_current_context().exit(launch(["-m", "cgpipe", *sys.argv[1:]], processes=processes))
    if is_first():
        say(f"{config.pair()}, {config.schedule()}")
    with TrainingBar(quiet=not is_first(), log_every=config.log_every) as bar:
        report = train(config, resume=resume, on_progress=bar.update)
    if not is_first():
        return
    done = "Finished" if report.finished else "Stopped; go on with --resume"
    say(f"{done} at step {report.step}. Models: {', '.join(str(path) for path in report.model_files)}", err=False)
