"""``cgpipe distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cgpipe.cli import complete
from cgpipe.cli.bar import TrainingBar
from cgpipe.cli.options import LocalPath, loudness_options, setting_options
from cgpipe.cli.terminal import say
from cgpipe.training.distill_config import DistillConfig, load_distill_config

NOT_OPTIONS = ("teacher", "dataset_dir", "student_settings", "feature_taps")


@click.command()
@click.argument("teacher", shell_complete=complete.models)
@click.argument("dataset", type=LocalPath(path_type=Path))
@click.option(
    "--config",
    "recipe",
    type=LocalPath(dir_okay=False, path_type=Path),
    shell_complete=complete.recipes,
    help="A recipe in TOML.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --checkpoint-dir, exactly where it was.")
@setting_options(DistillConfig, leave_out=NOT_OPTIONS)
@loudness_options
def command(teacher: str, dataset: Path, recipe: Path | None, resume: bool, **settings: Any) -> None:
    """Make a model smaller: train a small generator to do what TEACHER does.

    TEACHER is a model's name or a model file of any known project. DATASET is a folder with trainA and trainB, as for
    train, or just a folder of pictures of what the teacher takes. What stands in square brackets is taken where neither
    the command line nor the recipe says anything.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    config = load_distill_config(recipe, {"teacher": teacher, "dataset_dir": dataset, **given})
    from cgpipe.training.distill import distill

    with TrainingBar(log_every=config.log_every) as bar:
        report = distill(config, resume=resume, on_progress=bar.update)
    done = "Finished" if report.finished else "Stopped; go on with --resume"
    say(f"{done} at step {report.step}. Model: {report.model_files[0]}", err=False)
