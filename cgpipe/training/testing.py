"""Looks at what was trained: grids of every test picture, and figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cgpipe.errors import ModelError, ModelNotFoundError, UsageError
from cgpipe.media.files import atomic_write
from cgpipe.metrics.evaluate import Evaluation, Evaluator, Folders, imagenet_class, judges_at_hand, pictures_of
from cgpipe.metrics.scales import KID_TOLERANCE, kid_by_side, share_by_side, working_scales
from cgpipe.models import Found, Model, ModelCard, find_model, load_any, load_model, save_model
from cgpipe.models.card import plain_name
from cgpipe.models.header import is_ours
from cgpipe.models.loading import narrowest
from cgpipe.networks import Generator
from cgpipe.training.config import TrainConfig
from cgpipe.training.data import to_network_range
from cgpipe.training.samples import load_square, sample_grid, save_grid
from cgpipe.training.sets import sets_to_test_on
from cgpipe.training.sides import Way, sides_of

ROW = 8
"""Pictures in a row of a grid."""


OnGrid = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class TestReport:
    """What :func:`test` made.

    Args:
        grids: files, in order.
        evaluations: the figures of each direction, by its source and its target.
    """

    grids: tuple[Path, ...]
    evaluations: Mapping[tuple[str, str], Evaluation]


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """What :func:`evaluate` found and made.

    Args:
        model: which model was measured, in words.
        back: which one the cycle error was measured with; None where there was none.
        evaluation: the figures.
        files: grids and tables, in order.
    """

    model: str
    back: str | None
    evaluation: Evaluation
    files: tuple[Path, ...]

    def to_markdown(self) -> str:
        """What was measured, and the figures."""
        back = f" Way back: {self.back}." if self.back else ""
        return f"{self.model}.{back}\n\n{self.evaluation.to_markdown()}"


def test(config: TrainConfig, *, size: int = 256, figures: bool = True, on_grid: OnGrid | None = None) -> TestReport:
    """Translates all of testA and testB, there and back where there is a way back, and measures.

    The models are those in ``config.checkpoint_dir``, or, where that holds none, those that ``--to`` finds: of both
    directions, or of one where there is only that.

    Args:
        size: side in pixels at which pictures are translated (the middle square of others).
        figures: measure too, which needs the extra ``metrics``.
        on_grid: told of every grid that is written.

    Raises:
        DataError: testA or testB is missing or empty.
        ModelNotFoundError: there is no model of this pair.
        MissingDependencyError: figures are asked for, and what measures them is not installed.
    """
    generators = load_generators(config)
    grids: list[Path] = []
    evaluations: dict[tuple[str, str], Evaluation] = {}
    for domains, there in generators.items():
        inputs, reference = sets_to_test_on(config, domains[0])
        back = generators.get(domains[::-1])
        grids += write_grids(config.results_dir, plain_name(*domains), [inputs], there, back, size, on_grid)
        if figures:
            evaluator = Evaluator(inputs, reference, class_name=class_of(*domains), size=size)
            evaluations[domains] = evaluator.evaluate(there, back)
    return TestReport(grids=tuple(grids), evaluations=evaluations)


def record(config: TrainConfig, report: TestReport) -> list[Path]:
    """Puts the figures of ``report`` and the measured working scales into the headers of the run's model files.

    Raises:
        ModelError: the run's folder holds no model files.
    """
    for domains, evaluation in report.evaluations.items():
        record_figures(config.model_path(*domains), evaluation, *sets_to_test_on(config, domains[0]))
    return [config.model_path(*domains) for domains in report.evaluations]


def evaluate(
    model: str,
    dataset: Path | None = None,
    *,
    inputs: Sequence[Path] = (),
    reference: Sequence[Path] = (),
    back: str | None = None,
    to: str | None = None,
    source: str | None = None,
    direction: Way = "auto",
    batch_statistics: bool = False,
    class_name: str | None = "auto",
    size: int = 256,
    masks: Path | None = None,
    output: Path | None = None,
    record: bool = False,
    on_grid: OnGrid | None = None,
) -> ModelReport:
    """Measures one model on pictures that it has not seen.

    Args:
        model: a model file of any known format, or a name.
        dataset: folder with testA and testB; which of them goes in follows from the model.
        inputs: folders of pictures to translate, in place of the dataset's.
        reference: folders of real pictures of what the result should look like, likewise.
        back: a model of the other direction; by default the one beside the model's file, or the one that ``--to``
            finds, if any.
        to, source: the domains, for a foreign file, which does not say.
        direction: which way the dataset, and a foreign file that holds both generators, is taken.
        batch_statistics: normalise a foreign network with batch norm by each picture's own statistics.
        class_name: the ImageNet class to count; ``auto`` the one that the domains name, if any; None counts none.
        size: side in pixels at which pictures are translated and compared.
        masks: masks of the inputs, to measure how much changes outside them.
        output: folder for grids of every input, ``figures.md`` and ``figures.json``.
        record: put the figures and the measured working scales into the model file's header.
        on_grid: told of every grid that is written.

    Raises:
        ModelError: there is no such model, or it cannot be read.
        UsageError: neither a dataset nor both kinds of folders are named, or a foreign file is to be recorded in.
        DataError: a folder is missing or holds too few pictures.
        MissingDependencyError: what measures is not installed.
    """
    found = find_model(to, source=source, file=model)
    if record and (found.card is None or not is_ours(found.path)):
        raise UsageError(
            f"{model} is not one of cgpipe's own files, and has no header: `cgpipe models import` it first."
        )
    way = None if direction == "auto" else direction
    taken = load_any(found, source=source, target=to, direction=way, batch_statistics=batch_statistics)
    there, card = taken.generator.eval(), taken.card
    inputs, reference = _sets(card, dataset, inputs, reference, direction)
    chosen = class_of(card.source, card.target) if class_name == "auto" else class_name
    reverse = find_back(back, found.path, card)
    evaluator = Evaluator(inputs, reference, class_name=chosen, size=size, networks=judges_at_hand(), masks=masks)
    backward = None if reverse is None else load_any(reverse).generator.eval()
    report = ModelReport(
        model=str(found),
        back=str(reverse) if reverse else None,
        evaluation=evaluator.evaluate(there, backward),
        files=(),
    )
    if output is not None:
        grids = write_grids(output, card.name, inputs, there, backward, size, on_grid)
        report = replace(report, files=(*grids, *_write_tables(output, report)))
    if record:
        record_figures(found.path, report.evaluation, inputs, reference)
    return report


def _sets(
    card: ModelCard, dataset: Path | None, inputs: Sequence[Path], reference: Sequence[Path], direction: Way
) -> tuple[Sequence[Path], Sequence[Path]]:
    if dataset is None:
        if not inputs or not reference:
            raise UsageError("Name a dataset with testA and testB, or both --inputs and --reference.")
        return inputs, reference
    first, second = (dataset / f"test{side}" for side in sides_of(card, dataset, direction))
    return inputs or [first], reference or [second]


def find_back(back: str | None, path: Path, card: ModelCard) -> Found | None:
    """The model of the other direction: the one named, the one beside the file, or the one that ``--to`` finds."""
    if back is not None:
        return find_model(file=back)
    beside = path.with_name(f"{plain_name(card.target, card.source)}.safetensors")
    try:
        if beside.is_file():
            return find_model(file=beside)
        return find_model(card.source, source=card.target)
    except ModelError:
        return None


def _write_tables(folder: Path, report: ModelReport) -> list[Path]:
    """The figures for people, and for programs."""
    values = {"model": report.model, "back": report.back, **report.evaluation.to_dict()}
    texts = {"figures.md": report.to_markdown() + "\n", "figures.json": json.dumps(values, indent=2) + "\n"}
    for name, text in texts.items():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def record_figures(path: Path, evaluation: Evaluation, inputs: Folders, reference: Folders) -> None:
    """Puts figures, and the working scales that are measured now, into the header of a model file of ours.

    Raises:
        ModelError: there is no such file, or it cannot be written.
    """
    model = load_model(path)
    generator, domains = model.generator.eval(), (model.card.source, model.card.target)
    if (wanted := class_of(*domains)) is not None:
        shares = share_by_side(generator, inputs, wanted)
        success = {side: share if wanted == domains[1] else 1 - share for side, share in shares.items()}
        scales = working_scales(success)
        by_side = {f"share seen as {wanted} by side": {str(side): round(share, 3) for side, share in shares.items()}}
    else:
        kids = kid_by_side(generator, inputs, reference)
        scales = working_scales({side: -value for side, value in kids.items()}, KID_TOLERANCE)
        by_side = {"kid_x1000 by side": {str(side): round(value, 2) for side, value in kids.items()}}
    quality = {
        **model.card.quality,
        f"{evaluation.inputs} at {evaluation.size}": quality_of(evaluation),
        **by_side,
    }
    card = replace(model.card, quality=quality, working_scales=scales)
    save_model(path, Model(card, model.generator), dtype=narrowest(model.generator))


def quality_of(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as a model's header keeps it, rounded."""
    figures: dict[str, Any] = {
        row.weights: {"share": _rounded(row.class_share, 4), "kid_x1000": _rounded(row.kid, 2)}
        for row in evaluation.figures.values()
    }
    background = _rounded(evaluation.background_change, 2)
    return figures | {
        "pictures": evaluation.input_count,
        "reference": f"{evaluation.reference_count} of {evaluation.reference}",
        "share_of_class": evaluation.class_name,
        "mean_change_of_255": _rounded(evaluation.mean_change, 2),
        **({} if evaluation.background_change is None else {"background_change_of_255": background}),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def load_generators(config: TrainConfig) -> dict[tuple[str, str], Generator]:
    """The generators by source and target: those in the run's folder, or, where that holds none, those of the zoo.

    Raises:
        ModelNotFoundError: there is none.
    """
    pair = (config.source, config.target)
    paths = {domains: config.model_path(*domains) for domains in (pair, pair[::-1])}
    found: dict[tuple[str, str], Path | Found] = {d: path for d, path in paths.items() if path.is_file()}
    found = found or {domains: model for domains in paths if (model := _in_zoo(*domains)) is not None}
    found = found or {pair: find_model(pair[1], source=pair[0])}  # raises, and says what there is
    return {domains: load_any(model).generator.eval() for domains, model in found.items()}


def _in_zoo(source: str, target: str) -> Found | None:
    try:
        return find_model(target, source=source)
    except ModelNotFoundError:
        return None


def write_grids(
    folder: Path,
    name: str,
    inputs: Sequence[Path],
    there: Generator,
    back: Generator | None,
    size: int,
    on_grid: OnGrid | None = None,
) -> list[Path]:
    """Real, generated and, with a way back, reconstructed, one below the other, for every picture; the files."""
    pictures = pictures_of(inputs)
    paths = []
    for first in range(0, len(pictures), ROW):
        real = torch.stack([to_network_range(load_square(path, size)) for path in pictures[first : first + ROW]])
        paths.append(folder / f"{name}-{first + 1:04d}.jpg")
        save_grid(paths[-1], sample_grid(real, there, back))
        if on_grid:
            on_grid(paths[-1])
    return paths


def class_of(source: str, target: str) -> str | None:
    """The ImageNet class whose share tells most: what the result should show, else what it should show no longer."""
    for domain in (target, source):
        try:
            imagenet_class(domain)
        except UsageError:
            continue
        return domain
    return None
