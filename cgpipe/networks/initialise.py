"""Initial weights for training."""

from __future__ import annotations

import torch
from torch import nn

from cgpipe.networks.compact import CompactGenerator


@torch.no_grad()
def initialise(network: nn.Module, *, std: float = 0.02) -> None:
    """Convolutions from N(0, std), biases 0, as in CycleGAN (arXiv 1703.10593).

    Subpixel convolutions start with equal weights for each group of four subpixels (ICNR, arXiv 1707.02937), so that
    training does not start with a checkerboard.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, std)
    if isinstance(network, CompactGenerator):
        for conv in network.subpixel_convolutions():
            conv.weight.copy_(conv.weight[::4].repeat_interleave(4, dim=0))
