"""Traces a network to a list of operations on regions.

Only layers are known here, not architectures: composite modules are traced into, and anything other than a norm that
depends on the whole picture is refused by name.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import fx, nn
from torch.nn import functional as F

from cgpipe.engine.tiles.operations import (
    Enlarge,
    Operation,
    Pair,
    Pointwise,
    Shuffle,
    Transposed,
    Unshuffle,
    Window,
    unchanged,
)
from cgpipe.errors import ModelError
from cgpipe.networks import Generator
from cgpipe.networks.cpu import faster_layer
from cgpipe.networks.norm import InstanceNorm
from cgpipe.networks.resnet import BlurDown


class NotTileableError(ModelError):
    """A part of the network depends on the whole picture; the message names it."""


class Normalisation(nn.Module):
    """Normalisation by mean and standard deviation over the whole plane, per channel or per group.

    Args:
        groups: number of groups of channels that share statistics.
        weight, bias: (C,), or None.
    """

    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, groups: int, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.register_buffer("weight", None if weight is None else weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())


class Step(NamedTuple):
    """One operation, and the indices of the steps that are its inputs; the picture is 0.

    Args:
        name: name of the layer.
        operation: its operation; for a normalisation, see ``norm``.
        norm: its normalisation, if it is one.
    """

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    norm: Normalisation | None = None


@dataclass(frozen=True)
class Graph:
    """The steps of a network in order; the first is the picture, the last is the result."""

    steps: Sequence[Step]

    @property
    def norms(self) -> tuple[int, ...]:
        """The indices of normalisations over the whole plane."""
        return tuple(index for index, step in enumerate(self.steps) if step.norm is not None)


def trace(generator: Generator, device: torch.device, dtype: torch.dtype) -> Graph:
    """Traces a network, with copies of its weights on ``device`` in ``dtype``.

    Raises:
        NotTileableError: a part of it depends on the whole picture, or cannot be traced.
    """
    if generator.runtime:
        raise NotTileableError(f"it is a program run by {generator.runtime}, into which one cannot look")
    if generator.fixed_size:
        raise NotTileableError("it takes pictures of {1}x{0} alone".format(*generator.fixed_size))
    network = copy.deepcopy(generator).eval().requires_grad_(False).to(device, dtype)
    try:
        traced = _Tracer().trace(network)
    except Exception as error:  # whatever a network does with its input's shape
        raise NotTileableError("it cannot be traced, since what it does depends on the picture or its size") from error
    steps: list[Step] = []
    places: dict[fx.Node, int] = {}
    for node in traced.nodes:
        if node.op == "output":
            places[node] = places[node.args[0]]
            steps = steps[: places[node] + 1]
        elif node.op != "get_attr":
            step = _step(node, network, places)
            places[node] = len(steps)
            steps.append(step)
    return Graph(tuple(steps))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LAYERS


def _step(node: fx.Node, network: nn.Module, places: Mapping[fx.Node, int]) -> Step:
    name = _name(node)
    inputs = tuple(places[other] for other in node.all_input_nodes if other in places)
    if node.op == "placeholder":
        return Step(name, Pointwise(function=unchanged), ())
    if node.op == "call_module":
        layer = network.get_submodule(str(node.target))
        made = LAYERS[type(layer)](layer)
        if isinstance(made, Normalisation):
            return Step(name, Pointwise(function=unchanged), inputs, made.to(_weights_of(network)))
        return Step(name, made, inputs)
    for other in node.all_input_nodes:
        if other not in places:
            raise NotTileableError(f"{other.target} is used outside of its layer, as attention does")
    key = getattr(torch, str(node.target), node.target) if node.op == "call_method" else node.target
    make = FUNCTIONS.get(key)
    if make is None:
        raise NotTileableError(f"{name} ({_called(node)}) looks at the whole picture, or is a layer that is not known")
    return Step(name, make(node), inputs)


def _weights_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def _name(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    inner = str(stack[-1][0]) if stack else ""
    return inner or node.name


def _called(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


# --- layers --------------------------------------------------------------------------------------------------------

_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def _conv(layer: nn.Conv2d) -> Operation:
    if isinstance(layer.padding, str) or layer.padding_mode == "circular":
        raise NotTileableError(f"a convolution pads in a way that is not known here ({layer.padding_mode})")
    padding = _pair(layer.padding)
    bare = copy.copy(layer)
    bare._parameters = dict(layer._parameters)
    bare.padding, bare.padding_mode, bare._reversed_padding_repeated_twice = (0, 0), "zeros", [0] * 4
    fast = faster_layer(bare, frozen=True) or bare
    return Window(
        function=fast,
        kernel=_pair(layer.kernel_size),
        stride=_pair(layer.stride),
        dilation=_pair(layer.dilation),
        before=padding,
        after=padding,
        mode=_MODES[layer.padding_mode],
    )


def _transposed(layer: nn.ConvTranspose2d) -> Operation:
    def run(x: torch.Tensor, behind: Pair) -> torch.Tensor:
        geometry = layer.stride, (0, 0), behind, layer.groups, layer.dilation
        return F.conv_transpose2d(x, layer.weight, layer.bias, *geometry)

    return Transposed(
        function=run,
        kernel=_pair(layer.kernel_size),
        stride=_pair(layer.stride),
        dilation=_pair(layer.dilation),
        padding=_pair(layer.padding),
        behind=_pair(layer.output_padding),
    )


def _blur(layer: BlurDown) -> Operation:
    groups = len(layer.kernel)
    return Window(
        function=lambda x: F.conv2d(x, layer.kernel, stride=2, groups=groups),
        kernel=(3, 3),
        stride=(2, 2),
        before=(1, 1),
        after=(1, 1),
        mode="reflect",
    )


def _padding(mode: str) -> Callable[[nn.ReflectionPad2d | nn.ReplicationPad2d | nn.ZeroPad2d], Operation]:
    return lambda layer: _pad(layer.padding, mode, getattr(layer, "value", 0.0))


def _pad(padding: Sequence[int] | int, mode: str = "constant", value: float | None = None) -> Operation:
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    return Window(before=(top, left), after=(bottom, right), mode=mode, value=value or 0.0)


def _upsample(layer: nn.Upsample) -> Operation:
    return _enlarge(layer.scale_factor, layer.mode, layer.align_corners)


def _enlarge(
    factor: float | tuple[float, ...] | None, mode: str = "nearest", align_corners: bool | None = None
) -> Operation:
    factors = {*factor} if isinstance(factor, tuple) else {factor}
    whole = next(iter(factors)) if len(factors) == 1 else None
    if whole is None or whole != int(whole) or mode not in ("nearest", "bilinear"):
        raise NotTileableError(f"it enlarges by {factor} ({mode})")
    return Enlarge(factor=int(whole), bilinear=mode == "bilinear", align_corners=bool(align_corners))


def _pointwise(layer: nn.Module) -> Operation:
    if hasattr(layer, "inplace"):
        setattr(layer, "inplace", False)  # noqa: B010 - a region is a part of what others read
    return Pointwise(function=layer)


def _instance_norm(layer: InstanceNorm) -> Normalisation:
    return Normalisation(layer.channels, layer.weight, layer.bias, layer.eps)


def _torch_instance_norm(layer: nn.InstanceNorm2d) -> Normalisation | Operation:
    if layer.track_running_stats:
        return Pointwise(function=layer)
    return Normalisation(layer.num_features, layer.weight, layer.bias, layer.eps)


def _group_norm(layer: nn.GroupNorm) -> Normalisation:
    return Normalisation(layer.num_groups, layer.weight, layer.bias, layer.eps)


def _batch_norm(layer: nn.BatchNorm2d) -> Normalisation | Operation:
    if layer.track_running_stats:
        return Pointwise(function=layer)
    return Normalisation(layer.num_features, layer.weight, layer.bias, layer.eps)


LAYERS: Mapping[type[nn.Module], Callable[[Any], Operation | Normalisation]] = {
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _transposed,
    BlurDown: _blur,
    nn.ReflectionPad2d: _padding("reflect"),
    nn.ReplicationPad2d: _padding("replicate"),
    nn.ZeroPad2d: _padding("constant"),
    nn.Upsample: _upsample,
    nn.PixelShuffle: lambda layer: Shuffle(layer.upscale_factor),
    nn.PixelUnshuffle: lambda layer: Unshuffle(layer.downscale_factor),
    InstanceNorm: _instance_norm,
    nn.InstanceNorm2d: _torch_instance_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm2d: _batch_norm,
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Tanh, nn.Sigmoid), _pointwise),
    **dict.fromkeys((nn.Hardtanh, nn.Identity, nn.Dropout, nn.Dropout2d), _pointwise),
}
"""Operations of layers on a region; other modules are traced into."""


def _called_pointwise(node: fx.Node) -> Operation:
    """A pointwise call, whose tensor arguments come from the pieces."""
    called = getattr(torch, str(node.target)) if node.op == "call_method" else node.target
    function = cast(Callable[..., torch.Tensor], called)
    keywords = {name: value for name, value in node.kwargs.items() if name != "inplace"}
    order = {other: index for index, other in enumerate(node.all_input_nodes)}

    def run(*parts: torch.Tensor) -> torch.Tensor:
        arguments = fx.node.map_arg(node.args, lambda other: parts[order[other]])
        more = fx.node.map_arg(keywords, lambda other: parts[order[other]])
        return function(*arguments, **more)

    return Pointwise(function=run)


def _called_cat(node: fx.Node) -> Operation:
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if dim != 1:
        raise NotTileableError(f"{_name(node)} joins tensors along axis {dim}")
    return _called_pointwise(node)


def _called_pad(node: fx.Node) -> Operation:
    return _pad(*node.args[1:], **node.kwargs)  # type: ignore[arg-type]


def _called_interpolate(node: fx.Node) -> Operation:
    given = dict(zip(("size", "scale_factor", "mode", "align_corners"), node.args[1:], strict=False)) | dict(
        node.kwargs
    )
    if given.pop("size", None) is not None:
        raise NotTileableError(f"{_name(node)} resizes to a size of its own")
    return _enlarge(given["scale_factor"], str(given.get("mode", "nearest")), given.get("align_corners"))  # type: ignore[arg-type]


_POINTWISE: tuple[object, ...] = (
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.abs, torch.clamp, torch.relu, torch.tanh),
    *(torch.sigmoid, torch.lerp),
    *(F.relu, F.leaky_relu, F.elu, F.silu, F.tanh, F.sigmoid, F.hardtanh, F.relu6, F.dropout),
)

FUNCTIONS: Mapping[object, Callable[[fx.Node], Operation]] = {
    **dict.fromkeys(_POINTWISE, _called_pointwise),
    torch.cat: _called_cat,
    F.pad: _called_pad,
    F.interpolate: _called_interpolate,
    F.pixel_shuffle: lambda node: Shuffle(int(node.args[1])),  # type: ignore[arg-type]
    F.pixel_unshuffle: lambda node: Unshuffle(int(node.args[1])),  # type: ignore[arg-type]
}
"""Operations of functions on a region."""


def _pair(value: int | str | tuple[int, ...]) -> Pair:
    first, second = value if isinstance(value, tuple) else (value, value)
    return int(first), int(second)
