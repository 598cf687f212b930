"""Small generators that run in real time on a CPU.

All heavy work is done on a picture folded to a quarter of its sides (space to depth), as dense 3x3 convolutions with
a multiple of 16 channels, which is what wide vector units are good at. A skip at half size keeps the detail that the
fold would blur.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks.base import Generator
from cgpipe.networks.norm import NormKind, make_norm

Padding = Literal["zeros", "reflect"]

OPEN = 4.0
"""Logit with which attention begins in a finished network: 98% of every change passes."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norm and a skip (arXiv 1512.03385), (N, C, H, W) in and out."""

    def __init__(self, channels: int, norm: NormKind, padding: Padding) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, norm, padding)
        self.norm1 = make_norm(norm, channels)
        self.conv2 = _conv(channels, channels, norm, padding)
        self.norm2 = make_norm(norm, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return x + y


class DeepPath(nn.Module):
    """Residual blocks at half the size of their input, upsampled and added to it.

    A convolution at half the size has twice the receptive field for the same cost, which a generator needs to find the
    outline of a large animal.
    """

    def __init__(self, channels: int, deep_channels: int, blocks: int, norm: NormKind, padding: Padding) -> None:
        super().__init__()
        self.down = _conv(channels, deep_channels, norm, padding, stride=2)
        self.down_norm = make_norm(norm, deep_channels)
        self.blocks = nn.Sequential(*(ResidualBlock(deep_channels, norm, padding) for _ in range(blocks)))
        self.up = nn.Conv2d(deep_channels, 4 * channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks(F.relu(self.down_norm(self.down(x))))
        return x + F.pixel_shuffle(self.up(y), 2)

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The downsampled map, and the output of the middle block."""
        y = F.relu(self.down_norm(self.down(x)))
        return [y, self.blocks[: (len(self.blocks) + 1) // 2](y)]


class Attention(nn.Module):
    """Where a generator changes the picture: (N, C, H, W) in, (N, 1, 4 H, 4 W) in [0, 1] out."""

    def __init__(self, channels: int, padding: Padding, hidden: int = 16) -> None:
        super().__init__()
        self.conv = _conv(channels, hidden, "none", padding)
        self.to_logit = _conv(hidden, 1, "none", padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logit = self.to_logit(F.relu(self.conv(x)))
        return torch.sigmoid(F.interpolate(logit, scale_factor=4, mode="bilinear"))

    def opened(self) -> dict[str, torch.Tensor]:
        """Its weights, with those of the last convolution such that almost everything changes."""
        weights = dict(self.state_dict())
        weights["to_logit.weight"] = torch.zeros_like(weights["to_logit.weight"])
        weights["to_logit.bias"] = torch.full_like(weights["to_logit.bias"], OPEN)
        return weights


class CompactGenerator(Generator):
    """The compact generator.

    Args:
        channels: width at a quarter of the picture's sides; a multiple of 16 runs best.
        blocks: residual blocks at that size, half of them before the deep path and half after.
        deep_channels: width at an eighth of the sides.
        deep_blocks: residual blocks at an eighth of the sides; 0: no deep path.
        norm: normalisation after every convolution except those that output pixels.
        padding: of every convolution. Zeros leave stripes along the edges of smooth skies, which instance norm
            amplifies; reflection leaves none.
        signed_skip: the skip carries detail darker than middle grey, too, beside what is brighter (arXiv 1603.05201).
            Without it such detail has to come through the folded picture, where most of it is lost.
        attention: the generator also says where it changes the picture; what is elsewhere passes as it is
            (arXiv 1806.02311). It is smooth, at a quarter of the sides, and so does not flicker.
        in_channels: input channels.
        out_channels: output channels.
    """

    def __init__(
        self,
        *,
        channels: int = 64,
        blocks: int = 6,
        deep_channels: int = 96,
        deep_blocks: int = 0,
        norm: NormKind = "instance",
        padding: Padding = "zeros",
        signed_skip: bool = False,
        attention: bool = False,
        in_channels: int = 3,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        self.channels = (in_channels, out_channels)
        self.signed_skip = signed_skip
        if padding not in get_args(Padding):
            raise ValueError(f"unknown padding {padding!r}: choose one of {', '.join(get_args(Padding))}")
        if attention and in_channels != out_channels:
            raise ValueError("attention needs as many output channels as input channels")
        self.multiple = 8 if deep_blocks else 4
        self.least_side = 2 * self.multiple
        before = (blocks + 1) // 2
        self.stem = _conv(16 * in_channels, channels, norm, padding)
        self.stem_norm = make_norm(norm, channels)
        self.before = nn.Sequential(*(ResidualBlock(channels, norm, padding) for _ in range(before)))
        self.deep = DeepPath(channels, deep_channels, deep_blocks, norm, padding) if deep_blocks else nn.Identity()
        self.after = nn.Sequential(*(ResidualBlock(channels, norm, padding) for _ in range(blocks - before)))
        self.attention = Attention(channels, padding) if attention else None
        self.widen = _conv(channels, 80, "none", padding)
        self.refine = _conv(20 + (8 if signed_skip else 4) * in_channels, 32, "none", padding)
        self.to_pixels = _conv(32, 4 * out_channels, "none", padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.stem_norm(self.stem(F.pixel_unshuffle(x, 4))))
        features = self.after(self.deep(self.before(y)))
        y = F.pixel_shuffle(self.widen(features), 2)
        detail = F.pixel_unshuffle(x, 2)
        skip = [detail, -detail] if self.signed_skip else [detail]
        y = self.to_pixels(F.relu(self.refine(F.relu(torch.cat([y, *skip], dim=1)))))
        made = torch.tanh(F.pixel_shuffle(y, 2))
        return made if self.attention is None else x + self.attention(features) * (made - x)

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The pixels, the stem, the blocks before the deep path, and the deep path up to its middle."""
        stem = F.relu(self.stem_norm(self.stem(F.pixel_unshuffle(x, 4))))
        before = self.before(stem)
        deep = self.deep.encode(before) if isinstance(self.deep, DeepPath) else []
        return [x, stem, before, *deep]

    def starting_weights(self, other: Generator) -> dict[str, torch.Tensor]:
        """Without a signed skip in ``other``, one with weights of 0: the result is the same, and can be learned on.

        Without attention, one that is open everywhere.
        """
        weights = super().starting_weights(other)
        if self.signed_skip and isinstance(other, CompactGenerator) and not other.signed_skip:
            known = weights["refine.weight"]
            dark = known.new_zeros((len(known), self.refine.in_channels - known.shape[1], 3, 3))
            weights["refine.weight"] = torch.cat([known, dark], dim=1)
        if self.attention is not None and isinstance(other, CompactGenerator) and other.attention is None:
            weights |= {f"attention.{name}": value for name, value in self.attention.opened().items()}
        return weights

    def subpixel_convolutions(self) -> list[nn.Conv2d]:
        """The convolutions before a pixel shuffle, whose initial weights need care (ICNR)."""
        deep = [self.deep.up] if isinstance(self.deep, DeepPath) else []
        return [*deep, self.widen, self.to_pixels]


def _conv(inputs: int, outputs: int, norm: NormKind, padding: Padding, *, stride: int = 1) -> nn.Conv2d:
    # A norm that removes the mean cancels a bias before it.
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode=padding, bias=norm == "none")
