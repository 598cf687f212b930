"""Where other projects keep each layer: the keys of their checkpoints, and cgpipe's names for the same layers.

A ResNet is one chain of convolutions everywhere (stem, two down, two a block, two up, head), all but the last with a
norm right behind; the projects differ in how they number that chain. A U-Net is nested from the outside inwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from cgpipe.errors import ModelError

Weights = Mapping[str, torch.Tensor]
Chain = list[tuple[str, str]]  # module paths of convolutions in order, and of the norms behind them

JUNYANZ = "pytorch-CycleGAN-and-pix2pix"
ANCESTOR = "cycleGAN-PyTorch"

# Keys that show what a file is, where that is no generator for cgpipe.
_OTHERS: tuple[tuple[str, str], ...] = (
    (r"(rank_(unet|vae)|sd_(encoder|decoder|other)|(unet|vae)_lora_)", "an img2img-turbo model, which is a diffusion model"),
    (r"(model\.0\.weight|net\.0\.weight|dis_model\.|discriminators?\.)", "a discriminator: name the generator's file"),
    (r"mlp_\d+\.", "the feature network that CUT trains with: name the generator's file, *_net_G.pth"),
    (r"generators?(_ema)?\.", "generators of a kind that cgpipe does not know"),
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One network as one project stores it.

    Args:
        recognised_as: the project and the network, for the user.
        architecture: cgpipe's name for the network.
        settings: its keyword arguments, as far as the names of the keys tell them.
        modules: their module path to ours, for every layer with weights.
        filters: their keys of fixed low-pass filters, and the taps along either axis (a sixteenth of their product).
        bgr: whether the network takes and makes BGR pictures.
    """

    recognised_as: str
    architecture: str
    settings: Mapping[str, Any]
    modules: Mapping[str, str]
    filters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bgr: bool = False

    def their_key(self, key: str) -> str:
        """The key in their file of the tensor ``key`` in our network."""
        module, _, leaf = key.rpartition(".")
        return next((f"{theirs}.{leaf}" for theirs, ours in self.modules.items() if ours == module), key)


def recognise(weights: Weights) -> Layout:
    """The layout of a generator's state dict, told from its keys; they have no ``module.`` in front any more.

    Raises:
        ModelError: no project known here stores a generator like this.
    """
    for pattern, read in _READERS:
        if any(re.match(pattern, key) for key in weights):
            return read(weights)
    raise unknown(weights)


def unknown(keys: Iterable[str]) -> ModelError:
    """The error for a file with these keys, which says what it looks like."""
    names = list(keys)
    for pattern, description in _OTHERS:
        if any(re.match(pattern, name) for name in names):
            return ModelError(f"holds {description}")
    listed = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    return ModelError(f"holds no generator of a kind that cgpipe knows; its keys are {listed or 'none'}")


def _junyanz_resnet(weights: Weights) -> Layout:
    """Also CUT's, where a filter follows each step down and precedes each step up."""
    blocks, dropout = _blocks(weights, r"model\.(\d+)\.conv_block\.(\d+)\.weight", (5, 6))
    down = "model.7.filt" in weights
    first = 12 if down else 10
    tail = first + blocks
    up = f"model.{tail}.filt" in weights

    def layer(index: int, inside: str = "") -> tuple[str, str]:
        return f"model.{inside}{index}", f"model.{inside}{index + 1}"

    chain = [layer(1), layer(4), layer(7 + down)]
    for index in range(first, tail):
        chain += [layer(1, f"{index}.conv_block."), layer(5 + dropout, f"{index}.conv_block.")]
    chain += [layer(tail + up), layer(tail + 3 + 2 * up)]
    filters = {"model.7.filt": (1, 2, 1), "model.11.filt": (1, 2, 1)} if down else {}
    if up:
        filters |= {f"model.{tail}.filt": (1, 3, 3, 1), f"model.{tail + 4}.filt": (1, 3, 3, 1)}
    return Layout(
        recognised_as="ResNet of CUT" if down or up else f"ResNet of {JUNYANZ}",
        **_resnet(blocks, dropout, antialias=down if down == up else "down" if down else "up"),
        modules=_resnet_modules(chain, f"model.{tail + 7 + 2 * up}"),
        filters=filters,
    )
