"""Discriminators, which tell real pictures from translated ones in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from cgpipe.networks.norm import NormKind, make_norm, needs_bias


class PatchDiscriminator(nn.Sequential):
    """PatchGAN (arXiv 1611.07004): one logit for each overlapping patch, 70x70 pixels with three layers.

    (N, C, H, W) in, (N, 1, H', W') logits out.
    """

    def __init__(self, *, ndf: int = 64, layers: int = 3, norm: NormKind = "instance", in_channels: int = 3) -> None:
        modules: list[nn.Module] = [nn.Conv2d(in_channels, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = ndf
        for index in range(1, layers + 1):
            inputs, width = width, ndf * min(2**index, 8)
            stride = 1 if index == layers else 2
            modules += [
                nn.Conv2d(inputs, width, 4, stride=stride, padding=1, bias=needs_bias(norm)),
                make_norm(norm, width),
                nn.LeakyReLU(0.2),
            ]
        modules.append(nn.Conv2d(width, 1, 4, padding=1))
        super().__init__(*modules)


class PixelDiscriminator(nn.Sequential):
    """PixelGAN (arXiv 1611.07004): one logit for every pixel; (N, C, H, W) in, (N, 1, H, W) logits out."""

    def __init__(self, *, ndf: int = 64, norm: NormKind = "instance", in_channels: int = 3) -> None:
        super().__init__(
            nn.Conv2d(in_channels, ndf, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf, 2 * ndf, 1, bias=needs_bias(norm)),
            make_norm(norm, 2 * ndf),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * ndf, 1, 1),
        )


class FeatureHeads(nn.Module):
    """Small discriminators on the features of a frozen network (Projected GAN, arXiv 2111.01007).

    The features locate the subject, so that its surroundings are left alone.

    Args:
        channels: channels of each feature map.
        width: width of the heads.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 96) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, width, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
                make_norm("instance", width),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 1, 1),
            )
            for inputs in channels
        )

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Logits (N, 1, H_i, W_i), one map for each of ``features`` (N, C_i, H_i, W_i)."""
        return [head(feature) for head, feature in zip(self.heads, features, strict=True)]


class PooledHead(nn.Module):
    """A small discriminator on the means of feature maps over the whole picture.

    :class:`FeatureHeads` discriminate patches, and their norms remove what all patches of a picture share; this head
    discriminates exactly that, such as how much of the picture is striped.

    Args:
        channels: channels of each feature map.
        width: width of the hidden layer.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(sum(channels), width, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 1))

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits (N, 1, 1, 1) for ``features`` (N, C_i, H_i, W_i)."""
        logits: torch.Tensor = self.layers(torch.cat([f.mean(dim=(2, 3), keepdim=True) for f in features], dim=1))
        return logits


DISCRIMINATORS: Mapping[str, Callable[..., nn.Module]] = {
    "n_layers": PatchDiscriminator,
    "pixel": PixelDiscriminator,
}


def build_discriminator(
    name: str, *, ndf: int = 64, layers: int = 3, norm: NormKind = "instance", in_channels: int = 3
) -> nn.Module:
    """Builds a discriminator by name; raises ValueError for an unknown name. Only PatchGAN has ``layers``."""
    if name not in DISCRIMINATORS:
        raise ValueError(f"unknown discriminator {name!r}: choose one of {', '.join(DISCRIMINATORS)}")
    depth = {"layers": layers} if name == "n_layers" else {}
    return DISCRIMINATORS[name](ndf=ndf, norm=norm, in_channels=in_channels, **depth)
