"""The settings that a generator needs to begin as a finished model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cgpipe.errors import CgpipeError
from cgpipe.models.zoo import find_model

SIGNED_SKIP = "signed_skip"


def with_skip_of(settings: Mapping[str, Any], network: str, *starts: str) -> dict[str, Any]:
    """``settings`` of a compact ``network``, with a signed skip if one of the models to start with has one.

    Without it the weights would not fit. A model that cannot be found is left to whoever loads it.
    """
    chosen = dict(settings)
    if network.startswith("compact") and SIGNED_SKIP not in chosen and any(map(_has_signed_skip, starts)):
        chosen[SIGNED_SKIP] = True
    return chosen


def _has_signed_skip(model: str) -> bool:
    if model and "://" not in model:
        with suppress(CgpipeError, OSError):
            card = find_model(file=model).card
            return card is not None and bool(card.settings.get(SIGNED_SKIP))
    return False
