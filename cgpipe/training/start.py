"""The settings that a generator needs to begin as a finished model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cgpipe.errors import CgpipeError
from cgpipe.models.zoo import find_model

PARTS = ("signed_skip", "attention")
"""Settings of compact networks that add weights, which begin without effect where a model does not have them."""


def with_parts_of(settings: Mapping[str, Any], network: str, *starts: str) -> dict[str, Any]:
    """``settings`` of a compact ``network``, with every part that one of the models to start with has.

    Without it the weights would not fit. A model that cannot be found is left to whoever loads it.
    """
    if not network.startswith("compact"):
        return dict(settings)
    had = [_settings_of(model) for model in starts]
    return {part: True for part in PARTS if any(found.get(part) for found in had)} | dict(settings)


def _settings_of(model: str) -> Mapping[str, Any]:
    if model and "://" not in model:
        with suppress(CgpipeError, OSError):
            card = find_model(file=model).card
            return {} if card is None else card.settings
    return {}
