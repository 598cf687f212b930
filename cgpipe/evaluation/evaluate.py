"""Measures one model on pictures that it has not seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cgpipe.data.dataset import test_folders_of
from cgpipe.data.settings import Way
from cgpipe.errors import ModelError, UsageError
from cgpipe.evaluation.evaluator import Evaluation, Evaluator, available_classifiers
from cgpipe.evaluation.grids import OnGrid, write_grids
from cgpipe.evaluation.record import class_of, record_figures, record_steadiness
from cgpipe.evaluation.steadiness import Steadiness, measure_clip
from cgpipe.evaluation.steadiness import to_markdown as table_of_clips
from cgpipe.models import ModelCard
from cgpipe.models.card import plain_name
from cgpipe.models.choose import Chosen, choose_model
from cgpipe.models.header import is_ours
from cgpipe.options import ModelChoice
from cgpipe.storage import atomic_write


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """What :func:`evaluate` found and made.

    Args:
        model: the measured model, as text.
        back: which one the cycle error was measured with; None where there was none.
        evaluation: the figures of pictures; None where only videos were measured.
        videos: how still each clip holds.
        files: grids and tables, in order.
    """

    model: str
    back: str | None
    evaluation: Evaluation | None
    videos: tuple[Steadiness, ...] = ()
    files: tuple[Path, ...] = ()

    def to_markdown(self) -> str:
        """What was measured, and the figures."""
        back = f" Way back: {self.back}." if self.back else ""
        parts = [f"{self.model}.{back}"]
        parts += [self.evaluation.to_markdown()] if self.evaluation else []
        parts += [table_of_clips(self.videos)] if self.videos else []
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        figures = {} if self.evaluation is None else self.evaluation.to_dict()
        return {"model": self.model, "back": self.back, **figures, "videos": [clip.to_dict() for clip in self.videos]}


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
    videos: Sequence[Path] = (),
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
        videos: clips to measure how still the translation holds (:mod:`cgpipe.evaluation.steadiness`), reduced to a
            short side of ``size``. With clips alone, no pictures are measured.
        output: folder for grids of every input, ``figures.md`` and ``figures.json``.
        record: put the figures and the measured working scales into the model file's header.
        on_grid: told of every grid that is written.

    Raises:
        ModelError: there is no such model, or it cannot be read.
        UsageError: neither a dataset nor both kinds of folders are named, or a foreign file is to be recorded in.
        DataError: a folder is missing or holds too few pictures, or a clip too few frames.
        MediaError: a clip cannot be read.
        MissingDependencyError: what measures is not installed.
    """
    way = None if direction == "auto" else direction
    found = choose_model(
        ModelChoice(model=model, to=to, source=source, direction=way, batch_statistics=batch_statistics)
    )
    if record and (found.card is None or not is_ours(found.path)):
        raise UsageError(
            f"{model} is not one of cgpipe's own files, and has no header: `cgpipe models import` it first."
        )
    taken = found.load()
    there, card = taken.generator.eval(), taken.card
    clips = tuple(measure_clip(taken, clip, size=size) for clip in videos)
    report = ModelReport(model=str(found), back=None, evaluation=None, videos=clips)
    if not videos or dataset or inputs or reference:
        inputs, reference = _sets(card, dataset, inputs, reference, direction)
        chosen = class_of(card.source, card.target) if class_name == "auto" else class_name
        reverse = find_back(back, found.path, card)
        networks = available_classifiers()
        evaluator = Evaluator(inputs, reference, class_name=chosen, size=size, networks=networks, masks=masks)
        backward = None if reverse is None else reverse.load().generator.eval()
        figures = evaluator.evaluate(there, backward)
        report = replace(report, back=str(reverse) if reverse else None, evaluation=figures)
        if output is not None:
            grids = write_grids(output, card.name, inputs, there, backward, size, on_grid)
            report = replace(report, files=tuple(grids))
        if record:
            record_figures(found.path, figures, inputs, reference)
    if record:
        record_steadiness(found.path, clips)
    if output is not None:
        report = replace(report, files=(*report.files, *_write_tables(output, report)))
    return report


def _sets(
    card: ModelCard, dataset: Path | None, inputs: Sequence[Path], reference: Sequence[Path], direction: Way
) -> tuple[Sequence[Path], Sequence[Path]]:
    if dataset is None:
        if not inputs or not reference:
            raise UsageError("Name a dataset with testA and testB, or both --inputs and --reference, or --video alone.")
        return inputs, reference
    first, second = test_folders_of(card, dataset, direction)
    return inputs or [first], reference or [second]


def find_back(back: str | None, path: Path, card: ModelCard) -> Chosen | None:
    """The model of the other direction: the one named, the one beside the file, or the one that ``--to`` finds."""
    if back is not None:
        return choose_model(ModelChoice(model=back))
    beside = path.with_name(f"{plain_name(card.target, card.source)}.safetensors")
    try:
        if beside.is_file():
            return choose_model(ModelChoice(model=beside))
        return choose_model(ModelChoice(to=card.source, source=card.target))
    except ModelError:
        return None


def _write_tables(folder: Path, report: ModelReport) -> list[Path]:
    """The figures for people, and for programs."""
    texts = {"figures.md": report.to_markdown() + "\n", "figures.json": json.dumps(report.to_dict(), indent=2) + "\n"}
    for name, text in texts.items():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]
