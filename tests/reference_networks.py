"""The networks of other projects, written plainly, with those projects' own keys.

They share no code with cgpipe, so that a conversion can be held against them. Every one is ``network(x)`` for x of
shape (N, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "instance": nn.InstanceNorm2d,
    "instance_tracked": lambda channels: nn.InstanceNorm2d(channels, track_running_stats=True),
    "instance_affine": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "batch": nn.BatchNorm2d,
    "none": lambda channels: nn.Identity(),
}


class Named(nn.Module):
    """One module under a name of the project's choosing; ``join`` says what becomes of its input and output."""

    def __init__(self, name: str, inner: nn.Module, join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.name, self.join = name, join
        self.add_module(name, inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A U-Net's first layer works in place, so that the skip carries what it has already been through.
        y = getattr(self, self.name)(x)
        return self.join(x, y)


def output_only(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return y


def added(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y


def joined(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, y], 1)


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("filt", (taps[:, None] * taps[None, :] / 16).repeat(channels, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(nn.ReflectionPad2d(1)(x), self.filt, stride=2, groups=x.shape[1])


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("filt", (taps[:, None] * taps[None, :] / 16).repeat(channels, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.ReplicationPad2d(1)(x)
        return F.conv_transpose2d(x, self.filt, stride=2, padding=2, groups=x.shape[1])[:, :, 1:-1, 1:-1]


def _dropout(dropout: bool) -> list[nn.Module]:
    return [nn.Dropout(0.5)] if dropout else []


def junyanz_resnet(
    *,
    ngf: int = 4,
    blocks: int = 9,
    norm: str = "instance",
    dropout: bool = False,
    smooth_down: bool = False,
    smooth_up: bool = False,
    channels: tuple[int, int] = (3, 3),
) -> nn.Module:
    """pytorch-CycleGAN-and-pix2pix; with the low-pass filters, CUT."""
    make, bias = NORMS[norm], norm.startswith("instance")
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(channels[0], ngf, 7, bias=bias), make(ngf), nn.ReLU(True)]
    for width in (ngf, 2 * ngf):
        conv = nn.Conv2d(width, 2 * width, 3, stride=1 if smooth_down else 2, padding=1, bias=bias)
        layers += [conv, make(2 * width), nn.ReLU(True)] + [Downsample(2 * width)] * smooth_down
    for _ in range(blocks):
        inner = [nn.ReflectionPad2d(1), nn.Conv2d(4 * ngf, 4 * ngf, 3, bias=bias), make(4 * ngf), nn.ReLU(True)]
        inner += _dropout(dropout)
        inner += [nn.ReflectionPad2d(1), nn.Conv2d(4 * ngf, 4 * ngf, 3, bias=bias), make(4 * ngf)]
        layers.append(Named("conv_block", nn.Sequential(*inner), added))
    for width in (4 * ngf, 2 * ngf):
        if smooth_up:
            layers += [Upsample(width), nn.Conv2d(width, width // 2, 3, padding=1, bias=bias)]
        else:
            layers.append(nn.ConvTranspose2d(width, width // 2, 3, 2, padding=1, output_padding=1, bias=bias))
        layers += [make(width // 2), nn.ReLU(True)]
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, channels[1], 7), nn.Tanh()]
    return Named("model", nn.Sequential(*layers), output_only)


def ancestor_resnet(*, ngf: int = 4, blocks: int = 9, norm: str = "instance", dropout: bool = True) -> nn.Module:
    """cycleGAN-PyTorch."""
    make, bias = NORMS[norm], norm.startswith("instance")

    def stage(conv: nn.Module, width: int) -> nn.Module:
        return nn.Sequential(conv, make(width), nn.ReLU(True))

    layers = [nn.ReflectionPad2d(3), stage(nn.Conv2d(3, ngf, 7, bias=bias), ngf)]
    for width in (ngf, 2 * ngf):
        layers.append(stage(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias), 2 * width))
    for _ in range(blocks):
        inner = [nn.ReflectionPad2d(1), stage(nn.Conv2d(4 * ngf, 4 * ngf, 3, bias=bias), 4 * ngf), *_dropout(dropout)]
        inner += [nn.ReflectionPad2d(1), nn.Conv2d(4 * ngf, 4 * ngf, 3, bias=bias), make(4 * ngf)]
        layers.append(Named("res_block", nn.Sequential(*inner), added))
    for width in (4 * ngf, 2 * ngf):
        conv = nn.ConvTranspose2d(width, width // 2, 3, 2, padding=1, output_padding=1, bias=bias)
        layers.append(stage(conv, width // 2))
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7), nn.Tanh()]
    return Named("res_model", nn.Sequential(*layers), output_only)


def junyanz_unet(
    *, levels: int = 7, ngf: int = 4, norm: str = "instance", dropout: bool = False, root: str = "model"
) -> nn.Module:
    """pytorch-CycleGAN-and-pix2pix; with ``root="unet_model"``, cycleGAN-PyTorch."""
    make, bias = NORMS[norm], norm.startswith("instance")

    def down(inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)

    def up(inputs: int, outputs: int, bias: bool = bias) -> nn.Module:
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)

    def nest(outer: int, inner: int, submodule: nn.Module, dropout: bool = False) -> nn.Module:
        layers = [nn.LeakyReLU(0.2, True), down(outer, inner), make(inner), submodule]
        layers += [nn.ReLU(True), up(2 * inner, outer), make(outer), *_dropout(dropout)]
        return Named("model", nn.Sequential(*layers), joined)

    wide = 8 * ngf
    innermost = [nn.LeakyReLU(0.2, True), down(wide, wide), nn.ReLU(True), up(wide, wide), make(wide)]
    network: nn.Module = Named("model", nn.Sequential(*innermost), joined)
    for _ in range(levels - 5):
        network = nest(wide, wide, network, dropout)
    for width in (4 * ngf, 2 * ngf, ngf):
        network = nest(width, 2 * width, network)
    outermost = nn.Sequential(down(3, ngf), network, nn.ReLU(True), up(2 * ngf, 3, bias=True), nn.Tanh())
    outside = Named("model", outermost, output_only)
    return Named(root, outside, output_only)


class ConvModule(nn.Module):
    """Convolution, norm and activation of mmcv; the norm is called ``in`` or ``bn``."""

    def __init__(self, conv: nn.Module, pad: int, norm: nn.Module | None, name: str, activation: nn.Module) -> None:
        super().__init__()
        self.pad, self.name, self.activation = nn.ReflectionPad2d(pad), name, activation
        self.conv = conv
        self.add_module(name, norm or nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(getattr(self, self.name)(self.conv(self.pad(x))))


def mmgeneration_resnet(*, ngf: int = 4, blocks: int = 9, norm: str = "instance", dropout: bool = False) -> nn.Module:
    """mmgeneration and mmagic; takes and makes BGR."""
    make, bias, name = NORMS[norm], norm.startswith("instance"), "bn" if norm == "batch" else "in"

    def stage(conv: nn.Module, width: int, pad: int = 0, activation: nn.Module | None = None) -> nn.Module:
        return ConvModule(conv, pad, make(width), name, activation or nn.ReLU(True))

    layers = [stage(nn.Conv2d(3, ngf, 7, bias=bias), ngf, pad=3)]
    for width in (ngf, 2 * ngf):
        layers.append(stage(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias), 2 * width))
    for _ in range(blocks):
        first, second = (nn.Conv2d(4 * ngf, 4 * ngf, 3, bias=bias) for _ in range(2))
        inner = [stage(first, 4 * ngf, 1), *_dropout(dropout), stage(second, 4 * ngf, 1, nn.Identity())]
        layers.append(Named("block", nn.Sequential(*inner), added))
    for width in (4 * ngf, 2 * ngf):
        conv = nn.ConvTranspose2d(width, width // 2, 3, 2, padding=1, output_padding=1, bias=bias)
        layers.append(stage(conv, width // 2))
    layers.append(ConvModule(nn.Conv2d(ngf, 3, 7), 3, None, name, nn.Tanh()))
    return Named("model", nn.Sequential(*layers), output_only)


def patch_discriminator(*, ndf: int = 4, norm: str = "instance", channels: int = 3) -> nn.Module:
    """pytorch-CycleGAN-and-pix2pix."""
    bias = norm.startswith("instance")
    layers: list[Any] = [nn.Conv2d(channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for width, stride in ((ndf, 2), (2 * ndf, 2), (4 * ndf, 1)):
        convolution = nn.Conv2d(width, 2 * width, 4, stride, 1, bias=bias)
        layers += [convolution, NORMS[norm](2 * width), nn.LeakyReLU(0.2, True)]
    return Named("model", nn.Sequential(*layers, nn.Conv2d(8 * ndf, 1, 4, 1, 1)), output_only)


def pixel_discriminator(*, ndf: int = 4, norm: str = "instance") -> nn.Module:
    """pytorch-CycleGAN-and-pix2pix."""
    bias = norm.startswith("instance")
    layers = [nn.Conv2d(3, ndf, 1), nn.LeakyReLU(0.2, True), nn.Conv2d(ndf, 2 * ndf, 1, bias=bias)]
    layers += [NORMS[norm](2 * ndf), nn.LeakyReLU(0.2, True), nn.Conv2d(2 * ndf, 1, 1, bias=bias)]
    return Named("net", nn.Sequential(*layers), output_only)


@torch.no_grad()
def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network itself in evaluation mode, with random weights, affine factors and running statistics."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_var", "weight")) and tensor.ndim == 1:
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            tensor.normal_(0.0, 0.3, generator=generator)
        elif name.endswith("weight"):
            tensor.normal_(0.0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return network.eval()


@torch.no_grad()
def run(network: nn.Module, size: int = 32, *, seed: int = 1) -> torch.Tensor:
    """What the network makes of a random picture (1, 3, size, size), in double precision."""
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    return network.double()(x)
