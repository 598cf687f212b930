"""Networks of cgpipe as torch alone would run them."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from cgpipe.networks.winograd import Conv3x3

N = TypeVar("N", bound=nn.Module)


def with_torch_convolutions(network: N) -> N:
    """``network``, changed so that each 3x3 convolution is torch's own, with the same weights."""
    ours = [name for name, module in network.named_modules() if isinstance(module, Conv3x3)]
    for name in ours:
        conv = network.get_submodule(name)
        assert isinstance(conv, Conv3x3)
        theirs = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            3,
            padding=1,
            padding_mode=conv.padding_mode,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )
        theirs.weight, theirs.bias = conv.weight, conv.bias
        network.set_submodule(name, theirs)
    return network
