"""Layouts of other projects' checkpoints: their keys, and cgpipe's names of the same layers.

A ResNet is always a chain of convolutions (stem, two down, two per block, two up, head), all but the last followed by a
norm; projects differ in how they number that chain. A U-Net is nested from the outside inwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Literal, TypedDict

import torch

from cgpipe.errors import ModelError
from cgpipe.networks.resnet import Antialias

Weights = Mapping[str, torch.Tensor]
Chain = list[tuple[str, str]]  # module paths of convolutions in order, and of the norms after them

JUNYANZ = "pytorch-CycleGAN-and-pix2pix"
ANCESTOR = "cycleGAN-PyTorch"

Pixels = Literal["-1..1", "0..255"]

# Keys of files that hold no generator for cgpipe, and what they are.
_OTHERS: tuple[tuple[str, str], ...] = (
    (
        r"(rank_(unet|vae)|sd_(encoder|decoder|other)|(unet|vae)_lora_)",
        "an img2img-turbo model: cgpipe runs no diffusion",
    ),
    (
        r"(model\.diffusion_model|first_stage_model|(unet\.)?down_blocks)\.",
        "a diffusion model, which cgpipe does not run",
    ),
    (
        r"(conv_first|RRDB_trunk|model\.1\.sub|layers\.0\.residual_group)\.",
        "the weights of an upscaler: give it as ONNX or TorchScript, for --size output",
    ),
    (r"(model\.0\.weight|net\.0\.weight|dis_model\.|discriminators?\.)", "a discriminator: name the generator's file"),
    (r"mlp_\d+\.", "the feature network that CUT trains with: name the generator's file, *_net_G.pth"),
    (
        r"model1_[12]\.",
        "the local enhancer of pix2pixHD: cgpipe runs its global generator, *_net_G.pth of the first phase",
    ),
    (r"head_0\.(conv|norm)_0\.", "a generator of SPADE (GauGAN), which paints label maps and not pictures"),
    (r"(gen_[ab]\.)?(enc_(style|content)|dec)\.", "a model of MUNIT or UNIT, which needs a style beside the picture"),
    (r"(mapping_network|style_encoder)\.", "a model of StarGAN v2, which needs a style beside the picture"),
    (r"(down_convs|resnet_blocks|up_convs)\.", "the generator of pytorch-CartoonGAN, which cgpipe does not run yet"),
    (r"down1\.model\.0\.", "the U-Net of PyTorch-GAN: cgpipe runs its ResNet"),
    (r"(stylegan_decoder|synthesis|mapping)\.", "a StyleGAN network, which makes pictures out of noise"),
    (r"features\.\d+\.(weight|0\.)", "a classifier"),
    (r"generators?(_ema)?\.", "generators of a kind that cgpipe does not know"),
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A network as a project stores it.

    Args:
        recognised_as: the project and the network, for the user.
        architecture: cgpipe's name for the network.
        settings: its keyword arguments, as far as the keys determine them.
        modules: the project's module paths to ours, for every layer with weights.
        filters: keys of fixed low-pass filters, and the taps along either axis (a sixteenth of their product).
        bgr: whether input and output are BGR.
        pixels: the value range of input and output.
        own_norm: whether the network has its project's norms, so that ``ngf`` and ``norm`` are not read from tensors.
        notes: what had to be guessed, a sentence each, for the user.
    """

    recognised_as: str
    architecture: str
    settings: Mapping[str, object]
    modules: Mapping[str, str]
    filters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bgr: bool = False
    pixels: Pixels = "-1..1"
    own_norm: bool = False
    notes: tuple[str, ...] = ()

    def their_key(self, key: str) -> str:
        """The project's key of the tensor ``key`` in our network."""
        module, _, leaf = key.rpartition(".")
        return next((f"{theirs}.{leaf}" for theirs, ours in self.modules.items() if ours == module), key)


class _Network(TypedDict):
    """Two fields of a :class:`Layout`."""

    architecture: str
    settings: Mapping[str, object]


