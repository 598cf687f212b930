"""Looks at what was trained: grids of every test picture, and figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cgpipe.errors import UsageError
from cgpipe.media.folders import find_pictures
from cgpipe.metrics.evaluate import Evaluation, Evaluator, imagenet_class
from cgpipe.metrics.scales import share_by_side, working_scales
from cgpipe.models import Model, find_model, load_any, load_model, save_model
from cgpipe.networks import Generator
from cgpipe.training.config import TrainConfig
from cgpipe.training.data import to_network_range
from cgpipe.training.samples import load_square, sample_grid, save_grid

ROW = 8
"""Pictures in a row of a grid."""


@dataclass(frozen=True, kw_only=True)
class TestReport:
    """What :func:`test` made: grids as files, in order, and the figures of each direction."""

    grids: tuple[Path, ...]
    evaluations: tuple[Evaluation, ...]


def test(
    config: TrainConfig, *, size: int = 256, figures: bool = True, on_grid: Callable[[Path], None] | None = None
) -> TestReport:
    """Translates all of testA and testB there and back, and measures both directions.

    The models are those in ``config.checkpoint_dir``, or, where that holds none, those that ``--to`` finds.

    Args:
        size: side in pixels at which pictures are translated (the middle square of others).
        figures: measure too, which needs the extra ``metrics``.
        on_grid: told of every grid that is written.

    Raises:
        DataError: testA or testB is missing or empty.
        ModelNotFoundError: there is no model of this pair.
        MissingDependencyError: figures are asked for, and what measures them is not installed.
    """
    pair = ((config.source, config.target), (config.target, config.source))
    forward, backward = (load_generator(config, *domains) for domains in pair)
    grids: list[Path] = []
    evaluations: list[Evaluation] = []
    for letter, (source, target), there, back in (("A", pair[0], forward, backward), ("B", pair[1], backward, forward)):
        pictures = find_pictures(config.dataset_dir / f"test{letter}")
        for first in range(0, len(pictures), ROW):
            path = config.results_dir / f"{source}2{target}-{first + 1:04d}.jpg"
            write_grid(path, pictures[first : first + ROW], there, back, size)
            grids.append(path)
            if on_grid:
                on_grid(path)
        if figures:
            reference = config.dataset_dir / f"test{'B' if letter == 'A' else 'A'}"
            evaluator = Evaluator(
                config.dataset_dir / f"test{letter}", reference, class_name=class_of(source, target), size=size
            )
            evaluations.append(evaluator.evaluate(there, back))
    return TestReport(grids=tuple(grids), evaluations=tuple(evaluations))


def record(config: TrainConfig, report: TestReport) -> list[Path]:
    """Puts the figures of ``report`` and the measured working scales into the headers of the run's model files.

    Raises:
        ModelError: the run's folder holds no model files.
    """
    pairs = ((config.source, config.target), (config.target, config.source))
    paths = []
    for letter, (source, target), evaluation in zip("AB", pairs, report.evaluations, strict=True):
        path = config.model_path(source, target)
        model = load_model(path)
        quality = {f"{evaluation.inputs} at {evaluation.size}": quality_of(evaluation)}
        scales = model.card.working_scales
        if (wanted := class_of(source, target)) is not None:
            shares = share_by_side(model.generator.eval(), config.dataset_dir / f"test{letter}", wanted)
            success = {side: share if wanted == target else 1 - share for side, share in shares.items()}
            scales = working_scales(success)
            quality["share seen as " + wanted + " by side"] = {str(s): round(v, 3) for s, v in shares.items()}
        save_model(path, Model(replace(model.card, quality=quality, working_scales=scales), model.generator))
        paths.append(path)
    return paths


def quality_of(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as a model's header keeps it, rounded."""
    figures: dict[str, Any] = {
        row.weights: {"share": _rounded(row.class_share, 4), "kid_x1000": _rounded(row.kid, 2)}
        for row in evaluation.figures.values()
    }
    return figures | {
        "pictures": evaluation.input_count,
        "reference": f"{evaluation.reference_count} of {evaluation.reference}",
        "share_of_class": evaluation.class_name,
        "mean_change_of_255": _rounded(evaluation.mean_change, 2),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def load_generator(config: TrainConfig, source: str, target: str) -> Generator:
    """The generator of one direction, from the run's folder or else from the zoo."""
    path = config.model_path(source, target)
    return load_any(path if path.is_file() else find_model(target, source=source)).generator.eval()


def write_grid(path: Path, pictures: list[Path], there: Generator, back: Generator, size: int) -> None:
    """Real, generated and reconstructed, one below the other, for a row of pictures."""
    real = torch.stack([to_network_range(load_square(picture, size)) for picture in pictures])
    save_grid(path, sample_grid(real, there, back))


def class_of(source: str, target: str) -> str | None:
    """The ImageNet class whose share tells most: what the result should show, else what it should show no longer."""
    for domain in (target, source):
        try:
            imagenet_class(domain)
        except UsageError:
            continue
        return domain
    return None
