"""The discriminators of a run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks.channels import as_rgb
from cgpipe.networks.discriminators import FeatureHeads, PooledHead, build_discriminator
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.training.config import TrainConfig
from cgpipe.training.losses import WeightedLogits
from cgpipe.training.settings import DiscriminatorSettings


class Discriminator(nn.Module):
    """A patch or pixel network on the picture and, optionally, heads on frozen pretrained features.

    With several scales, more such networks look at the picture at half its size, a quarter and so on, as in pix2pixHD
    (arXiv 1711.11585). The network on the picture prevents checkerboard artefacts; the features tell the subject from
    its background (Projected GAN, arXiv 2111.01007).

    Args:
        settings: the architecture.
        backbone: the frozen network whose features the heads look at; None: no heads.
        channels: of the pictures.
        given: channels of the input of a translation that precede its own; the heads do not see them.
    """

    def __init__(
        self,
        settings: DiscriminatorSettings,
        backbone: EfficientNetLite | None,
        channels: int = 3,
        *,
        given: int = 0,
    ) -> None:
        super().__init__()
        self.given = given
        build = partial(
            build_discriminator,
            settings.dis_net,
            ndf=settings.ndf,
            layers=settings.dis_layers,
            norm=settings.norm,  # type: ignore[arg-type]
            in_channels=given + channels,
        )
        self.pixels = build()
        self.coarser = nn.ModuleList(build() for _ in range(settings.dis_scales - 1))
        self.taps = settings.feature_taps
        self.weight = settings.feature_weight
        widths = [backbone.channels(tap) for tap in self.taps] if backbone and self.weight else []
        self.heads = FeatureHeads(widths) if widths else None
        self.pooled = PooledHead(widths) if widths and settings.feature_pooled else None
        # In a tuple the backbone is no submodule: it is shared, frozen, and stays out of the state.
        self._backbone = (backbone,)

    def forward(self, pictures: torch.Tensor, features: Sequence[torch.Tensor] | None = None) -> WeightedLogits:
        """Logits for (N, given + channels, H, W) in [-1, 1]; ``features`` are the backbone's taps, if known already."""
        logits, reduced = [(1.0, self.pixels(pictures))], pictures
        for network in self.coarser:
            reduced = F.avg_pool2d(reduced, 3, stride=2, padding=1, count_include_pad=False)
            logits.append((1.0, network(reduced)))
        backbone = self._backbone[0]
        if self.heads is not None and backbone is not None:
            features = backbone.taps(as_rgb(pictures[:, self.given :]), self.taps) if features is None else features
            logits += [(self.weight, map) for map in self.heads(features)]
            if self.pooled is not None:
                logits.append((self.weight, self.pooled(features)))
        return logits


def load_backbone(config: TrainConfig) -> EfficientNetLite | None:
    """The frozen feature network, if the recipe needs it."""
    needed = config.feature_weight or config.uses_moments or config.method == "style"
    return EfficientNetLite("lite0") if needed else None
