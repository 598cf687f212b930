"""Warm start: initialise a generator from an existing model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cgpipe.errors import TrainingError
from cgpipe.models import ModelCard
from cgpipe.models.choose import choose_model
from cgpipe.models.zoo import SHIPPED_FOLDER
from cgpipe.networks import Generator, effective_settings
from cgpipe.options import ModelChoice

_TRAINING_ONLY = ("dropout",)
"""Settings that may differ, since they have no effect in a finished model."""


def warm_start(generator: Generator, named: str, architecture: str, settings: Mapping[str, object]) -> tuple[str, ...]:
    """Loads the weights of a model, a file of any known project or a name, into ``generator``.

    Returns:
        Notices for the user: the weights fit, but the model uses them with other settings, such as its padding.

    Raises:
        ModelError: there is no such model, or it cannot be read.
        TrainingError: its architecture differs.
    """
    model = choose_model(ModelChoice(model=named)).load()
    try:
        generator.load_state_dict(model.generator.state_dict())
    except RuntimeError as error:
        raise TrainingError(
            f"{named} is of architecture {model.card.architecture} {dict(model.card.settings)}, which differs "
            "from the run: set the same --gen-net, --ngf and --norm."
        ) from error
    if Path(named).parent == SHIPPED_FOLDER:  # the recipe's own choice, with settings that go with it
        return ()
    if not (differences := _differences(model.card, effective_settings(architecture, settings))):
        return ()
    made = f"{named} was made with {', '.join(differences)}"
    return (f"{made}: the weights fit, but learned otherwise. To go on as they were made, set that in the recipe.",)


def _differences(card: ModelCard, ours: Mapping[str, object]) -> list[str]:
    theirs = effective_settings(card.architecture, card.settings)
    return [
        f"{name} = {theirs[name]}, and this run has {name} = {ours[name]}"
        for name in sorted(theirs.keys() & ours.keys() - set(_TRAINING_ONLY))
        if theirs[name] != ours[name]
    ]
