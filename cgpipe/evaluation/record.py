"""What was measured of a model, kept in its file's header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cgpipe.data.loading import forms_of
from cgpipe.errors import UsageError
from cgpipe.evaluation.evaluator import Evaluation, Folders, imagenet_class
from cgpipe.evaluation.paired import PairedFigures
from cgpipe.evaluation.scales import KID_TOLERANCE, kid_by_side, share_by_side, working_scales
from cgpipe.evaluation.steadiness import GLARING, VISIBLE, Steadiness
from cgpipe.models import Model, load_model, save_model
from cgpipe.models.loading import narrowest


def record_figures(path: Path, evaluation: Evaluation, inputs: Folders, reference: Folders) -> None:
    """Puts figures, and the working scales that are measured now, into the header of a model file of ours.

    Raises:
        ModelError: there is no such file, or it cannot be written.
    """
    model = load_model(path)
    generator, forms, domains = model.generator.eval(), forms_of(model), (model.card.source, model.card.target)
    if (wanted := class_of(*domains)) is not None:
        shares = share_by_side(generator, inputs, wanted, form=forms[0])
        success = {side: share if wanted == domains[1] else 1 - share for side, share in shares.items()}
        scales = working_scales(success)
        by_side = {f"share seen as {wanted} by side": {str(side): round(share, 3) for side, share in shares.items()}}
    else:
        kids = kid_by_side(generator, inputs, reference, forms=forms)
        scales = working_scales({side: -value for side, value in kids.items()}, KID_TOLERANCE)
        by_side = {"kid_x1000 by side": {str(side): round(value, 2) for side, value in kids.items()}}
    figures = {f"{evaluation.inputs} at {evaluation.size}": quality_of(evaluation), **by_side}
    _record(path, figures, working_scales=scales)


def record_steadiness(path: Path, clips: Sequence[Steadiness]) -> None:
    """Puts how still a model's video holds into the header of a file of ours.

    Raises:
        ModelError: there is no such file, or it cannot be written.
    """
    if not clips:
        return
    figures = {f"video {clip.clip} at {min(clip.width, clip.height)}": steadiness_of(clip) for clip in clips}
    _record(path, figures)


def record_pairs(path: Path, figures: PairedFigures) -> None:
    """Puts how close a model's translations are to their partners into the header of a file of ours.

    Raises:
        ModelError: there is no such file, or it cannot be written.
    """
    measured = {
        "pairs": figures.count,
        "reference": figures.reference,
        "l1_of_255": round(figures.l1, 2),
        "psnr": round(figures.psnr, 2),
        "ssim": round(figures.ssim, 4),
    }
    _record(path, {f"{figures.inputs} in pairs at {figures.size}": measured})


def _record(path: Path, figures: Mapping[str, object], **changes: Any) -> None:
    """Adds figures, and other changes of the card, to a file whose network stays as it is."""
    model = load_model(path, as_rgb=False)
    card = replace(model.card, quality={**model.card.quality, **figures}, **changes)
    save_model(path, Model(card, model.generator), dtype=narrowest(model.generator))


def steadiness_of(clip: Steadiness) -> dict[str, object]:
    """A clip's figures as a model's header keeps them, rounded."""
    return {
        "frames": clip.frames,
        "warping_error_of_255": round(clip.warping_error, 2),
        "source_warping_error_of_255": round(clip.source_warping_error, 2),
        "sharpness": round(clip.sharpness),
        "source_sharpness": round(clip.source_sharpness),
        f"still_pixels_changing_by_{VISIBLE}": round(clip.visible, 4),
        f"still_pixels_changing_by_{GLARING}": round(clip.glaring, 4),
        "stuck_detail": round(clip.stuck, 3),
    }


def quality_of(evaluation: Evaluation) -> dict[str, object]:
    """An evaluation as a model's header keeps it, rounded."""
    figures: dict[str, object] = {
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


def class_of(source: str, target: str) -> str | None:
    """The ImageNet class whose share tells most: what the result should show, else what it should show no longer."""
    for domain in (target, source):
        try:
            imagenet_class(domain)
        except UsageError:
            continue
        return domain
    return None
