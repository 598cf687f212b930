"""Fuses everything between two convolutions of a generator into one operation, for a GPU.

Norm, activation, addition and reflection padding each read and write whole feature maps, and at 256x256 launching them
takes longer than running them. torch's group norm and reflection padding also convert from channels_last and back.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import fx, nn
from torch.nn import functional as F

from cgpipe.errors import CgpipeWarning
from cgpipe.networks import Generator
from cgpipe.networks.norm import InstanceNorm

Convolution = nn.Conv2d | nn.ConvTranspose2d


class Between(nn.Module):
    """Instance norm, bias, (leaky) ReLU, addition and reflection padding, each optional.

    Args:
        norm: an instance norm.
        bias: (C,), added if there is no norm; a norm would cancel it.
        slope: of the activation below 0; None for no activation.
    """

    bias: torch.Tensor | None

    def __init__(
        self, norm: InstanceNorm | None = None, bias: torch.Tensor | None = None, slope: float | None = None
    ) -> None:
        super().__init__()
        self.norm = norm
        self.slope = slope
        self.pad = 0
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Maps (N, C, H, W), plus a residual of that shape, to (N, C, H + 2 * pad, W + 2 * pad)."""
        norm = self.norm
        weight, bias, eps = (None, self.bias, None) if norm is None else (norm.weight, norm.bias, norm.eps)
        run = _kernels() if x.is_cuda and x[0].numel() < 2**31 else plainly
        return run(x, eps=eps, weight=weight, bias=bias, slope=self.slope, residual=residual, pad=self.pad)


@cache
def _kernels() -> Callable[..., torch.Tensor]:
    from cgpipe.engine.kernels import between_convolutions

    return between_convolutions


def plainly(
    x: torch.Tensor,
    *,
    eps: float | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    slope: float | None,
    residual: torch.Tensor | None,
    pad: int,
) -> torch.Tensor:
    """The same as :func:`cgpipe.engine.kernels.between_convolutions`, with torch's operations."""
    if eps is not None:
        x = F.group_norm(x, x.shape[1], weight, bias, eps)
    elif bias is not None:
        x = x + bias[:, None, None]
    if slope is not None:
        x = F.leaky_relu(x, slope)
    if residual is not None:
        x = x + residual
    return F.pad(x, 4 * (pad,), mode="reflect") if pad else x


def pixel_shuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """``F.pixel_shuffle`` of channels_last maps, in one copy: torch's own changes the layout."""
    blocks = x.permute(0, 2, 3, 1).unflatten(3, (-1, factor, factor))  # (N, H, W, C, factor, factor)
    shuffled: torch.Tensor = blocks.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return shuffled


def pixel_unshuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """``F.pixel_unshuffle``, likewise."""
    blocks = x.permute(0, 2, 3, 1).unflatten(2, (-1, factor)).unflatten(1, (-1, factor))  # (N, h, f, w, f, C)
    folded: torch.Tensor = blocks.permute(0, 1, 3, 5, 2, 4).flatten(3).permute(0, 3, 1, 2)
    return folded


@cache
def can_fuse(device: torch.device) -> bool:
    """Whether kernels can be built for ``device``; warns if building fails."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    nothing: dict[str, None] = {"weight": None, "bias": None, "residual": None}
    try:
        _kernels()(torch.zeros(1, 16, 4, 4, device=device), eps=1e-5, slope=0.0, pad=0, **nothing)
    except Exception as error:  # Triton calls a compiler, which may fail in any way
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"Triton cannot build kernels ({reason}): continuing without.", CgpipeWarning, stacklevel=2)
        return False
    return True


def fuse(generator: Generator) -> nn.Module:
    """A copy of ``generator`` with a :class:`Between` for everything between its convolutions; equal up to rounding.

    Args:
        generator: in eval mode.
    """
    return _Fusion(generator).graph_module


def fused_where_possible(generator: Generator) -> nn.Module:
    """:func:`fuse`, or ``generator`` itself if its control flow depends on its input."""
    try:
        return fuse(generator)
    except (fx.proxy.TraceError, TypeError):
        return generator


class LayerTracer(fx.Tracer):
    """Traces a generator down to its layers, ours included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, InstanceNorm | Convolution) or super().is_leaf_module(m, module_qualified_name)


