"""Initial weights for training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from cgpipe.networks.compact import CompactGenerator
from cgpipe.options import InitKind

_DRAWN: Mapping[InitKind, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "normal": lambda weight, gain: nn.init.normal_(weight, 0.0, gain),
    "xavier": lambda weight, gain: nn.init.xavier_normal_(weight, gain),
    "kaiming": lambda weight, gain: nn.init.kaiming_normal_(weight),
    "orthogonal": lambda weight, gain: nn.init.orthogonal_(weight, gain),
}


@torch.no_grad()
def initialise(network: nn.Module, *, kind: InitKind = "normal", gain: float = 0.02) -> None:
    """Draws the weights of convolutions, and sets biases to 0; the default is that of CycleGAN (arXiv 1703.10593).

    Subpixel convolutions start with equal weights for each group of four subpixels (ICNR, arXiv 1707.02937), so that
    training does not start with a checkerboard.

    Args:
        kind: the distribution: normal, xavier, kaiming (whose scale follows from the layer alone) or orthogonal.
        gain: the standard deviation of normal and of batch norm's weights; the factor of xavier and orthogonal.
    """
    draw = _DRAWN[kind]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            draw(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, gain)
    if isinstance(network, CompactGenerator):
        for conv in network.subpixel_convolutions():
            conv.weight.copy_(conv.weight[::4].repeat_interleave(4, dim=0))
