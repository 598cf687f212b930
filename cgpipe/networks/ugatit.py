"""The generator of U-GAT-IT (arXiv 1907.10830): attention from class activation, and norms between instance and layer.

For the project's checkpoints: the modules are named as there.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks.base import Generator
from cgpipe.networks.fixed import at_fixed_size
from cgpipe.networks.norm import InstanceNorm

EPS = 1e-5


class UGATITGenerator(Generator):
    """Two steps down, residual blocks, attention, blocks whose norms the attention steers, two steps up.

    Args:
        blocks: residual blocks before the attention, and as many behind.
        ngf: channels at full size.
        size: side of the pictures for which it was made; it takes no others. None for the light network, which takes
            pictures of any size in multiples of 4.
    """

    multiple = 4
    least_side = 16

    def __init__(self, *, blocks: int = 4, ngf: int = 64, size: int | None = 256) -> None:
        super().__init__()
        if size is not None:
            self.fixed_size = (size, size)
        wide = 4 * ngf
        down = [_reflected(3, ngf, 7), InstanceNorm(ngf), nn.ReLU(True)]
        for width in (ngf, 2 * ngf):
            down += [_reflected(width, 2 * width, 3, stride=2), InstanceNorm(2 * width), nn.ReLU(True)]
        self.DownBlock = _numbered([1, 2, 3, 5, 6, 7, 9, 10, 11], down)
        for index in range(blocks):
            self.DownBlock.add_module(str(12 + index), _Block(wide))
        self.gap_fc, self.gmp_fc = (nn.Linear(wide, 1, bias=False) for _ in range(2))
        self.conv1x1 = nn.Conv2d(2 * wide, wide, 1)
        seen = wide if size is None else wide * (size // 4) ** 2
        first, second = nn.Linear(seen, wide, bias=False), nn.Linear(wide, wide, bias=False)
        self.FC = nn.Sequential(first, nn.ReLU(True), second, nn.ReLU(True))
        self.gamma, self.beta = (nn.Linear(wide, wide, bias=False) for _ in range(2))
        self.blocks = blocks
        for index in range(blocks):
            self.add_module(f"UpBlock1_{index + 1}", _SteeredBlock(wide))
        up: list[nn.Module] = []
        for width in (wide, wide // 2):
            up += [nn.Upsample(scale_factor=2), _reflected(width, width // 2, 3), _BlendNorm(width // 2), nn.ReLU(True)]
        self.UpBlock2 = _numbered([0, 2, 3, 4, 5, 7, 8, 9, 11], [*up, _reflected(ngf, 3, 7)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._run(x) if self.fixed_size is None else at_fixed_size(self._run, x, self.fixed_size)

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        y = self.DownBlock(x)
        attended = [y * layer.weight[:, :, None, None] for layer in (self.gap_fc, self.gmp_fc)]
        y = F.relu(self.conv1x1(torch.cat(attended, 1)))
        steering = self.FC((y if self.fixed_size else y.mean((2, 3))).flatten(1))
        gamma, beta = self.gamma(steering)[:, :, None, None], self.beta(steering)[:, :, None, None]
        for index in range(self.blocks):
            y = self.get_submodule(f"UpBlock1_{index + 1}")(y, gamma, beta)
        return torch.tanh(self.UpBlock2(y))


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = [_reflected(channels, channels, 3), InstanceNorm(channels), nn.ReLU(True)]
        layers += [_reflected(channels, channels, 3), InstanceNorm(channels)]
        self.conv_block = _numbered([1, 2, 3, 5, 6], layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv_block(x)
        return x + y


class _SteeredBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _reflected(channels, channels, 3), _Blend(channels)
        self.conv2, self.norm2 = _reflected(channels, channels, 3), _Blend(channels)

    def forward(self, x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)) * gamma + beta)
        y = self.norm2(self.conv2(y)) * gamma + beta
        steered: torch.Tensor = x + y
        return steered


class _Blend(nn.Module):
    """Between instance and layer normalisation, by a share for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.full((1, channels, 1, 1), 0.9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        by_channel = (x - x.mean((2, 3), keepdim=True)) / (_spread(x, (2, 3)) + EPS).sqrt()
        by_picture = (x - x.mean((1, 2, 3), keepdim=True)) / (_spread(x, (1, 2, 3)) + EPS).sqrt()
        return torch.lerp(by_picture, by_channel, self.rho.expand_as(x))


class _BlendNorm(_Blend):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.gamma + self.beta


def _spread(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """What the project takes for a variance: the variance along one axis, of that the one along the next, and so on."""
    for axis in axes:
        x = torch.var(x, axis, keepdim=True)
    return x


def _reflected(inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    padding = kernel // 2
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, padding_mode="reflect", bias=False)


def _numbered(numbers: list[int], layers: list[nn.Module]) -> nn.Sequential:
    """Layers under the numbers that they have among those that the project counts too, such as paddings."""
    sequence = nn.Sequential()
    for number, layer in zip(numbers, layers, strict=True):
        sequence.add_module(str(number), layer)
    return sequence
