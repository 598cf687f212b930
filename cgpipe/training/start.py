"""The settings that a generator needs to begin as a finished model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cgpipe.errors import CgpipeError, CgpipeWarning
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


def drop_settings(
    chosen: dict[str, Any], overrides: Mapping[str, object], *, network: str, settings: str, default: str
) -> None:
    """Removes a recipe's settings of its network where ``overrides`` name another, and warns of it.

    Args:
        chosen: the recipe; changed.
        overrides: settings from the command line.
        network: what the network is called in both.
        settings: what its settings are called.
        default: the network of a recipe that names none.
    """
    wanted = overrides.get(network)
    if wanted in (None, chosen.get(network, default)) or settings in overrides:
        return
    if dropped := chosen.pop(settings, None):
        told = ", ".join(f"{name} = {value}" for name, value in dropped.items())
        warnings.warn(
            f"The recipe's {settings} ({told}) belong to its own network and are not used with {network} {wanted}: "
            "to have them, set both in a recipe.",
            CgpipeWarning,
            stacklevel=4,
        )


def _settings_of(model: str) -> Mapping[str, Any]:
    if model and "://" not in model:
        with suppress(CgpipeError, OSError):
            card = find_model(file=model).card
            return {} if card is None else card.settings
    return {}