class _Fusion:
    """Rewrites the graph of a generator."""

    def __init__(self, generator: Generator) -> None:
        generator = copy.deepcopy(generator)
        self.graph_module = fx.GraphModule(generator, LayerTracer().trace(generator))
        self._graph = self.graph_module.graph
        for change in (self._drop_identities, self._keep_layout, self._fuse_norms, self._fuse_rest, self._pad_ahead):
            for node in list(self._graph.nodes):
                change(node)
            self._graph.eliminate_dead_code()
        self.graph_module.delete_all_unused_submodules()
        self.graph_module.recompile()

    def _module(self, node: object) -> nn.Module | None:
        """The module that a node calls."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return self.graph_module.get_submodule(str(node.target))

    def _call(self, module: nn.Module, after: fx.Node, *inputs: fx.Node) -> fx.Node:
        """Inserts a call of a new module after a node."""
        name = f"between_{sum(isinstance(m, Between) for m in self.graph_module.modules())}"
        if not isinstance(module, Between):
            name = f"convolution_{after.name}"
        self.graph_module.add_submodule(name, module)
        with self._graph.inserting_after(after):
            return self._graph.call_module(name, inputs)

    def _drop_identities(self, node: fx.Node) -> None:
        if isinstance(self._module(node), nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]

    def _fuse_norms(self, node: fx.Node) -> None:
        """Fuses a norm with the activation and the addition after it."""
        norm = self._module(node)
        if not isinstance(norm, InstanceNorm):
            return
        source, last, residual = node.args[0], node, None
        assert isinstance(source, fx.Node)
        slope = self._slope(_only_user(last))
        if slope is not None:
            last = _only_user(last)  # type: ignore[assignment]
        other = _other_summand(_only_user(last), last)
        if other is not None:
            last, residual = _only_user(last), other  # type: ignore[assignment]
        if len(source.users) == 1:
            self._without_bias(source)
        inputs = [source] if residual is None else [source, residual]
        last.replace_all_uses_with(self._call(Between(norm, slope=slope), last, *inputs))

    def _keep_layout(self, node: fx.Node) -> None:
        """Replaces pixel shuffles by ones that keep channels last."""
        faster = {F.pixel_shuffle: pixel_shuffle, F.pixel_unshuffle: pixel_unshuffle}
        if node.op == "call_function" and node.target in faster and not node.kwargs:
            node.target = faster[node.target]

    def _fuse_rest(self, node: fx.Node) -> None:
        """Fuses an activation without a norm with the bias of the convolution before it."""
        slope = self._slope(node)
        if slope is None or not node.users:
            return
        source = node.args[0]
        assert isinstance(source, fx.Node)
        bias = self._without_bias(source) if len(source.users) == 1 else None
        node.replace_all_uses_with(self._call(Between(bias=bias, slope=slope), node, source))

    def _pad_ahead(self, node: fx.Node) -> None:
        """Moves the reflection padding of a convolution into the operation that makes its input."""
        convolution = self._module(node)
        if not isinstance(convolution, nn.Conv2d) or convolution.padding_mode != "reflect":
            return
        given, pad = node.args[0], int(convolution.padding[0])
        assert isinstance(given, fx.Node)
        source = _uncut(given)
        maker = self._module(source)
        if not isinstance(maker, Between) or maker.pad not in (0, pad):
            maker = Between()
            source = self._call(maker, given, given)
        if not maker.pad:
            self._pad(source, maker, pad)
        unpadded = copy.copy(convolution)
        unpadded.padding, unpadded.padding_mode = (0, 0), "zeros"
        padded = self._call(unpadded, node, source)
        node.replace_all_uses_with(padded)

    def _pad(self, source: fx.Node, maker: Between, pad: int) -> None:
        """Lets ``maker`` pad, and crops the padding off for all other users of its result."""
        maker.pad = pad
        inside = (slice(None), slice(None), slice(pad, -pad), slice(pad, -pad))
        users = list(source.users)
        with self._graph.inserting_after(source):
            cut = self._graph.call_function(operator.getitem, (source, inside))
        for user in users:
            user.replace_input_with(source, cut)

    def _slope(self, node: fx.Node | None) -> float | None:
        """The slope below 0, if the node is an activation."""
        module = self._module(node)
        if isinstance(module, nn.ReLU) or (node is not None and node.target in (F.relu, torch.relu)):
            return 0.0
        return module.negative_slope if isinstance(module, nn.LeakyReLU) else None

    def _without_bias(self, node: fx.Node) -> torch.Tensor | None:
        """Removes a convolution's bias and returns it."""
        convolution = self._module(node)
        if not isinstance(convolution, Convolution) or convolution.bias is None:
            return None
        bias, convolution.bias = convolution.bias.detach(), None
        return bias


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _other_summand(node: fx.Node | None, one: fx.Node) -> fx.Node | None:
    """The other operand of an addition of ``one``."""
    if node is None or node.target not in (operator.add, torch.add) or len(node.args) != 2:
        return None
    others: list[object] = [summand for summand in node.args if summand is not one]
    return others[0] if len(others) == 1 and isinstance(others[0], fx.Node) else None


def _uncut(node: fx.Node) -> fx.Node:
    """The node that this node was cropped from, or the node itself."""
    return node.args[0] if node.target is operator.getitem else node  # type: ignore[return-value]
