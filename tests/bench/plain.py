"""Networks of cgpipe as torch alone would run them."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from cgpipe.networks.convolution import Conv2d, ConvTranspose2d
from cgpipe.networks.norm import InstanceNorm

N = TypeVar("N", bound=nn.Module)


def with_torch_layers(network: N, norm: type[nn.InstanceNorm2d | nn.GroupNorm] = nn.GroupNorm) -> N:
    """``network``, changed so that each convolution and each norm is torch's own, with the same weights.

    Args:
        norm: what stands for instance norm; a group norm with one group a channel is as good, and takes less time
            where channels lie last.
    """
    for name, module in list(network.named_modules()):
        theirs: nn.Module | None = None
        if isinstance(module, Conv2d):
            theirs = nn.Conv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                padding_mode=module.padding_mode,  # type: ignore[arg-type]
            )
        elif isinstance(module, ConvTranspose2d):
            theirs = nn.ConvTranspose2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.output_padding,  # type: ignore[arg-type]
            )
        elif isinstance(module, InstanceNorm):
            groups = [module.channels] if norm is nn.GroupNorm else []
            theirs = norm(*groups, module.channels, eps=module.eps, affine=module.weight is not None)
        if theirs is not None:
            theirs.weight, theirs.bias = module.weight, module.bias
            network.set_submodule(name, theirs)
    return network
