"""``cgpipe train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cgpipe.cli.bar import TrainingBar
from cgpipe.cli.options import SectionedCommand, loudness_options, recipe_options, setting_options
from cgpipe.cli.signals import exit_code_of
from cgpipe.cli.terminal import say, warn
from cgpipe.cli.test import show_test
from cgpipe.training.config import TrainConfig, load_config

if TYPE_CHECKING:
    from cgpipe.training.run import TrainReport

IN_RECIPES_ONLY = ("gen_settings", "feature_taps", "moment_taps", "moment_lite1_taps", "stages")


@click.command(cls=SectionedCommand)
@recipe_options
@click.option("--training", type=bool, is_flag=False, flag_value="True", hidden=True, help="Train (the default).")
@click.option(
    "--testing",
    type=bool,
    is_flag=False,
    flag_value="True",
    metavar="",
    help="Test the run's models, like `cgpipe test`, instead of training.",
)
@setting_options(TrainConfig, leave_out=IN_RECIPES_ONLY)
@loudness_options
def command(recipe: Path | None, resume: bool, training: bool | None, testing: bool | None, **settings: object) -> None:
    """Train models from two folders of unpaired pictures, or of pairs.

    By default, trains horses and zebras from datasets/horse2zebra. A dataset has the folders trainA and trainB, and
    optionally testA and testB for sample grids. Defaults are in square brackets; a recipe overrides them, and options
    override the recipe.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    trains = training if training is not None else not testing
    config = load_config(recipe, given, resume=resume or not trains)
    if trains:
        _train(config, resume=resume)
    if testing:
        show_test(config)


def _train(config: TrainConfig, *, resume: bool) -> None:
    from cgpipe.parallel import is_first, is_member, launch
    from cgpipe.training.device_plan import gpus_of
    from cgpipe.training.trainer import train

    if "," in config.gpu_ids and not is_member():
        processes = len(gpus_of(config.gpu_ids))
        click.get_current_context().exit(launch(["-m", "cgpipe", *sys.argv[1:]], processes=processes))
    if is_first():
        say(f"{config.pair()}, {config.schedule()}")
    with TrainingBar(quiet=not is_first(), log_every=config.log_every) as bar:
        report = train(config, resume=resume, on_progress=bar.update)
    conclude(report, quiet=not is_first())


def conclude(report: TrainReport, *, quiet: bool = False) -> None:
    """Prints how a run ended; if a signal stopped it, exits with that signal's code.

    Args:
        report: the run's report.
        quiet: print nothing, because another process of the run does.
    """
    if not quiet:
        if report.unreadable:
            warn(f"Warning: pictures excluded from training: {len(report.unreadable)}.")
        done = "Finished" if report.finished else "Stopped; continue with --resume"
        if report.stopped_early:
            done = "Stopped early, since models no longer got better (the best are the files -best.safetensors),"
        files = ", ".join(str(path) for path in report.model_files)
        say(f"{done} at step {report.step}. Models: {files}", err=False)
        for published in report.published:
            (warn if published.refused or published.failure else say)(str(published))
    if report.stopped_by is not None and not report.finished:
        click.get_current_context().exit(exit_code_of(report.stopped_by))
