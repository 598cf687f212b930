"""``cgpipe distill``."""

from __future__ import annotations

from pathlib import Path

import click

from cgpipe.cli import complete
from cgpipe.cli.bar import TrainingBar
from cgpipe.cli.options import LocalPath, SectionedCommand, loudness_options, recipe_options, setting_options
from cgpipe.cli.train import conclude
from cgpipe.training.distill_config import DistillConfig, load_distill_config

NOT_OPTIONS = ("teacher", "dataset_dir", "student_settings", "feature_taps")


@click.command(cls=SectionedCommand)
@click.argument("teacher", required=False, shell_complete=complete.models)
@click.argument("dataset", type=LocalPath(path_type=Path), required=False)
@recipe_options
@setting_options(DistillConfig, leave_out=NOT_OPTIONS)
@loudness_options
def command(teacher: str | None, dataset: Path | None, recipe: Path | None, resume: bool, **settings: object) -> None:
    """Distill TEACHER into a smaller, faster model that gives the same output.

    TEACHER is a model's name, a model file, a checkpoint, or a network as ONNX or TorchScript; omit it with --like.
    DATASET is a folder with trainA and trainB, as for train, or just a folder of pictures of the source domain. Both
    may be omitted with --resume and --checkpoint-dir. Defaults are in square brackets; a recipe overrides them, and
    options override the recipe.
    """
    if settings["like"] and dataset is None and teacher is not None:
        dataset, teacher = Path(teacher), None  # the painting stands for a teacher
    given = {"teacher": teacher, "dataset_dir": dataset, **settings}
    config = load_distill_config(recipe, {n: value for n, value in given.items() if value is not None}, resume=resume)
    if not (config.teacher or config.like) or config.dataset_dir == Path():
        raise click.UsageError("Name the teacher and the dataset, or resume a run with --resume and --checkpoint-dir.")
    from cgpipe.training.distill import distill

    with TrainingBar(log_every=config.log_every) as bar:
        report = distill(config, resume=resume, on_progress=bar.update)
    conclude(report)
