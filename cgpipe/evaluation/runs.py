"""What a run's models make of the test sets: grids of every picture, and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cgpipe.data.dataset import sets_to_test_on
from cgpipe.data.loading import forms_of
from cgpipe.data.settings import DataSettings
from cgpipe.errors import ModelNotFoundError
from cgpipe.evaluation.evaluator import Evaluation, Evaluator, require_size
from cgpipe.evaluation.grids import OnGrid, write_grids, write_pair_grids
from cgpipe.evaluation.paired import PairedEvaluator, PairedFigures
from cgpipe.evaluation.record import class_of, record_figures, record_pairs
from cgpipe.models import Found, Model, find_model, load_any
from cgpipe.models.card import plain_name


@dataclass(frozen=True, kw_only=True)
class TestReport:
    """What :func:`test` made.

    Args:
        grids: files, in order.
        evaluations: the figures of each direction, by its source and its target.
        pairs: the figures of pairs, likewise, where the test sets are pairs.
    """

    grids: tuple[Path, ...]
    evaluations: Mapping[tuple[str, str], Evaluation]
    pairs: Mapping[tuple[str, str], PairedFigures]


def test(
    data: DataSettings,
    folder: Path,
    results: Path,
    *,
    size: int = 256,
    figures: bool = True,
    paired: bool = False,
    on_grid: OnGrid | None = None,
) -> TestReport:
    """Translates all of testA and testB, there and back where there is a way back, and measures.

    The models are those in ``folder``, or, where that holds none, those that ``--to`` finds: of both
    directions, or of one where there is only that.

    Args:
        data: the test sets, and what the domains are called.
        folder: that of the run.
        results: folder for the grids.
        size: side in pixels at which pictures are translated (the middle square of others).
        figures: measure too, which needs the extra ``metrics``.
        paired: the test sets are pairs: grids show the partners, and how close translations are to them is measured.
        on_grid: called with every grid that is written.

    Raises:
        UsageError: ``size`` is not one that a generator accepts.
        DataError: testA or testB is missing or empty.
        ModelNotFoundError: there is no model of this pair.
        MissingDependencyError: figures are asked for, and what measures them is not installed.
    """
    models = load_models(data, folder)
    grids: list[Path] = []
    evaluations: dict[tuple[str, str], Evaluation] = {}
    pairs: dict[tuple[str, str], PairedFigures] = {}
    for domains, model in models.items():
        there, forms = model.generator.eval(), forms_of(model)
        inputs, reference = sets_to_test_on(data, domains[0])
        back = models[domains[::-1]].generator.eval() if domains[::-1] in models else None
        for generator in (there, back):
            require_size(size, generator)
        if paired:
            evaluator = PairedEvaluator(inputs, reference, size=size, forms=forms)
            pairs[domains] = evaluator.evaluate(there)
            grids += write_pair_grids(results, plain_name(*domains), evaluator.pairs, there, size, on_grid, forms)
            continue
        grids += write_grids(results, plain_name(*domains), [inputs], there, back, size, on_grid, forms[0])
        if figures:
            measures = Evaluator(inputs, reference, class_name=class_of(*domains), size=size, forms=forms)
            evaluations[domains] = measures.evaluate(there, back)
    return TestReport(grids=tuple(grids), evaluations=evaluations, pairs=pairs)


def record(data: DataSettings, folder: Path, report: TestReport) -> list[Path]:
    """Puts the figures of ``report`` and the measured working scales into the headers of the run's model files.

    Raises:
        ModelError: the run's folder holds no model files.
    """
    for domains, evaluation in report.evaluations.items():
        record_figures(model_path(folder, *domains), evaluation, *sets_to_test_on(data, domains[0]))
    for domains, pairs in report.pairs.items():
        record_pairs(model_path(folder, *domains), pairs)
    return [model_path(folder, *domains) for domains in (*report.evaluations, *report.pairs)]


def model_path(folder: Path, source: str, target: str) -> Path:
    """Where a run in ``folder`` keeps the model of one direction."""
    return folder / f"{plain_name(source, target)}.safetensors"


def snapshot_folder(folder: Path, epoch: int) -> Path:
    """Where a run in ``folder`` keeps the models of the end of an epoch, counted from 1."""
    return folder / f"epoch-{epoch:04d}"


def find_snapshot(folder: Path, epoch: int) -> Path:
    """The folder of an epoch's models.

    Raises:
        ModelNotFoundError: the run kept none; the message names those that it did.
    """
    found = snapshot_folder(folder, epoch)
    if not found.is_dir():
        kept = ", ".join(str(int(path.name[6:])) for path in sorted(folder.glob("epoch-[0-9]*"))) or "none"
        raise ModelNotFoundError(
            f"{folder} has no models of epoch {epoch}. Kept are those of: {kept}. `cgpipe train --snapshot-every N` "
            "keeps those of every N epochs."
        )
    return found


def load_models(data: DataSettings, folder: Path) -> dict[tuple[str, str], Model]:
    """The models by source and target: those in the run's folder, or, where that holds none, those of the zoo.

    Raises:
        ModelNotFoundError: there is none.
    """
    pair = (data.source, data.target)
    paths = {domains: model_path(folder, *domains) for domains in (pair, pair[::-1])}
    found: dict[tuple[str, str], Path | Found] = {d: path for d, path in paths.items() if path.is_file()}
    found = found or {domains: model for domains in paths if (model := _in_zoo(*domains)) is not None}
    found = found or {pair: find_model(pair[1], source=pair[0])}  # raises, and says what there is
    return {domains: load_any(model) for domains, model in found.items()}


def _in_zoo(source: str, target: str) -> Found | None:
    try:
        return find_model(target, source=source)
    except ModelNotFoundError:
        return None
