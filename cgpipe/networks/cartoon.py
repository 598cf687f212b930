"""Generators that draw cartoons: AnimeGANv2, and white-box cartoonisation."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks.base import Generator


class AnimeGenerator(Generator):
    """The generator of AnimeGANv2, as animegan2-pytorch has it, whose names the modules bear; sides in multiples of 4.

    Args:
        align_corners: how the sides are doubled: the corners stay where they are (the project's own way), or pixels
            are areas.
    """

    multiple = 4
    least_side = 16

    def __init__(self, *, align_corners: bool = True) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.block_a = nn.Sequential(_Layer(3, 32, 7), _Layer(32, 64, stride=2), _Layer(64, 64))
        self.block_b = nn.Sequential(_Layer(64, 128, stride=2), _Layer(128, 128))
        inverted = [_Inverted(128, 256), *(_Inverted(256, 256) for _ in range(3))]
        self.block_c = nn.Sequential(_Layer(128, 128), *inverted, _Layer(256, 128))
        self.block_d = nn.Sequential(_Layer(128, 128), _Layer(128, 128))
        self.block_e = nn.Sequential(_Layer(128, 64), _Layer(64, 64), _Layer(64, 32, 7))
        self.out_layer = nn.Sequential(nn.Conv2d(32, 3, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.block_d(self._doubled(self.block_c(self.block_b(self.block_a(x)))))
        return torch.tanh(self.out_layer(self.block_e(self._doubled(y))))

    def _doubled(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.align_corners)


class _Layer(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> None:
        side = kernel // 2
        # A step down is padded behind alone.
        padding = (0, side, 0, side) if stride == 2 else (side,) * 4
        bias = groups > 1
        super().__init__(
            nn.ReflectionPad2d(padding),
            nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=bias),
            nn.GroupNorm(1, outputs),
            nn.LeakyReLU(0.2, True),
        )


class _Inverted(nn.Module):
    """Twice as wide inside (arXiv 1801.04381), with a skip where as many channels go out as come in."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = 2 * inputs
        narrow = nn.Conv2d(wide, outputs, 1, bias=False)
        self.layers = nn.Sequential(
            _Layer(inputs, wide, 1), _Layer(wide, wide, groups=wide), narrow, nn.GroupNorm(1, outputs)
        )
        self.skips = inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.skips else y


class WhiteBoxGenerator(Generator):
    """The U-Net of white-box cartoonisation (CVPR 2020, paper 6791); sides are multiples of 4.

    Args:
        blocks: residual blocks at a quarter of the sides.
        ngf: channels at full size.
        output: what limits the pixels; ``linear`` leaves that to who takes them.
    """

    multiple = 4
    least_side = 8

    def __init__(self, *, blocks: int = 4, ngf: int = 32, output: Literal["tanh", "linear"] = "tanh") -> None:
        super().__init__()
        if output not in ("tanh", "linear"):
            raise ValueError(f"output must be 'tanh' or 'linear', not {output!r}")
        self.output = output
        self.stem = nn.Conv2d(3, ngf, 7, padding=3)
        self.down = nn.ModuleList(_pair(width, 2 * width, stride=2) for width in (ngf, 2 * ngf))
        self.blocks = nn.Sequential(*(_Residual(4 * ngf) for _ in range(blocks)))
        self.middle = nn.Conv2d(4 * ngf, 2 * ngf, 3, padding=1)
        self.up = _pair(2 * ngf, ngf)
        self.last = nn.Conv2d(ngf, ngf, 3, padding=1)
        self.head = nn.Conv2d(ngf, 3, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        full = F.leaky_relu(self.stem(x), 0.2)
        half = self.down[0](full)
        y = F.leaky_relu(self.middle(self.blocks(self.down[1](half))), 0.2)
        y = self.up(F.interpolate(y, scale_factor=2, mode="bilinear") + half)
        y = self.head(F.leaky_relu(self.last(F.interpolate(y, scale_factor=2, mode="bilinear") + full), 0.2))
        return torch.tanh(y) if self.output == "tanh" else y


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv2(F.leaky_relu(self.conv1(x), 0.2))
        return x + y


def _pair(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """Two convolutions; the first halves the sides, the second changes the width."""
    conv1 = nn.Conv2d(inputs, inputs, 3, stride, padding=1)
    conv2 = nn.Conv2d(inputs, outputs, 3, padding=1)
    layers = {"conv1": conv1, "relu1": nn.LeakyReLU(0.2), "conv2": conv2, "relu2": nn.LeakyReLU(0.2)}
    return nn.Sequential(OrderedDict(layers))
