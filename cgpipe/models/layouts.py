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
from cgpipe.networks.resnet import Antialias

Weights = Mapping[str, torch.Tensor]
Chain = list[tuple[str, str]]  # module paths of convolutions in order, and of the norms behind them

JUNYANZ = "pytorch-CycleGAN-and-pix2pix"
ANCESTOR = "cycleGAN-PyTorch"

# Keys that show what a file is, where that is no generator for cgpipe.
_OTHERS: tuple[tuple[str, str], ...] = (
    (
        r"(rank_(unet|vae)|sd_(encoder|decoder|other)|(unet|vae)_lora_)",
        "an img2img-turbo model: cgpipe runs no diffusion",
    ),
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
    filters: dict[str, tuple[int, ...]] = {"model.7.filt": (1, 2, 1), "model.11.filt": (1, 2, 1)} if down else {}
    if up:
        filters |= {f"model.{tail}.filt": (1, 3, 3, 1), f"model.{tail + 4}.filt": (1, 3, 3, 1)}
    antialias: Antialias = down if down == up else "down" if down else "up"
    return Layout(
        recognised_as="ResNet of CUT" if antialias else f"ResNet of {JUNYANZ}",
        **_resnet(blocks, dropout, antialias),
        modules=_resnet_modules(chain, f"model.{tail + 7 + 2 * up}"),
        filters=filters,
    )


def _ancestor_resnet(weights: Weights) -> Layout:
    blocks, dropout = _blocks(weights, r"res_model\.(\d+)\.res_block\.(\d+)\.weight", (3, 4))

    def layer(path: str) -> tuple[str, str]:
        return f"res_model.{path}.0", f"res_model.{path}.1"

    chain = [layer("1"), layer("2"), layer("3")]
    for index in range(4, 4 + blocks):
        block = f"res_model.{index}.res_block"
        chain += [layer(f"{index}.res_block.1"), (f"{block}.{3 + dropout}", f"{block}.{4 + dropout}")]
    chain += [layer(f"{4 + blocks}"), layer(f"{5 + blocks}")]
    return Layout(
        recognised_as=f"ResNet of {ANCESTOR}",
        **_resnet(blocks, dropout),
        modules=_resnet_modules(chain, f"res_model.{7 + blocks}"),
    )


def _mmgeneration_resnet(weights: Weights) -> Layout:
    blocks, dropout = _blocks(weights, r"model\.(\d+)\.block\.(\d+)\.conv\.weight", (1, 2))
    norm = "bn" if any(".bn." in key for key in weights) else "in"

    def layer(path: str) -> tuple[str, str]:
        return f"model.{path}.conv", f"model.{path}.{norm}"

    chain = [layer("0"), layer("1"), layer("2")]
    for index in range(3, 3 + blocks):
        chain += [layer(f"{index}.block.0"), layer(f"{index}.block.{1 + dropout}")]
    chain += [layer(f"{3 + blocks}"), layer(f"{4 + blocks}")]
    return Layout(
        recognised_as="ResNet of mmgeneration",
        **_resnet(blocks, dropout),
        modules=_resnet_modules(chain, f"model.{5 + blocks}.conv"),
        bgr=True,
    )


def _unet(weights: Weights) -> Layout:
    ancestor = any(key.startswith("unet_model.") for key in weights)
    root = "unet_model.model" if ancestor else "model.model"
    nests = [f"{root}.1"]
    while f"{nests[-1]}.model.3.model.1.weight" in weights:
        nests.append(f"{nests[-1]}.model.3")
    levels = len(nests) + 1
    if levels < 5:
        raise ModelError(f"holds a U-Net with {levels} levels, but the known ones have 5 or more")
    modules = {f"{root}.0": "stem", f"{root}.3": "head"}
    for index, nest in enumerate(nests):
        innermost = index == len(nests) - 1
        up = 3 if innermost else 5
        modules[f"{nest}.model.1"] = f"down.{index}.conv"
        modules[f"{nest}.model.{up}"] = f"up.{levels - 2 - index}.conv"
        modules[f"{nest}.model.{up + 1}"] = f"up.{levels - 2 - index}.norm"
        if not innermost:
            modules[f"{nest}.model.2"] = f"down.{index}.norm"
    return Layout(
        recognised_as=f"U-Net of {ANCESTOR if ancestor else JUNYANZ}",
        architecture={7: "unet_128", 8: "unet_256"}.get(levels, "unet"),
        settings={} if levels in (7, 8) else {"levels": levels},
        modules=modules,
    )


def _blocks(weights: Weights, pattern: str, second: tuple[int, int]) -> tuple[int, bool]:
    """How many residual blocks there are, and whether dropout moved their second convolution one place on.

    ``pattern`` captures the number of the block and the place in it; ``second`` are the places without and with.
    """
    found = [match for key in weights if (match := re.fullmatch(pattern, key)) and weights[key].ndim == 4]
    place = max((int(match[2]) for match in found), default=-1)
    if place not in second:
        raise ModelError("holds a ResNet whose blocks are not made like those that cgpipe knows")
    return len({match[1] for match in found}), place == second[1]


def _resnet(blocks: int, dropout: bool, antialias: Antialias = False) -> dict[str, Any]:
    settings = {"dropout": dropout}
    if blocks in (6, 9) and isinstance(antialias, bool):
        name = f"resnet_{blocks}blocks" + ("_antialias" if antialias else "")
        return {"architecture": name, "settings": settings}
    return {"architecture": "resnet", "settings": {"blocks": blocks, "antialias": antialias, **settings}}


def _resnet_modules(chain: Chain, head: str) -> dict[str, str]:
    blocks = (len(chain) - 5) // 2
    inside = [f"blocks.{index}.{{}}{place}" for index in range(blocks) for place in (1, 2)]
    ours = ["stem.{}", "down.0.{}", "down.1.{}", *inside, "up.0.{}", "up.1.{}"]
    modules = {head: "head"}
    for (conv, norm), name in zip(chain, ours, strict=True):
        modules |= {conv: name.format("conv"), norm: name.format("norm")}
    return modules


# Which key shows which layout.
_READERS: tuple[tuple[str, Callable[[Weights], Layout]], ...] = (
    (r"res_model\.", _ancestor_resnet),
    (r"(unet_model|model)\.model\.", _unet),
    (r"model\.\d+\.block\.", _mmgeneration_resnet),
    (r"model\.\d+\.conv_block\.", _junyanz_resnet),
)
