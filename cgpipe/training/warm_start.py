"""Warm start: generators that begin as an existing model, discriminators as those of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from cgpipe.data.direction import Domain
from cgpipe.errors import TrainingError
from cgpipe.models import ModelCard, load_model
from cgpipe.models.choose import choose_model
from cgpipe.models.header import is_ours
from cgpipe.models.zoo import SHIPPED_FOLDER
from cgpipe.networks import Generator, effective_settings
from cgpipe.options import ModelChoice
from cgpipe.training.resume import upgraded
from cgpipe.training.state import STATE_NAME, load_state

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
    found = choose_model(ModelChoice(model=named))
    own = generator.channels != (3, 3) and is_ours(found.path)  # of gray pictures, as it was trained
    model = load_model(found.path, as_rgb=False) if own else found.load()
    try:
        generator.load_state_dict(model.generator.state_dict())
    except RuntimeError as error:
        raise TrainingError(
            f"{named} is of architecture {model.card.architecture} {dict(model.card.settings)}, which differs "
            "from the run: set the same --gen-net, --ngf, --norm and channels."
        ) from error
    if Path(named).parent == SHIPPED_FOLDER:  # the recipe's own choice, with settings that go with it
        return ()
    if not (differences := _differences(model.card, effective_settings(architecture, settings))):
        return ()
    made = f"{named} was made with {', '.join(differences)}"
    return (f"{made}: the weights fit, but learned otherwise. To go on as they were made, set that in the recipe.",)


def warm_start_discriminators(discriminators: Mapping[Domain, nn.Module], run: Path) -> None:
    """Loads the discriminators of the run in a folder.

    Raises:
        TrainingError: it holds no state of a run, or one without such discriminators.
    """
    path = run / STATE_NAME
    if not path.is_file():
        raise TrainingError(f"{run} has no {STATE_NAME}: name the folder of a run with --init-discriminators.")
    networks = upgraded(load_state(path), lambda epoch: (1, 1)).get("networks", {})
    for domain, network in discriminators.items():
        start = f"discriminator_{domain}."
        weights = {name.removeprefix(start): w for name, w in networks.items() if name.startswith(start)}
        if not weights:
            raise TrainingError(f"The run in {run} has no discriminator of domain {domain.upper()}.")
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise TrainingError(
                f"The discriminators of {run} differ from those of this run: set the same method, --dis-net, "
                "--dis-layers, --dis-scales, --ndf, --norm and --feature-weight."
            ) from error


def _differences(card: ModelCard, ours: Mapping[str, object]) -> list[str]:
    theirs = effective_settings(card.architecture, card.settings)
    return [
        f"{name} = {theirs[name]}, and this run has {name} = {ours[name]}"
        for name in sorted(theirs.keys() & ours.keys() - set(_TRAINING_ONLY))
        if theirs[name] != ours[name]
    ]