def recognise(weights: Weights) -> Layout:
    """The layout of a generator's state dict, from its keys, which have no ``module.`` prefix.

    Raises:
        ModelError: the layout is unknown.
    """
    if (read := _reader(weights)) is None:
        raise unknown(weights)
    return read(weights)


def is_generator(weights: Weights) -> bool:
    """Whether a state dict looks like a generator of a known kind, complete or not."""
    return _reader(weights) is not None


def _reader(weights: Weights) -> Callable[[Weights], Layout] | None:
    return next((read for pattern, read in _READERS if any(re.match(pattern, key) for key in weights)), None)


def unknown(keys: Iterable[str]) -> ModelError:
    """The error for a file with these keys, which says what it looks like."""
    names = list(keys)
    for pattern, description in _OTHERS:
        if any(re.match(pattern, name) for name in names):
            return ModelError(f"It holds {description}.")
    listed = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    return ModelError(f"It holds no generator of a kind that cgpipe knows. Its keys are {listed or 'none'}.")


def _junyanz_resnet(weights: Weights) -> Layout:
    """Also CUT's, with a filter after each downsampling and before each upsampling, and resize-convolution variants."""
    blocks, dropout = _blocks(weights, r"model\.(\d+)\.conv_block\.(\d+)\.weight", (5, 6))
    return _numbered_resnet(weights, blocks, dropout, "conv_block")


def _pytorch_gan_resnet(weights: Weights) -> Layout:
    blocks, dropout = _blocks(weights, r"model\.(\d+)\.block\.(\d+)\.weight", (5, 6))
    return _numbered_resnet(weights, blocks, dropout, "block")


