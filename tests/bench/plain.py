"""Networks of cgpipe with torch's own norm, as the projects that they come from have it."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from cgpipe.networks.norm import InstanceNorm

N = TypeVar("N", bound=nn.Module)


def with_torch_norms(network: N) -> N:
    """``network``, changed so that each instance norm is ``nn.InstanceNorm2d``, with the same weights."""
    for name, module in list(network.named_modules()):
        if isinstance(module, InstanceNorm):
            theirs = nn.InstanceNorm2d(module.channels, eps=module.eps, affine=module.weight is not None)
            theirs.weight, theirs.bias = module.weight, module.bias
            network.set_submodule(name, theirs)
    return network
