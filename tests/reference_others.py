"""Generators of further projects, laid out as in their public code, with paddings and activations as layers."""

from __future__ import annotations

from typing import Any

import torch
from reference_networks import Named, added, output_only
from torch import nn
from torch.nn import functional as F


def numbered_resnet(
    *,
    ngf: int = 4,
    blocks: int = 6,
    steps: int = 2,
    up: str = "transposed",
    mode: str = "nearest",
    inside: str = "block",
) -> nn.Module:
    """PyTorch-GAN (``up="resize"``), pix2pixHD (four steps, ``inside="conv_block"``), and variants that resize."""

    def conv(inputs: int, outputs: int, side: int = 3, **more: Any) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, side, **more), nn.InstanceNorm2d(outputs)]

    layers: list[nn.Module] = [nn.ReflectionPad2d(3), *conv(3, ngf, 7), nn.ReLU(True)]
    width = ngf
    for _ in range(steps):
        layers += [*conv(width, 2 * width, stride=2, padding=1), nn.ReLU(True)]
        width *= 2
    for _ in range(blocks):
        block = [nn.ReflectionPad2d(1), *conv(width, width), nn.ReLU(True), nn.ReflectionPad2d(1), *conv(width, width)]
        layers.append(Named(inside, nn.Sequential(*block), added))
    for _ in range(steps):
        if up == "transposed":
            transposed = nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1)
            layers += [transposed, nn.InstanceNorm2d(width // 2)]
        elif up == "resize":
            layers += [nn.Upsample(scale_factor=2, mode=mode), *conv(width, width // 2, padding=1)]
        else:
            layers += [nn.Upsample(scale_factor=2, mode=mode), nn.ReflectionPad2d(1), *conv(width, width // 2)]
        layers.append(nn.ReLU(True))
        width //= 2
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7), nn.Tanh()]
    return Named("model", nn.Sequential(*layers), output_only)


# --- fast neural style of pytorch/examples --------------------------------------------------------------------------


class ConvLayer(nn.Module):
    def __init__(self, inputs: int, outputs: int, side: int, stride: int, upsample: int | None = None) -> None:
        super().__init__()
        self.upsample = upsample
        self.reflection_pad = nn.ReflectionPad2d(side // 2)
        self.conv2d = nn.Conv2d(inputs, outputs, side, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.upsample:
            x = F.interpolate(x, mode="nearest", scale_factor=self.upsample)
        return self.conv2d(self.reflection_pad(x))


class StyleBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (ConvLayer(channels, channels, 3, 1) for _ in range(2))
        self.in1, self.in2 = (nn.InstanceNorm2d(channels, affine=True) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.in2(self.conv2(torch.relu(self.in1(self.conv1(x))))) + x


class TransformerNet(nn.Module):
    """On pixels from 0 to 255."""

    def __init__(self, ngf: int = 4, blocks: int = 5) -> None:
        super().__init__()
        widths = (3, ngf, 2 * ngf, 4 * ngf)
        self.blocks = blocks
        for number, stride in ((1, 1), (2, 2), (3, 2)):
            side = 9 if number == 1 else 3
            setattr(self, f"conv{number}", ConvLayer(widths[number - 1], widths[number], side, stride))
            setattr(self, f"in{number}", nn.InstanceNorm2d(widths[number], affine=True))
        for number in range(1, blocks + 1):
            setattr(self, f"res{number}", StyleBlock(4 * ngf))
        self.deconv1, self.in4 = ConvLayer(4 * ngf, 2 * ngf, 3, 1, 2), nn.InstanceNorm2d(2 * ngf, affine=True)
        self.deconv2, self.in5 = ConvLayer(2 * ngf, ngf, 3, 1, 2), nn.InstanceNorm2d(ngf, affine=True)
        self.deconv3 = ConvLayer(ngf, 3, 9, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in (1, 2, 3):
            x = torch.relu(getattr(self, f"in{number}")(getattr(self, f"conv{number}")(x)))
        for number in range(1, self.blocks + 1):
            x = getattr(self, f"res{number}")(x)
        x = torch.relu(self.in4(self.deconv1(x)))
        return self.deconv3(torch.relu(self.in5(self.deconv2(x))))


# --- U-GAT-IT -------------------------------------------------------------------------------------------------------


def blended(x: torch.Tensor, rho: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Between instance and layer norm; its variances are variances of variances, as in the project."""
    mean = x.mean(2, keepdim=True).mean(3, keepdim=True)
    variance = x.var(2, keepdim=True).var(3, keepdim=True)
    by_channel = (x - mean) / (variance + eps).sqrt()
    mean = x.mean(1, keepdim=True).mean(2, keepdim=True).mean(3, keepdim=True)
    variance = x.var(1, keepdim=True).var(2, keepdim=True).var(3, keepdim=True)
    by_picture = (x - mean) / (variance + eps).sqrt()
    return rho * by_channel + (1 - rho) * by_picture


class AdaILN(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.full((1, channels, 1, 1), 0.9))

    def forward(self, x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return blended(x, self.rho) * gamma[..., None, None] + beta[..., None, None]


class ILN(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.full((1, channels, 1, 1), 0.3))
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return blended(x, self.rho) * self.gamma + self.beta


class SteeredBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad1, self.pad2 = nn.ReflectionPad2d(1), nn.ReflectionPad2d(1)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, bias=False) for _ in range(2))
        self.norm1, self.norm2 = AdaILN(channels), AdaILN(channels)

    def forward(self, x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(self.pad1(x)), gamma, beta))
        return self.norm2(self.conv2(self.pad2(y)), gamma, beta) + x


class UGATIT(nn.Module):
    def __init__(self, ngf: int = 4, blocks: int = 3, size: int = 32, *, light: bool = False) -> None:
        super().__init__()
        self.blocks, self.light = blocks, light
        wide = 4 * ngf

        def conv(inputs: int, outputs: int, side: int, stride: int = 1) -> list[nn.Module]:
            return [nn.ReflectionPad2d(side // 2), nn.Conv2d(inputs, outputs, side, stride, bias=False)]

        down = [*conv(3, ngf, 7), nn.InstanceNorm2d(ngf), nn.ReLU(True)]
        for width in (ngf, 2 * ngf):
            down += [*conv(width, 2 * width, 3, 2), nn.InstanceNorm2d(2 * width), nn.ReLU(True)]
        for _ in range(blocks):
            block = [*conv(wide, wide, 3), nn.InstanceNorm2d(wide), nn.ReLU(True), *conv(wide, wide, 3)]
            down.append(Named("conv_block", nn.Sequential(*block, nn.InstanceNorm2d(wide)), added))
        self.DownBlock = nn.Sequential(*down)
        self.gap_fc, self.gmp_fc = nn.Linear(wide, 1, bias=False), nn.Linear(wide, 1, bias=False)
        self.conv1x1 = nn.Conv2d(2 * wide, wide, 1)
        first = wide if light else (size // 4) ** 2 * wide
        self.FC = nn.Sequential(
            nn.Linear(first, wide, bias=False), nn.ReLU(True), nn.Linear(wide, wide, bias=False), nn.ReLU(True)
        )
        self.gamma, self.beta = nn.Linear(wide, wide, bias=False), nn.Linear(wide, wide, bias=False)
        for number in range(1, blocks + 1):
            setattr(self, f"UpBlock1_{number}", SteeredBlock(wide))
        up: list[nn.Module] = []
        for width in (wide, 2 * ngf):
            up += [nn.Upsample(scale_factor=2), *conv(width, width // 2, 3), ILN(width // 2), nn.ReLU(True)]
        self.UpBlock2 = nn.Sequential(*up, *conv(ngf, 3, 7), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.DownBlock(x)
        weights = [next(layer.parameters())[..., None, None] for layer in (self.gap_fc, self.gmp_fc)]
        x = torch.relu(self.conv1x1(torch.cat([x * weight for weight in weights], 1)))
        seen = F.adaptive_avg_pool2d(x, 1) if self.light else x
        steering = self.FC(seen.reshape(len(x), -1))
        for number in range(1, self.blocks + 1):
            x = getattr(self, f"UpBlock1_{number}")(x, self.gamma(steering), self.beta(steering))
        return self.UpBlock2(x)


# --- AnimeGANv2 -----------------------------------------------------------------------------------------------------


def layer(
    inputs: int, outputs: int, side: int = 3, stride: int = 1, padding: Any = 1, groups: int = 1, bias: bool = False
) -> nn.Module:
    return nn.Sequential(
        nn.ReflectionPad2d(padding),
        nn.Conv2d(inputs, outputs, side, stride, groups=groups, bias=bias),
        nn.GroupNorm(1, outputs),
        nn.LeakyReLU(0.2),
    )


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.skips = inputs == outputs
        wide = 2 * inputs
        self.layers = nn.Sequential(
            layer(inputs, wide, 1, padding=0),
            layer(wide, wide, groups=wide, bias=True),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.GroupNorm(1, outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + x if self.skips else self.layers(x)


class AnimeGAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        behind = (0, 1, 0, 1)
        self.block_a = nn.Sequential(layer(3, 32, 7, padding=3), layer(32, 64, 3, 2, behind), layer(64, 64))
        self.block_b = nn.Sequential(layer(64, 128, 3, 2, behind), layer(128, 128))
        self.block_c = nn.Sequential(
            layer(128, 128), Inverted(128, 256), *(Inverted(256, 256) for _ in range(3)), layer(256, 128)
        )
        self.block_d = nn.Sequential(layer(128, 128), layer(128, 128))
        self.block_e = nn.Sequential(layer(128, 64), layer(64, 64), layer(64, 32, 7, padding=3))
        self.out_layer = nn.Sequential(nn.Conv2d(32, 3, 1, bias=False), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-2:]
        x = self.block_a(x)
        half = x.shape[-2:]
        x = F.interpolate(self.block_c(self.block_b(x)), half, mode="bilinear", align_corners=True)
        x = F.interpolate(self.block_d(x), size, mode="bilinear", align_corners=True)
        return self.out_layer(self.block_e(x))


# --- white-box cartoonisation ---------------------------------------------------------------------------------------


class CartoonBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(2))
        self.block = nn.Sequential(first, nn.LeakyReLU(0.2), second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x)


class WhiteBox(nn.Module):
    """As in White-box-Cartoonization-PyTorch."""

    def __init__(self, nf: int = 4) -> None:
        super().__init__()

        def convolutions(*widths: tuple[int, int, int, int]) -> nn.Module:
            layers: list[nn.Module] = []
            for inputs, outputs, side, stride in widths:
                layers += [nn.Conv2d(inputs, outputs, side, stride, side // 2), nn.LeakyReLU(0.2)]
            return nn.Sequential(*layers)

        self.initial_down = convolutions((3, nf, 7, 1))
        self.down1 = convolutions((nf, nf, 3, 2), (nf, 2 * nf, 3, 1))
        self.down2 = convolutions((2 * nf, 2 * nf, 3, 2), (2 * nf, 4 * nf, 3, 1))
        self.res_blocks = nn.Sequential(*(CartoonBlock(4 * nf) for _ in range(4)))
        self.up1 = convolutions((4 * nf, 2 * nf, 3, 1))
        self.up2 = convolutions((2 * nf, 2 * nf, 3, 1), (2 * nf, nf, 3, 1))
        self.last = nn.Sequential(nn.Conv2d(nf, nf, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(nf, 3, 7, 1, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        full = self.initial_down(x)
        half = self.down1(full)
        x = self.up1(self.res_blocks(self.down2(half)))
        x = self.up2(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) + half)
        return torch.tanh(self.last(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) + full))


class WBCBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(F.leaky_relu(self.conv1(x), 0.2)) + x


class WhiteBoxWBC(nn.Module):
    """As in traiNNer; nothing limits its pixels."""

    def __init__(self, nf: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, nf, 7, 1, 3)
        widths = [(nf, nf, 2), (nf, 2 * nf, 1), (2 * nf, 2 * nf, 2), (2 * nf, 4 * nf, 1)]
        widths += [(4 * nf, 2 * nf, 1), (2 * nf, 2 * nf, 1), (2 * nf, nf, 1), (nf, nf, 1)]
        for number, (inputs, outputs, stride) in enumerate(widths, 1):
            setattr(self, f"conv_{number}", nn.Conv2d(inputs, outputs, 3, stride, 1))
        self.conv_9 = nn.Conv2d(nf, 3, 7, 1, 3)
        for number in range(4):
            setattr(self, f"block_{number}", WBCBlock(4 * nf))

    def _at(self, number: int, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(getattr(self, f"conv_{number}")(x), 0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        full = F.leaky_relu(self.conv(x), 0.2)
        half = self._at(2, self._at(1, full))
        x = self._at(4, self._at(3, half))
        for number in range(4):
            x = getattr(self, f"block_{number}")(x)
        x = F.interpolate(self._at(5, x), scale_factor=2, mode="bilinear")
        x = F.interpolate(self._at(7, self._at(6, x + half)), scale_factor=2, mode="bilinear")
        return self.conv_9(self._at(8, x + full))
