"""Fuses everything between two convolutions of a generator into one operation, for a GPU.

Norm, activation, addition and reflection padding each read and write whole feature maps, and at 256x256 launching them
takes longer than running them. torch's group norm and reflection padding also convert from channels_last and back.
"""

from __future__ import annotations

import copy
import operator
from typing import TypeGuard

import torch
from torch import fx, nn
from torch.nn import functional as F

from cgpipe.engine.between import Between, Fold, Unfold, pixel_unshuffle
from cgpipe.engine.rewrites import FEW_CHANNELS, Convolution, by_folded_squares, by_squares
from cgpipe.networks import Generator
from cgpipe.networks.norm import InstanceNorm


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


PLACES = 4
"""Channels of a pixel in a folded picture, of which 2 x 2 pixels then make 16 channels."""
LARGE = 5
"""Size of a convolution from which on rewriting the first and the last one pays."""


class LayerTracer(fx.Tracer):
    """Traces a generator down to its layers, ours included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, InstanceNorm | Convolution) or super().is_leaf_module(m, module_qualified_name)


class _Fusion:
    """Rewrites the graph of a generator."""

    def __init__(self, generator: Generator) -> None:
        generator = copy.deepcopy(generator)
        self._multiple = generator.multiple
        self.graph_module = fx.GraphModule(generator, LayerTracer().trace(generator))
        self._graph = self.graph_module.graph
        for change in (
            self._drop_identities,
            self._widen_head,
            self._fuse_shuffles,
            self._keep_layout,
            self._fuse_norms,
            self._fuse_rest,
            self._fold_stem,
            self._pad_ahead,
        ):
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
        kind = type(module).__name__.lower()
        name = f"{kind}_{sum(type(m) is type(module) for m in self.graph_module.modules())}"
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
        """Replaces a pixel unshuffle by one that keeps channels last."""
        if node.target is F.pixel_unshuffle and not node.kwargs:
            node.target = pixel_unshuffle

    def _widen_head(self, node: fx.Node) -> None:
        """Lets the last convolution, if it makes few channels, make several pixels at a time.

        A matrix unit computes at least 8 output channels. From 64 to 3 channels, 7x7, 256x256, on an H100 in fp16: 59
        to 13 us a picture.
        """
        convolution = self._module(node)
        factor = next((factor for factor in (4, 2) if self._multiple % factor == 0), 1)
        if factor == 1 or not _is_narrow_head(convolution) or not _makes_the_result(node):
            return
        wide = self._call(by_squares(convolution, factor), node, node.args[0])  # type: ignore[arg-type]
        with self._graph.inserting_after(wide):
            shuffled = self._graph.call_function(F.pixel_shuffle, (wide, factor))
        node.replace_all_uses_with(shuffled)

    def _fuse_shuffles(self, node: fx.Node) -> None:
        """Fuses a pixel shuffle with the bias of the convolution before it and with tanh after it."""
        if node.target is not F.pixel_shuffle or node.kwargs:
            return
        source, factor = node.args
        assert isinstance(source, fx.Node) and isinstance(factor, int)
        bias = self._without_bias(source) if len(source.users) == 1 else None
        after = _only_user(node)
        last = after if after is not None and _is_tanh(after) else node
        last.replace_all_uses_with(self._call(Unfold(factor, bias, tanh=last is not node), last, source))

    def _fold_stem(self, node: fx.Node) -> None:
        """Lets the first convolution work on 2 x 2 pixels folded into one, and make four pixels at a time.

        A matrix unit multiplies at least 16 input channels.
        """
        convolution, after = self._module(node), _only_user(node)
        maker = self._module(after)
        if self._multiple % 2 or not _is_narrow_stem(convolution) or not isinstance(maker, Between):
            return
        given = node.args[0]
        assert isinstance(given, fx.Node) and after is not None
        if given.op != "placeholder" or after.args[1:]:
            return
        folded = self._call(Fold(int(convolution.padding[0]), 2, PLACES), given, given)
        node.replace_all_uses_with(self._call(by_folded_squares(convolution, PLACES), folded, folded))
        maker.folded = 2

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


def _is_narrow_head(module: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    return isinstance(module, nn.Conv2d) and module.out_channels <= FEW_CHANNELS and _keeps_size(module)


def _is_narrow_stem(module: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    return (
        isinstance(module, nn.Conv2d)
        and module.in_channels <= PLACES
        and module.bias is None
        and module.padding_mode == "reflect"
        and _keeps_size(module)
    )


def _keeps_size(conv: nn.Conv2d) -> bool:
    side = conv.kernel_size[0]
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    return side % 2 == 1 and side >= LARGE and geometry == ((side, side), (1, 1), (side // 2, side // 2), (1, 1), 1)


def _makes_the_result(node: fx.Node) -> bool:
    """Whether the generator returns what ``node`` makes, or its tanh."""
    after = _only_user(node)
    if after is not None and _is_tanh(after):
        after = _only_user(after)
    return after is not None and after.op == "output"


def _is_tanh(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in (torch.tanh, F.tanh)


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
