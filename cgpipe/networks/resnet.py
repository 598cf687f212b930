"""The ResNet generator of CycleGAN (arXiv 1703.10593, after arXiv 1603.08155), and its anti-aliased form in CUT."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks.base import Generator
from cgpipe.networks.norm import NormKind, make_norm, needs_bias

Antialias = bool | Literal["down", "up"]
Upsample = Literal["transposed", "nearest", "bilinear"]
Edges = Literal["zeros", "reflect"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with reflection padding and a skip, (N, C, H, W) in and out."""

    def __init__(self, channels: int, norm: NormKind, *, dropout: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=needs_bias(norm))
        self.norm1 = make_norm(norm, channels)
        self.dropout = nn.Dropout(0.5) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=needs_bias(norm))
        self.norm2 = make_norm(norm, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.dropout(F.relu(self.norm1(self.conv1(x))))
        y = self.norm2(self.conv2(y))
        return x + y


class BlurDown(nn.Module):
    """Halves the sides after the binomial filter [1, 2, 1] (arXiv 1904.11486), (N, C, H, W) to (N, C, H/2, W/2)."""

    kernel: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(taps, taps).expand(channels, 1, 3, 3).clone()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, self.kernel, stride=2, groups=x.shape[1])


class ResNetGenerator(Generator):
    """Downsampling steps, residual blocks, and as many upsampling steps; sides are multiples of ``2 ** steps``.

    Args:
        blocks: residual blocks: 9 for pictures of 256 pixels and more, 6 for 128 in the paper.
        ngf: channels at full size; they double with every step.
        norm: normalisation after every convolution but the last.
        dropout: 0.5 between the two convolutions of each block, while training.
        antialias: low-pass filters at changes of resolution, as in CUT (arXiv 2007.15651): True for both, or only
            "down" or "up".
        in_channels: input channels.
        out_channels: output channels.
        steps: downsampling and upsampling steps: 2 in CycleGAN, 4 in pix2pixHD (arXiv 1711.11585).
        upsample: kind of upsampling: transposed convolutions, or resizing and a convolution.
        down_edges: padding of the downsampling convolutions.
        up_edges: padding of the upsampling convolutions, if they are not transposed.
        kernel: kernel size of the first and the last convolution.
        output: output activation; ``linear`` leaves clamping to the caller.

    Raises:
        ValueError: a setting is invalid.
    """

    def __init__(
        self,
        *,
        blocks: int = 9,
        ngf: int = 64,
        norm: NormKind = "instance",
        dropout: bool = False,
        antialias: Antialias = False,
        in_channels: int = 3,
        out_channels: int = 3,
        steps: int = 2,
        upsample: Upsample = "transposed",
        down_edges: Edges = "zeros",
        up_edges: Edges = "zeros",
        kernel: int = 7,
        output: Literal["tanh", "linear"] = "tanh",
    ) -> None:
        super().__init__()
        _check("antialias", antialias, (False, True, "down", "up"))
        _check("upsample", upsample, get_args(Upsample))
        _check("down_edges", down_edges, get_args(Edges))
        _check("up_edges", up_edges, get_args(Edges))
        _check("output", output, ("tanh", "linear"))
        _check("steps", steps, range(1, 7))
        _check("kernel", kernel, (3, 5, 7, 9))
        self.channels = (in_channels, out_channels)
        self.multiple = 2**steps
        # Reflection takes fewer lines than there are.
        self.least_side = self.multiple * max(2, kernel // 2 // self.multiple + 1)
        self.output = output
        smooth = antialias in (True, "down")
        # CUT spreads the pixels by the filter [1, 3, 3, 1] with the edge repeated: that is bilinear interpolation.
        spread: Upsample = "bilinear" if antialias in (True, "up") else upsample
        widths = [2**step * ngf for step in range(steps + 1)]
        self.stem = _stage(_reflected(in_channels, ngf, kernel, bias=needs_bias(norm)), norm)
        self.down = nn.Sequential(*(_down(width, norm, down_edges, smooth=smooth) for width in widths[:-1]))
        self.blocks = nn.Sequential(*(ResidualBlock(widths[-1], norm, dropout=dropout) for _ in range(blocks)))
        self.up = nn.Sequential(*(_up(width, norm, up_edges, spread) for width in reversed(widths[1:])))
        self.head = _reflected(ngf, out_channels, kernel, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.up(self.blocks(self.down(self.stem(x)))))
        return torch.tanh(y) if self.output == "tanh" else y

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The pixels, all downsampling steps, and the first and the middle block, which are the layers of CUT."""
        y, features = self.stem(x), [x]
        for layer in self.down:
            y = layer(y)
            features.append(y)
        middle = len(self.blocks) // 2
        for index, block in enumerate(self.blocks[: middle + 1]):
            y = block(y)
            if index in (0, middle):
                features.append(y)
        return features


def _check(name: str, value: object, known: Collection[object]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")


def _reflected(inputs: int, outputs: int, kernel: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="reflect", bias=bias)


def _stage(conv: nn.Conv2d | nn.ConvTranspose2d, norm: NormKind) -> nn.Sequential:
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(OrderedDict(conv=conv, norm=make_norm(norm, conv.out_channels), relu=relu))


def _down(inputs: int, norm: NormKind, edges: Edges, *, smooth: bool) -> nn.Sequential:
    outputs, bias = 2 * inputs, needs_bias(norm)
    stride = 1 if smooth else 2
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode=edges, bias=bias)
    stage = _stage(conv, norm)
    if smooth:
        stage.add_module("blur", BlurDown(outputs))
    return stage


def _up(inputs: int, norm: NormKind, edges: Edges, upsample: Upsample) -> nn.Sequential:
    outputs, bias = inputs // 2, needs_bias(norm)
    if upsample == "transposed":
        return _stage(nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=bias), norm)
    stage = _stage(nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=edges, bias=bias), norm)
    spread = nn.Upsample(scale_factor=2, mode=upsample)
    return nn.Sequential(OrderedDict([("spread", spread), *stage.named_children()]))
