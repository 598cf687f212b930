"""Which folder of a dataset a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from cgpipe.models import ModelCard
from cgpipe.models.card import plain_name

Way = Literal["auto", "AtoB", "BtoA"]


def sides_of(card: ModelCard, dataset: Path, direction: Way = "auto") -> tuple[str, str]:
    """``A`` and ``B``: of the pictures that go in, and of those that the result should look like; or the reverse.

    As asked for, as the model's own recipe says, or as the dataset's name says: ``horse2zebra`` has horses in ``A``.
    """
    if direction == "auto":
        trained = _recipe(card.made_by).get("source") == card.target
        named = dataset.resolve().name == plain_name(card.target, card.source)
        direction = "BtoA" if trained or named else "AtoB"
    return ("A", "B") if direction == "AtoB" else ("B", "A")


def _recipe(made_by: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe of the training; for a distilled model, that of its teacher."""
    teacher = made_by.get("teacher")
    if isinstance(teacher, Mapping):
        return _recipe(teacher.get("made_by", {}))
    recipe = made_by.get("recipe")
    return recipe if isinstance(recipe, Mapping) else {}
