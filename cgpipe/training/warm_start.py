"""Warm start: generators that begin as an existing model, discriminators as those of an earlier run, ours or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from cgpipe.data.direction import Domain
from cgpipe.errors import TrainingError
from cgpipe.models import ModelCard, load_model
from cgpipe.models.choose import choose_model
from cgpipe.models.discriminator import read_discriminator
from cgpipe.models.header import is_ours
from cgpipe.models.zoo import SHIPPED_FOLDER, STARTS_FOLDER
from cgpipe.networks import Generator, effective_settings
from cgpipe.options import ModelChoice
from cgpipe.training.resume import upgraded
from cgpipe.training.start import PARTS
from cgpipe.training.state import STATE_NAME, load_state

DISCRIMINATOR_FILE = "_net_D"
"""What the names of discriminators' files contain in pytorch-CycleGAN-and-pix2pix."""
THEIR_LETTER: Mapping[Domain, str] = {"a": "B", "b": "A"}
"""The last letter of such a name, by domain: there ``D_A`` is the opponent of ``G_A``, and so sees pictures of B."""

_SAME_RESULT = ("dropout", *PARTS)
"""Settings that may differ: without effect in a finished model, or at the start."""


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
        generator.load_state_dict(generator.starting_weights(model.generator))
    except RuntimeError as error:
        raise TrainingError(
            f"{named} is of architecture {model.card.architecture} {dict(model.card.settings)}, which differs "
            "from the run: set the same --gen-net, --ngf, --norm and channels."
        ) from error
    if Path(named).parent in (SHIPPED_FOLDER, STARTS_FOLDER):  # the recipe's own choice, with settings that go with it
        return ()
    if not (differences := _differences(model.card, effective_settings(architecture, settings))):
        return ()
    made = f"{named} was made with {', '.join(differences)}"
    return (f"{made}: the weights fit, but learned otherwise. To go on as they were made, set that in the recipe.",)


def warm_start_discriminators(discriminators: Mapping[Domain, nn.Module], place: Path) -> tuple[str, ...]:
    """Loads the discriminators of an earlier run.

    Args:
        discriminators: by the domain that they discriminate.
        place: the folder of a run, or of checkpoints of pytorch-CycleGAN-and-pix2pix; a checkpoint for a single one.

    Returns:
        Notices for the user: which checkpoint was taken for which domain.

    Raises:
        TrainingError: there is no such discriminator, or it differs from those of this run.
        ModelError: a checkpoint cannot be read as a discriminator.
    """
    if place.is_file() or (not (place / STATE_NAME).is_file() and [*place.glob(f"*{DISCRIMINATOR_FILE}*.pth")]):
        files = {domain: _checkpoint(place, domain, len(discriminators)) for domain in discriminators}
        for domain, network in discriminators.items():
            _load_checkpoint(network, files[domain])
        return tuple(f"The discriminator of domain {d.upper()} starts as {file}." for d, file in files.items())
    _load_from_run(discriminators, place)
    return ()


def _load_from_run(discriminators: Mapping[Domain, nn.Module], run: Path) -> None:
    path = run / STATE_NAME
    if not path.is_file():
        raise TrainingError(
            f"{run} has no {STATE_NAME} and no latest{DISCRIMINATOR_FILE}_A.pth: name the folder of a run, or of "
            "checkpoints of pytorch-CycleGAN-and-pix2pix, with --init-discriminators."
        )
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


def _checkpoint(place: Path, domain: Domain, count: int) -> Path:
    """The file of the discriminator of a domain, of ``count`` that the run has."""
    if place.is_file():
        if count > 1:
            raise TrainingError(
                f"{place} is one discriminator, and this run has {count}: name the folder that holds them all."
            )
        return place
    names = [f"{DISCRIMINATOR_FILE}_{THEIR_LETTER[domain]}.pth", *([f"{DISCRIMINATOR_FILE}.pth"] if count == 1 else [])]
    for name in names:
        found = sorted(place.glob(f"*{name}"))
        latest = [path for path in found if path.name == f"latest{name}"]
        if len(latest or found) == 1:
            return (latest or found)[0]
        if found:
            raise TrainingError(
                f"{place} has {len(found)} files *{name}, and none is called latest{name}: name a folder with one."
            )
    raise TrainingError(
        f"{place} has no latest{names[0]}, the discriminator of domain {domain.upper()} in "
        "pytorch-CycleGAN-and-pix2pix."
    )


def _load_checkpoint(network: nn.Module, path: Path) -> None:
    found = read_discriminator(path)
    try:
        network.load_state_dict({f"pixels.{name}": weight for name, weight in found.weights.items()})
    except RuntimeError as error:
        raise TrainingError(
            f"{path} differs from the discriminators of this run: it looks at {found.channels} channels, and needs "
            f"{found.options}."
        ) from error


def _differences(card: ModelCard, ours: Mapping[str, object]) -> list[str]:
    theirs = effective_settings(card.architecture, card.settings)
    return [
        f"{name} = {theirs[name]}, and this run has {name} = {ours[name]}"
        for name in sorted(theirs.keys() & ours.keys() - set(_SAME_RESULT))
        if theirs[name] != ours[name]
    ]
