"""Averages the weights of models: those of two runs from one start are often better together than each alone.

python train/average.py one.safetensors other.safetensors --share 0.45 -o both.safetensors

Model soups (arXiv 2203.05482). It works only for runs that began with the same weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from cgpipe.errors import CgpipeError
from cgpipe.models import Model, save_model
from cgpipe.models.choose import choose_model
from cgpipe.options import ModelChoice


def shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    """What the weights are called, and how large they are."""
    return {name: weight.shape for name, weight in weights.items()}


@torch.no_grad()
def averaged(one: Model, other: Model, share: float) -> Model:
    """``one``, its weights moved by ``share`` of the way to those of ``other``, after those told in its header."""
    theirs = one.generator.starting_weights(other.generator)
    mixed = {
        name: weight.lerp(theirs[name], share) if weight.is_floating_point() else weight  # or a counter of batches
        for name, weight in one.generator.state_dict().items()
    }
    one.generator.load_state_dict(mixed)
    earlier = one.card.made_by.get("averaged_with", [])
    averaged_with = [
        *(earlier if isinstance(earlier, list) else [earlier]),
        {"share": share, "made_by": other.card.made_by},
    ]
    card = replace(one.card, made_by={**one.card.made_by, "averaged_with": averaged_with}, quality={})
    return replace(one, card=card)


def main() -> None:
    """Parses the command line and writes a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("one", help="model file or name, which the header is taken from")
    parser.add_argument("other", help="model file or name")
    parser.add_argument("--share", type=float, default=0.5, help="of the other; below 0: away from it [default: 0.5]")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file for the result")
    given = parser.parse_args()
    try:
        one, other = (choose_model(ModelChoice(model=named)).load() for named in (given.one, given.other))
        # Settings without weights, as of padding, may differ: the first's are kept.
        if shapes(one.generator.state_dict()) != shapes(one.generator.starting_weights(other.generator)):
            parser.error("the two are of different architectures")
        save_model(given.output, averaged(one, other, given.share))
    except CgpipeError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
