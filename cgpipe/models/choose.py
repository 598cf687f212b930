"""From what was asked for to a model: the one way for commands, the Python API, jobs, training and measuring."""

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
from cgpipe.options import ModelChoice
from cgpipe.storage import digest_of

if TYPE_CHECKING:
    from cgpipe.models.model_file import Model


@dataclass(frozen=True)
class Chosen:
    """A model that was found and not loaded yet, which costs no torch; in words, which one and why.

    Args:
        choice: what was asked for.
        found: what answers to it.
        look: the look of paintings that was asked for.
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
        """What the file says about itself; None for one of another project."""
        return self.found.card

    @property
    def is_missing(self) -> bool:
        """Whether it is a look that is still to be learned: there is no file yet."""
        return self.look is not None and not self.path.is_file()

    @property
    def domain(self) -> str:
        """The domain that a result shows, for its name."""
        if self.choice.to is None and self.card is not None and self.card.target != UNKNOWN:
            return self.card.target
        return self.choice.to or "translated"

    @cached_property
    def deciding(self) -> dict[str, object]:
        """What decides a result: the file's content, and of a foreign file the way through it.

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
        """The values of a program's inputs besides the picture: those that were given, and the card's."""
        given: dict[str, object] = {}
        for text in self.choice.model_inputs:
            name, _, value = text.rpartition("=")
            given[name] = digest_of(value) if Path(value).is_file() else value
        kept = self.card.settings.get("inputs") if self.card and self.found.entry.place == "styles" else None
        return {**kept, **given} if isinstance(kept, Mapping) else given

    def load(self) -> Model:
        """Loads the model, and passes on warnings about finding it.

        Raises:
            ModelError: the file is damaged or of no known kind.
            UsageError: a foreign file holds several generators, and nothing says which one is meant.
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
    """Finds the model that answers to a choice; :meth:`Chosen.load` loads it.

    Raises:
        ModelNotFoundError: none or several models answer.
        ModelError: the file that was named is damaged.
        UsageError: a domain contradicts what the file says about itself, or a painting is missing.
        MissingDependencyError: a look is asked for at once, and what makes it is not installed.
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
