"""Layers for a CPU, the same as torch's to rounding: Winograd convolutions and gradients in fp32, norms in bf16 too.

Networks are built from torch's own layers. :func:`accelerate` swaps in the layers from here: for the engine in its
own frozen copy, for the trainer in the networks that it steps.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from cgpipe.networks.cpu.convolution import FastConv2d, FastConvTranspose2d, steady_weights
from cgpipe.networks.cpu.eager import MEASURED
from cgpipe.networks.cpu.norm import FastInstanceNorm
from cgpipe.networks.norm import InstanceNorm

__all__ = ["accelerate", "steady_weights"]

Network = TypeVar("Network", bound=nn.Module)


def accelerate(network: Network, *, frozen: bool = False) -> Network:
    """Replaces the convolutions and norms inside ``network`` by faster ones that share their parameters.

    Other dtypes and devices, and compiled, traced and exported networks, still run torch's own operations.

    Args:
        frozen: the weights never change again, so that what is computed from them is kept.

    Returns:
        ``network`` itself.
    """
    if MEASURED:
        for name, layer in list(network.named_modules()):
            faster = faster_layer(layer, frozen=frozen)
            if name and faster is not None:
                network.set_submodule(name, faster)
    return network


def faster_layer(layer: nn.Module, *, frozen: bool = False) -> nn.Module | None:
    """The layer that does the same faster, with the same parameters; None where there is none."""
    if type(layer) is InstanceNorm:
        return FastInstanceNorm.of(layer)
    if type(layer) is nn.Conv2d and _is_plain(layer):
        return FastConv2d.of(layer, frozen=frozen)
    if type(layer) is nn.ConvTranspose2d and _is_plain(layer):
        return FastConvTranspose2d.of(layer)
    return None


def _is_plain(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether it is square in every way, with neither groups nor dilation; of 1x1 kernels torch's way is as fast."""
    square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding, conv.output_padding))
    square = square and conv.kernel_size[0] > 1
    return square and not isinstance(conv.padding, str) and conv.groups == 1 and set(conv.dilation) == {1}
