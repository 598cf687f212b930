"""The U-Net generator of pix2pix (arXiv 1611.07004), which CycleGAN's authors offer beside the ResNet."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks.base import Generator
from cgpipe.networks.norm import NormKind, make_norm, needs_bias


class UNetGenerator(Generator):
    """Halves the picture ``levels`` times and doubles it back, each level joined with what went down past it.

    Args:
        levels: 7 for pictures of 128 pixels, 8 for 256, at least 5; sides are multiples of ``2 ** levels``.
        ngf: channels at half size; they double with every level up to eight times as many.
        norm: normalisation after every convolution but the first, the innermost and the last.
        dropout: 0.5 on the way up, in the levels of full width but the innermost, while training.
        in_channels: input channels.
        out_channels: output channels.

    Raises:
        ValueError: there are too few levels.
    """

    def __init__(
        self,
        *,
        levels: int = 8,
        ngf: int = 64,
        norm: NormKind = "instance",
        dropout: bool = False,
        in_channels: int = 3,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        if levels < 5:
            raise ValueError(f"a U-Net has at least 5 levels, not {levels}")
        self.channels = (in_channels, out_channels)
        self.multiple = self.least_side = 2**levels
        bias = needs_bias(norm)
        self.stem = nn.Conv2d(in_channels, ngf, 4, stride=2, padding=1, bias=bias)
        self.down, self.up = nn.Sequential(), nn.Sequential()
        for level in range(1, levels):
            outer, inner = (ngf * min(2**depth, 8) for depth in (level - 1, level))
            innermost = level == levels - 1
            self.down.append(_down(outer, inner, "none" if innermost else norm, bias=bias))
            joined = inner if innermost else 2 * inner
            self.up.insert(0, _up(joined, outer, norm, dropout=dropout and level >= 4 and not innermost))
        self.head = nn.ConvTranspose2d(2 * ngf, out_channels, 4, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        skips = []
        for layer in self.down:
            skips.append(x)
            x = layer(x)
        for layer in self.up:
            x = torch.cat([skips.pop(), layer(x)], dim=1)
        return torch.tanh(self.head(F.relu(x)))

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The pixels, and the way down as far as a sixteenth of the sides: below that too few places are left."""
        features = [x, self.stem(x)]
        for layer in self.down[:3]:
            features.append(layer(features[-1]))
        return features


def _down(inputs: int, outputs: int, norm: NormKind, *, bias: bool) -> nn.Sequential:
    # Not in place: the input is also what the way up joins on.
    relu = nn.LeakyReLU(0.2)
    conv = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)
    return nn.Sequential(OrderedDict(relu=relu, conv=conv, norm=make_norm(norm, outputs)))


def _up(inputs: int, outputs: int, norm: NormKind, *, dropout: bool) -> nn.Sequential:
    relu = nn.ReLU(inplace=True)
    conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=needs_bias(norm))
    stage = nn.Sequential(OrderedDict(relu=relu, conv=conv, norm=make_norm(norm, outputs)))
    if dropout:
        stage.add_module("dropout", nn.Dropout(0.5))
    return stage
