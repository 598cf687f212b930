"""Model files: our own, other projects' checkpoints and programs, and the lookup behind ``--to zebra``.

Names are imported on first use, so that reading headers does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgpipe.models.card import ModelCard
    from cgpipe.models.header import read_card
    from cgpipe.models.loading import import_model, load_any
    from cgpipe.models.model_file import Model, load_model, save_model
    from cgpipe.models.zoo import Entry, Found, find_model, list_models, set_default, user_models_folder

_HOMES = {
    "card": ("ModelCard",),
    "header": ("read_card",),
    "loading": ("import_model", "load_any"),
    "model_file": ("Model", "load_model", "save_model"),
    "zoo": ("Entry", "Found", "find_model", "list_models", "set_default", "user_models_folder"),
}

__all__ = [
    "Entry",
    "Found",
    "Model",
    "ModelCard",
    "find_model",
    "import_model",
    "list_models",
    "load_any",
    "load_model",
    "read_card",
    "save_model",
    "set_default",
    "user_models_folder",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