def _numbered_resnet(weights: Weights, blocks: int, dropout: bool, inside: str) -> Layout:
    """One ``nn.Sequential`` called ``model``, whose numbers include paddings, norms and activations.

    Args:
        inside: name of the sequence inside a residual block.
    """
    first = min(int(key.split(".")[1]) for key in weights if f".{inside}." in key)
    tail = first + blocks
    blurred = "model.7.filt" in weights
    each_down = 3 + blurred
    steps = max(1, (first - 4) // each_down)
    way, offset, each_up = _way_up(weights, tail)

    def layer(index: int, path: str = "") -> tuple[str, str]:
        return f"model.{path}{index}", f"model.{path}{index + 1}"

    chain = [layer(1), *(layer(4 + each_down * step) for step in range(steps))]
    for index in range(first, tail):
        chain += [layer(1, f"{index}.{inside}."), layer(5 + dropout, f"{index}.{inside}.")]
    chain += [layer(tail + each_up * step + offset) for step in range(steps)]
    filters: dict[str, tuple[int, ...]] = {}
    if blurred:
        filters |= {f"model.{7 + 4 * step}.filt": (1, 2, 1) for step in range(steps)}
    if way == "filter":
        filters |= {f"model.{tail + 4 * step}.filt": (1, 3, 3, 1) for step in range(steps)}
    up = way == "filter"
    antialias: Antialias = blurred if blurred == up else "down" if blurred else "up"
    settings, said, notes = _UPSAMPLING[way]
    return Layout(
        recognised_as=_numbered_name(inside, steps, bool(antialias)) + said,
        **_resnet(blocks, dropout, antialias, {**settings, **({"steps": steps} if steps != 2 else {})}),
        modules=_resnet_modules(chain, f"model.{tail + each_up * steps + 1}", steps),
        filters=filters,
        notes=notes,
    )


def _way_up(weights: Weights, tail: int) -> tuple[str, int, int]:
    """How a numbered ResNet upsamples, the index of the convolution in each step, and the modules per step."""
    if f"model.{tail}.filt" in weights:
        return "filter", 1, 4
    if f"model.{tail}.weight" not in weights:
        if f"model.{tail + 1}.weight" in weights:
            return "resize", 1, 4
        if f"model.{tail + 2}.weight" in weights:
            return "resize and reflect", 2, 5
    return "transposed", 0, 3


# By kind of upsampling: settings, suffix of the name, and notes.
_UPSAMPLING: Mapping[str, tuple[Mapping[str, object], str, tuple[str, ...]]] = {
    "transposed": ({}, "", ()),
    "filter": ({}, "", ()),
    "resize": (
        {"upsample": "nearest"},
        ", resizing and convolving",
        ("The file does not say how it resizes: by the nearest pixel, as PyTorch-GAN does, is taken.",),
    ),
    "resize and reflect": (
        {"upsample": "bilinear", "up_edges": "reflect"},
        ", resizing and convolving",
        ("The file does not say how it resizes: bilinear, as most such variants do, is taken.",),
    ),
}


def _numbered_name(inside: str, steps: int, filtered: bool) -> str:
    if inside == "block":
        return "ResNet of PyTorch-GAN"
    if filtered:
        return "ResNet of CUT"
    return "global generator of pix2pixHD" if steps == 4 else f"ResNet of {JUNYANZ}"


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
        raise ModelError(f"It holds a U-Net with {levels} levels, but the known ones have 5 or more.")
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
    """The number of residual blocks, and whether dropout shifts their second convolution by one index.

    ``pattern`` captures the number of the block and the index in it; ``second`` are the indices without and with.
    """
    found = [match for key in weights if (match := re.fullmatch(pattern, key)) and weights[key].ndim == 4]
    place = max((int(match[2]) for match in found), default=-1)
    if place not in second:
        raise ModelError("It holds a ResNet whose blocks are not made like those that cgpipe knows.")
    return len({match[1] for match in found}), place == second[1]


def _resnet(
    blocks: int, dropout: bool, antialias: Antialias = False, more: Mapping[str, object] | None = None
) -> _Network:
    """The architecture's name, and its settings; ``more`` are those of rarer kinds."""
    settings: dict[str, object] = {"dropout": dropout, **(more or {})}
    if blocks in (6, 9) and isinstance(antialias, bool):
        name = f"resnet_{blocks}blocks" + ("_antialias" if antialias else "")
        return {"architecture": name, "settings": settings}
    return {"architecture": "resnet", "settings": {"blocks": blocks, "antialias": antialias, **settings}}


def _resnet_modules(chain: Chain, head: str, steps: int = 2) -> dict[str, str]:
    blocks = (len(chain) - 1 - 2 * steps) // 2
    inside = [f"blocks.{index}.{{}}{place}" for index in range(blocks) for place in (1, 2)]
    down, up = ([f"{way}.{step}.{{}}" for step in range(steps)] for way in ("down", "up"))
    ours = ["stem.{}", *down, *inside, *up]
    modules = {head: "head"}
    for (conv, norm), name in zip(chain, ours, strict=True):
        modules |= {conv: name.format("conv"), norm: name.format("norm")}
    return modules


def _fast_neural_style(weights: Weights) -> Layout:
    blocks = len({key.split(".")[0] for key in weights if re.match(r"res\d+\.", key)})
    chain = [(f"conv{number}.conv2d", f"in{number}") for number in (1, 2, 3)]
    for block in range(1, blocks + 1):
        chain += [(f"res{block}.conv{place}.conv2d", f"res{block}.in{place}") for place in (1, 2)]
    chain += [("deconv1.conv2d", "in4"), ("deconv2.conv2d", "in5")]
    edges = {"down_edges": "reflect", "up_edges": "reflect"}
    settings = {"blocks": blocks, "kernel": 9, **edges, "upsample": "nearest", "output": "linear"}
    return Layout(
        recognised_as="transformer network of fast neural style (pytorch/examples)",
        architecture="resnet",
        settings=settings,
        modules=_resnet_modules(chain, "deconv3.conv2d"),
        pixels="0..255",
    )


def _ugatit(weights: Weights) -> Layout:
    ngf = _side(weights, "DownBlock.1.weight", 0)
    inputs = _side(weights, "FC.0.weight", 1)
    light = inputs == 4 * ngf
    settings = {
        "blocks": len({key.split(".")[0] for key in weights if key.startswith("UpBlock1_")}),
        "ngf": ngf,
        "size": None if light else 4 * isqrt(inputs // max(1, 4 * ngf)),
    }
    return _as_named("U-GAT-IT" + (", light" if light else ""), "ugatit", settings, weights)


def _animegan2(weights: Weights) -> Layout:
    return _as_named("AnimeGANv2 (animegan2-pytorch)", "animegan2", {}, weights)


def _white_box(weights: Weights) -> Layout:
    """The numbering of White-box-Cartoonization-PyTorch."""
    blocks = len({key.split(".")[1] for key in weights if key.startswith("res_blocks.")})
    modules = {"initial_down.0": "stem", "up1.0": "middle", "last.0": "last", "last.2": "head"}
    for theirs, ours in (("down1", "down.0"), ("down2", "down.1"), ("up2", "up")):
        modules |= {f"{theirs}.0": f"{ours}.conv1", f"{theirs}.2": f"{ours}.conv2"}
    for block in range(blocks):
        modules |= {f"res_blocks.{block}.block.{2 * place}": f"blocks.{block}.conv{place + 1}" for place in (0, 1)}
    settings = {"blocks": blocks, "ngf": _side(weights, "initial_down.0.weight", 0)}
    return _cartoon("White-box-Cartoonization-PyTorch", settings, modules)


def _white_box_wbc(weights: Weights) -> Layout:
    """The numbering of traiNNer, which does not clamp pixels."""
    blocks = len({key.split(".")[0] for key in weights if key.startswith("block_")})
    names = ("down.0.conv1", "down.0.conv2", "down.1.conv1", "down.1.conv2", "middle", "up.conv1", "up.conv2", "last")
    modules = {"conv": "stem", **{f"conv_{number}": name for number, name in enumerate((*names, "head"), 1)}}
    for block in range(blocks):
        modules |= {f"block_{block}.conv{place}": f"blocks.{block}.conv{place}" for place in (1, 2)}
    settings = {"blocks": blocks, "ngf": _side(weights, "conv.weight", 0), "output": "linear"}
    return _cartoon("traiNNer", settings, modules)


def _cartoon(project: str, settings: Mapping[str, object], modules: Mapping[str, str]) -> Layout:
    name = f"generator of white-box cartoonisation ({project})"
    return Layout(recognised_as=name, architecture="whitebox", settings=settings, modules=modules, own_norm=True)


def _as_named(name: str, architecture: str, settings: Mapping[str, object], weights: Weights) -> Layout:
    """A network whose modules have the project's names."""
    modules = {module: module for module in (key.rpartition(".")[0] for key in weights)}
    return Layout(
        recognised_as=f"generator of {name}",
        architecture=architecture,
        settings=settings,
        modules=modules,
        own_norm=True,
    )


def _side(weights: Weights, key: str, axis: int) -> int:
    if key not in weights or weights[key].ndim <= axis:
        raise ModelError(
            f"It holds a network like one that cgpipe knows, but tensor {key} is missing or of another kind."
        )
    return weights[key].shape[axis]


# Keys that identify each layout; the first match counts.
_READERS: tuple[tuple[str, Callable[[Weights], Layout]], ...] = (
    (r"res_model\.", _ancestor_resnet),
    (r"(unet_model|model)\.model\.1\.model\.", _unet),
    (r"model\.\d+\.block\.\d+\.conv\.", _mmgeneration_resnet),
    (r"model\.\d+\.block\.", _pytorch_gan_resnet),
    (r"model\.\d+\.conv_block\.", _junyanz_resnet),
    (r"deconv1\.conv2d\.", _fast_neural_style),
    (r"UpBlock1_1\.", _ugatit),
    (r"block_a\.0\.1\.", _animegan2),
    (r"initial_down\.0\.", _white_box),
    (r"block_0\.conv1\.", _white_box_wbc),
)
