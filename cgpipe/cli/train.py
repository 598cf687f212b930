"""``cgpipe train``."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from cgpipe.training.config import Precision, TrainConfig, load_config

if TYPE_CHECKING:
    from cgpipe.training.run import Progress

IN_RECIPES_ONLY = ("gen_settings", "feature_taps", "stages")


def _setting_options(command: Any) -> Any:
    """One option for each setting of a run; none has a default here, so that a recipe is not overridden by it."""
    for setting in reversed([f for f in fields(TrainConfig) if f.name not in IN_RECIPES_ONLY]):
        flag = setting.name.replace("_", "-")
        kind: Any = type(setting.default)
        if setting.name == "precision":
            kind = click.Choice(get_args(Precision))
        elif setting.name.endswith("_dir"):
            kind = click.Path(file_okay=False, path_type=Path)
        names = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
        text = f"{setting.metadata['help']}  [{setting.default}]"
        command = click.option(names, setting.name, type=kind, default=None, help=text)(command)
    return command


@click.command()
@click.option("--config", "recipe", type=click.Path(dir_okay=False, path_type=Path), help="A recipe in TOML.")
@click.option("--resume", is_flag=True, help="Go on with the run in --checkpoint-dir, exactly where it was.")
@_setting_options
def command(recipe: Path | None, resume: bool, **settings: Any) -> None:
    """Train a pair of models from two folders of unpaired pictures.

    Without options: the recipe of the shipped horse and zebra models, on datasets/horse2zebra. A dataset has the
    folders trainA and trainB, and optionally testA and testB for the sample grids. What stands in square brackets is
    taken where neither the command line nor the recipe says anything.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    config = load_config(recipe, given)
    from cgpipe.training.trainer import train

    click.echo(f"{config.source} and {config.target}, {config.schedule()}", err=True)
    with TrainingBar() as bar:
        report = train(config, resume=resume, on_progress=bar.update)
    done = "Finished" if report.finished else "Stopped; go on with --resume"
    click.echo(f"{done} at step {report.step}. Models: {', '.join(str(path) for path in report.model_files)}")


class TrainingBar:
    """The line that shows how a run goes; silent where nobody watches."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, progress: Progress) -> None:
        """Shows a step."""
        if self._bar.total is None:
            self._bar.total, self._bar.initial, self._bar.n = progress.total_steps, progress.step - 1, progress.step - 1
        self._bar.update(1)
        if progress.losses:
            self._bar.set_postfix({name: f"{loss:.3f}" for name, loss in progress.losses.items()}, refresh=False)
