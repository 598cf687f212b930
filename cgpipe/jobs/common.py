"""What the jobs share: from a model that was found to a translator, and what is said about it."""

from __future__ import annotations

import warnings
from typing import Any, Unpack

from cgpipe.engine.translator import Translator, TranslatorOptions
from cgpipe.errors import CgpipeWarning
from cgpipe.jobs.startup import StartUp
from cgpipe.models import Found, load_any
from cgpipe.models.card import UNKNOWN
from cgpipe.models.foreign import Direction


def domain_of(found: Found, to: str | None) -> str:
    """The domain that a job's output shows, for its name."""
    if to is None and found.card is not None and found.card.target != UNKNOWN:
        return found.card.target
    return to or "translated"


def load_translator(
    found: Found,
    *,
    to: str | None,
    source: str | None,
    direction: Direction | None,
    batch_statistics: bool,
    start: StartUp,
    **options: Unpack[TranslatorOptions],
) -> Translator:
    """The translator of a model that was found; passes on what the zoo had to warn of."""
    start.reached("find")
    for warning in found.warnings:
        warnings.warn(warning, CgpipeWarning, stacklevel=3)
    model = load_any(found, source=source, target=to, direction=direction, batch_statistics=batch_statistics)
    start.reached("load")
    translator = Translator(model, **options)
    start.reached("prepare")
    return translator


def deciding_settings(translator: Translator) -> dict[str, Any]:
    """What decides how a translation looks."""
    return {
        "size": translator.size,
        "scales": translator.model.card.working_scales,
        "strength": translator.strength,
    }


def settings_of(translator: Translator) -> dict[str, Any]:
    """What was asked for and what was chosen, for a report; complete once a picture was translated."""
    return deciding_settings(translator) | translator.describe()
