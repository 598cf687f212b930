"""From a choice to a model: used by commands, the Python API, jobs, training and evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cgpipe.errors import CgpipeWarning, ModelError, ModelNotFoundError, UsageError
from cgpipe.models.card import UNKNOWN, ModelCard
from cgpipe.models.header import is_ours
from cgpipe.models.looks import Look, asked_look, find_look, find_two_inputs
from cgpipe.models.zoo import Found, find_model
from cgpipe.options import ModelChoice, named_value
from cgpipe.storage import digest_of

if TYPE_CHECKING:
    from cgpipe.models.model_file import Model


@dataclass(frozen=True)
class Chosen:
    """A model that was found but not loaded, which needs no torch; as text, which one and why.

    Args:
        choice: the choice.
        found: the model that matches it.
        look: the look of paintings, if the choice names one.
    """

    choice: ModelChoice
    found: Found
    look: Look | None = None

    def __str__(self) -> str:
        return str(self.found)

    @property
    def path(self) -> Path:
        """The model's file."""
        return self.found.path

    @property
    def card(self) -> ModelCard | None:
        """The file's card; None for a file of another project."""
        return self.found.card

    @property
    def is_missing(self) -> bool:
        """Whether it is a look that has not been learned yet, so that there is no file."""
        return self.look is not None and not self.path.is_file()

    @property
    def domain(self) -> str:
        """The domain of the results, for their names."""
        if self.choice.to is None and self.card is not None and self.card.target != UNKNOWN:
            return self.card.target
        return self.choice.to or "translated"

    @cached_property
    def deciding(self) -> dict[str, object]:
        """Everything about the model that determines a result: the file's content, and how a foreign file is read.

        Raises:
            ModelError: the file cannot be read.
        """
        try:
            content: dict[str, object] = {"content": digest_of(self.path)}
            ours = is_ours(self.path)
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        if inputs := self._inputs():
            content["inputs"] = inputs
        if ours:
            return content
        way = {"to": self.choice.to, "direction": self.choice.direction, "statistics": self.choice.batch_statistics}
        return content | way | ({"generator": self.choice.generator} if self.choice.generator else {})

    def _inputs(self) -> dict[str, object]:
        """The values of a program's inputs besides the picture: given ones, and those of the card."""
        given: dict[str, object] = {}
        for text in self.choice.model_inputs:
            name, value = named_value(text)
            file = Path(value).expanduser()
            given[name] = digest_of(file) if file.is_file() else value
        kept = self.card.settings.get("inputs") if self.card and self.found.entry.place == "styles" else None
        return {**kept, **given} if isinstance(kept, Mapping) else given

    def load(self) -> Model:
        """Loads the model, and warns of what was noticed when it was found.

        Raises:
            ModelError: the file is damaged or of an unknown kind.
            UsageError: a foreign file holds several generators, and the choice does not select one.
        """
        if self.is_missing and self.look:
            raise ModelNotFoundError(
                f"The look {self.look.name} is not learned yet: `cgpipe translate` or `cgpipe video` with the same "
                "--like learns it."
            )
        from cgpipe.models.loading import load_any

        for warning in self.found.warnings:
            warnings.warn(warning, CgpipeWarning, stacklevel=2)
        choice = self.choice
        model = load_any(
            self.found,
            source=choice.source,
            target=choice.to,
            direction=choice.direction,
            generator=choice.generator,
            batch_statistics=choice.batch_statistics,
            inputs=choice.model_inputs,
        )
        if model.generator.runtime and self.card is None:
            warnings.warn(f"{self.path.name}: {model.card.notes}", CgpipeWarning, stacklevel=2)
        return model


def choose_model(choice: ModelChoice) -> Chosen:
    """Finds the model of a choice; :meth:`Chosen.load` loads it.

    Raises:
        ModelNotFoundError: no model, or more than one, matches.
        ModelError: the named file is damaged.
        UsageError: a domain contradicts the file's card, or a painting is missing.
        MissingDependencyError: ``like_now`` needs the extra ``styles``.
    """
    look = asked_look(choice)
    if choice.like_now:
        if look is None:
            raise UsageError("like_now has no painting: name one with like.")
        found, inputs = find_two_inputs(look)
        return Chosen(replace(choice, like=(), like_now=False, model_inputs=inputs), found)
    if look is not None:
        return Chosen(choice, find_look(look), look)
    return Chosen(choice, find_model(choice.to, source=choice.source, file=choice.model))
