"""Measures one model on pictures that it has not seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from cgpipe.data.dataset import test_folders_of
from cgpipe.data.loading import forms_of
from cgpipe.data.pictures import Place
from cgpipe.data.settings import Way
from cgpipe.errors import ModelError, UsageError
from cgpipe.evaluation.evaluator import Evaluation, Evaluator, available_classifiers
from cgpipe.evaluation.grids import OnGrid, write_grids, write_pair_grids
from cgpipe.evaluation.paired import PairedEvaluator, PairedFigures
from cgpipe.evaluation.record import class_of, record_figures, record_pairs, record_steadiness
from cgpipe.evaluation.steadiness import Steadiness, measure_clip
from cgpipe.evaluation.steadiness import to_markdown as table_of_clips
from cgpipe.models import Model, ModelCard
from cgpipe.models.card import plain_name
from cgpipe.models.choose import Chosen, choose_model
from cgpipe.models.header import is_ours
from cgpipe.networks import Generator
from cgpipe.options import Group, Groups, ModelChoice, option, takes_options
from cgpipe.storage import atomic_write


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """What :func:`evaluate` found and made.

    Args:
        model: the measured model, as text.
        back: which one the cycle error was measured with; None where there was none.
        evaluation: the figures of pictures; None where only videos were measured.
        pairs: the figures of pairs, where the pictures are pairs.
        videos: how still each clip holds.
        files: grids and tables, in order.
    """

    model: str
    back: str | None
    evaluation: Evaluation | None
    pairs: PairedFigures | None = None
    videos: tuple[Steadiness, ...] = ()
    files: tuple[Path, ...] = ()

    def to_markdown(self) -> str:
        """What was measured, and the figures."""
        back = f" Way back: {self.back}." if self.back else ""
        parts = [f"{self.model}.{back}"]
        parts += [found.to_markdown() for found in (self.evaluation, self.pairs) if found]
        parts += [table_of_clips(self.videos)] if self.videos else []
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        figures = {} if self.evaluation is None else self.evaluation.to_dict()
        pairs = {} if self.pairs is None else {"pairs": self.pairs.to_dict()}
        videos = [clip.to_dict() for clip in self.videos]
        return {"model": self.model, "back": self.back, **figures, **pairs, "videos": videos}


@dataclass(frozen=True, kw_only=True)
class Measurement(Group):
    """What a model is measured on, and how.

    Args:
        inputs: folders of pictures to translate, in place of the dataset's.
        reference: folders of real pictures of what the result should look like, likewise.
        paired: the inputs and the references are pairs (:func:`cgpipe.data.pairs.find_pairs`), and how close each
            translation is to its partner is measured (:mod:`cgpipe.evaluation.paired`), in place of all but ``videos``.
        class_name: the ImageNet class to count; ``auto`` the one that the domains name, if any; None counts none.
        size: side in pixels at which pictures are translated and compared.
        masks: masks of the inputs, to measure how much changes outside them.
        videos: clips to measure how still the translation holds (:mod:`cgpipe.evaluation.steadiness`), reduced to a
            short side of ``size``. With clips alone, no pictures are measured.
    """

    inputs: Sequence[Path] = option(())
    reference: Sequence[Path] = option(())
    paired: bool = option(False)
    class_name: str | None = option("auto")
    size: int = option(256)
    masks: Path | None = option(None)
    videos: Sequence[Path] = option(())

    def folders(self, card: ModelCard, dataset: Path | None, way: Way) -> tuple[Sequence[Place], Sequence[Place]]:
        """What goes in, and what it is compared with.

        Raises:
            UsageError: neither a dataset nor both kinds of folders are named.
        """
        if dataset is None:
            if not self.inputs or not self.reference:
                raise UsageError(
                    "Name a dataset with testA and testB, or both --inputs and --reference, or --video alone."
                )
            return self.inputs, self.reference
        first, second = test_folders_of(card, dataset, way)
        return self.inputs or [first], self.reference or [second]


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Groups):
    """All groups of :func:`evaluate`."""

    choice: ModelChoice = ModelChoice()
    measurement: Measurement = Measurement()


@takes_options(all_groups=EvaluationOptions)
def evaluate(
    model: str,
    dataset: Path | None = None,
    *,
    options: EvaluationOptions,
    back: str | None = None,
    output: Path | None = None,
    record: bool = False,
    on_grid: OnGrid | None = None,
) -> ModelReport:
    """Measures one model on pictures that it has not seen.

    Args:
        model: a model file of any known format, or a name.
        dataset: folder with testA and testB; which of them goes in follows from the model.
        back: a model of the other direction; by default the one beside the model's file, or the one that ``--to``
            finds, if any.
        output: folder for grids of every input, ``figures.md``, ``figures.json`` and the page ``figures.html``.
        record: put the figures and the measured working scales into the model file's header.
        on_grid: called with every grid that is written.

    All else is a field of :class:`~cgpipe.options.ModelChoice` (``to``, ``source`` and ``direction`` of a foreign file,
    which does not say; the direction also is the way in which the dataset is taken) or of :class:`Measurement`
    (``size``, ``videos`` and so on), as a keyword, or a whole group.

    Raises:
        ModelError: there is no such model, or it cannot be read.
        UsageError: neither a dataset nor both kinds of folders are named, a foreign file is to be recorded in, the
            model enlarges pictures, or something is asked for that is not measured of pairs or of videos alone.
        DataError: a folder is missing or holds too few pictures, or a clip too few frames.
        MediaError: a clip cannot be read.
        MissingDependencyError: what measures is not installed.
    """
    choice, asked = replace(options.choice, model=model), options.measurement
    measures_pictures = bool(dataset or asked.inputs or asked.reference or not asked.videos)
    _refuse_idle(asked, back, sets=measures_pictures and not asked.paired)
    found = choose_model(choice)
    if record and (found.card is None or not is_ours(found.path)):
        raise UsageError(
            f"{model} is not one of cgpipe's own files, and has no header: `cgpipe models import` it first."
        )
    if record and found.found.entry.place == "shipped":
        raise UsageError(f"{model} ships with cgpipe and stays as it is: record in a copy of {found.path}.")
    taken = found.load()
    if taken.generator.enlarges > 1:
        raise UsageError(f"{model} enlarges pictures, and results of another size have nothing to be compared with.")
    taken.generator.eval()
    clips = tuple(measure_clip(taken, clip, size=asked.size) for clip in asked.videos)
    report = ModelReport(model=str(found), back=None, evaluation=None, videos=clips)
    if measures_pictures:
        inputs, reference = asked.folders(taken.card, dataset, choice.direction or "auto")
        job = _Job(found, taken, asked, inputs, reference, output, record, on_grid)
        report = _on_pairs(report, job) if asked.paired else _on_sets(report, job, back)
    if record:
        record_steadiness(found.path, clips)
    if output is not None:
        report = replace(report, files=(*report.files, *_write_tables(output, report)))
        report = replace(report, files=(*report.files, _write_page(output, report)))
    return report


def _refuse_idle(asked: Measurement, back: str | None, *, sets: bool) -> None:
    """Raises UsageError for what says how two sets of pictures are measured, where there are none."""
    named = {"masks": asked.masks, "a class": asked.class_name not in ("auto", None), "a way back": back}
    idle = [name for name, given in named.items() if given]
    if idle and not sets:
        kind = "pairs" if asked.paired else "videos alone"
        raise UsageError(f"Of {kind} nothing is measured with {idle[0]}: omit it, or name two sets of pictures.")


class _Job(NamedTuple):
    """Pictures to measure a model on."""

    found: Chosen
    model: Model
    asked: Measurement
    inputs: Sequence[Place]
    reference: Sequence[Place]
    output: Path | None
    record: bool
    on_grid: OnGrid | None


def _on_sets(report: ModelReport, job: _Job, back: str | None) -> ModelReport:
    there, card = job.model.generator.eval(), job.model.card
    reverse, backward = _way_back(job, back)
    figures = _evaluator(job.inputs, job.reference, job.asked, job.model).evaluate(there, backward)
    report = replace(report, back=str(reverse) if reverse else None, evaluation=figures)
    if job.output is not None:
        grids = write_grids(
            job.output, card.name, job.inputs, there, backward, job.asked.size, job.on_grid, forms_of(job.model)[0]
        )
        report = replace(report, files=tuple(grids))
    if job.record:
        record_figures(job.found.path, figures, job.inputs, job.reference)
    return report


def _way_back(job: _Job, back: str | None) -> tuple[Chosen | None, Generator | None]:
    """The model of the other direction, and its generator, which takes what this one makes and makes what it takes."""
    found = find_back(back, job.found.path, job.model.card)
    generator = None if found is None else found.load().generator.eval()
    made, taken = job.model.generator.channels[::-1]
    if generator is None or generator.channels == (made, taken):
        return found, generator
    if back is None:
        return None, None
    raise UsageError(
        f"{back} takes {generator.channels[0]} channels and makes {generator.channels[1]}: the way back of "
        f"{job.found.path.name} takes {made} and makes {taken}."
    )


def _on_pairs(report: ModelReport, job: _Job) -> ModelReport:
    if len(job.inputs) != 1 or len(job.reference) != 1:
        raise UsageError("Pairs come from one folder or list of inputs and one of references.")
    there = job.model.generator.eval()
    evaluator = PairedEvaluator(job.inputs[0], job.reference[0], size=job.asked.size, forms=forms_of(job.model))
    report = replace(report, pairs=evaluator.evaluate(there))
    if job.output is not None:
        name = job.model.card.name
        grids = write_pair_grids(job.output, name, evaluator.pairs, there, job.asked.size, job.on_grid, evaluator.forms)
        report = replace(report, files=tuple(grids))
    if job.record and report.pairs is not None:
        record_pairs(job.found.path, report.pairs)
    return report


def _evaluator(inputs: Sequence[Place], reference: Sequence[Place], asked: Measurement, model: Model) -> Evaluator:
    card = model.card
    return Evaluator(
        inputs,
        reference,
        class_name=class_of(card.source, card.target) if asked.class_name == "auto" else asked.class_name,
        size=asked.size,
        networks=available_classifiers(),
        masks=asked.masks,
        forms=forms_of(model),
    )


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


def _write_page(folder: Path, report: ModelReport) -> Path:
    """The figures and grids for a browser."""
    from cgpipe.pages.page import rows_of
    from cgpipe.pages.runs import write_figures

    found, figures, rest = report.evaluation, [], []
    if found is not None:
        for name, row in found.figures.items():
            figures += [(f"KID x1000, {name}", f"{row.kid:.1f}"), (f"FID, {name}", f"{row.fid:.1f}")]
            if row.class_share is not None:
                figures.append((f"Seen as {found.class_name}, {name}", f"{row.class_share:.1%}"))
        figures.append(("Mean change of 255", f"{found.mean_change:.1f}"))
        figures += [("Cycle error of 255", f"{found.cycle_error:.1f}")] if found.cycle_error is not None else []
        told = {name: value for name, value in found.to_dict().items() if name != "figures"}
        rest.append(("Measured", rows_of(told | {"way back": report.back})))
    if (close := report.pairs) is not None:
        figures += [("L1 of 255", f"{close.l1:.2f}"), ("PSNR in dB", f"{close.psnr:.2f}")]
        figures += [("SSIM", f"{close.ssim:.4f}")]
        rest.append(("Measured", rows_of(close.to_dict())))
    rest += [(f"Video {index}", rows_of(clip.to_dict())) for index, clip in enumerate(report.videos, 1)]
    return write_figures(folder, "Evaluation", report.model, [("Figures", figures), *rest])
