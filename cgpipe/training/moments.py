"""Feature statistics as a loss: how far the mean features of translations are from those of real pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.parallel import all_reduce_sum, global_count

REMEMBERED = 1000
"""Real pictures whose statistics are averaged, about; fewer at first."""
FAKES_REMEMBERED = 200
"""Translations: fewer, since those of an older generator say little of the newest."""
SCALES = (0.75, 0.875, 1.0, 1.125, 1.25)
"""Of which one is chosen each time: what pleases the network only at one size is noise, not a likeness."""
FEWEST = 50
"""Pictures of each kind before their averages count for anything."""


class FeatureMoments(nn.Module):
    """Brings the mean features of translations to those of real pictures (GFMN, arXiv 1904.02762).

    A picture's features are the mean and the deviation, over its area, of each channel of a frozen network's blocks.
    Their averages over many pictures are what real and translated ones are compared by, so one step's few pictures
    only show which way those averages go when the generator changes. There is no discriminator that would have to
    learn first: a finished generator can go on from where it is.

    Args:
        taps: frozen networks, each with its blocks, counted from 0, whose features are compared. Two networks are
            harder to trick than one: what pleases both is more often a likeness.
    """

    real: torch.Tensor
    fake: torch.Tensor
    seen: torch.Tensor

    def __init__(self, taps: Sequence[tuple[EfficientNetLite, Sequence[int]]]) -> None:
        super().__init__()
        # In a tuple the networks are no submodules: they are shared, frozen, and stay out of the state.
        self._taps = tuple(taps)
        features = 2 * sum(network.channels(block) for network, blocks in taps for block in blocks)
        self.register_buffer("real", torch.zeros(2, features))  # means, and means of squares
        self.register_buffer("fake", torch.zeros(features))
        self.register_buffer("seen", torch.zeros(2))  # pictures: real, translated

    def forward(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Mean square distance of the averages, in variances of real pictures' features.

        ``real`` and ``fake`` are (N, 3, H, W) in [-1, 1]. The gradient is that of the averages, not of these pictures
        alone, as if the averages moved with the generator.
        """
        scale = SCALES[int(torch.randint(len(SCALES), ()))]  # on the CPU, whose random state a run keeps
        real, fake = (resized(pictures, scale) for pictures in (real, fake))
        with torch.no_grad():
            found = self.features(real)
            self._remember(self.real, torch.stack([found, found.square()]), 0, REMEMBERED)
        made = self.features(fake)
        self._remember(self.fake, made.detach(), 1, FAKES_REMEMBERED)
        mean, square = self.real
        variance = (square - mean.square()).clamp_min(1e-6)
        offset = (self.fake - mean) / variance
        distance = (offset.square() * variance).mean()
        direction = 2 * (offset * made).mean()
        loss: torch.Tensor = distance + direction - direction.detach()
        return loss * (self.seen.min() >= FEWEST)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, F) float32: means and deviations of all channels of all blocks."""
        maps = [tap.float().flatten(2) for network, blocks in self._taps for tap in network.taps(pictures, blocks)]
        deviations = [(channel.var(dim=2, correction=0) + 1e-6).sqrt() for channel in maps]
        return torch.cat([channel.mean(dim=2) for channel in maps] + deviations, dim=1)

    def _remember(self, average: torch.Tensor, found: torch.Tensor, kind: int, remembered: int) -> None:
        """Moves ``average`` (..., F) towards the mean over the pictures of ``found`` (..., N, F), of all processes."""
        count = global_count(found.shape[-2])
        self.seen[kind] += count
        mean = all_reduce_sum(found.sum(dim=-2)) / count
        average.lerp_(mean, count / self.seen[kind].clamp(max=remembered))  # a tensor: no wait for a GPU


def resized(pictures: torch.Tensor, scale: float) -> torch.Tensor:
    """(N, 3, H, W) at ``scale`` times their sides, antialiased bicubic."""
    if scale == 1.0:
        return pictures
    sides = [max(1, round(side * scale)) for side in pictures.shape[2:]]
    return F.interpolate(pictures.float(), sides, mode="bicubic", align_corners=False, antialias=True)
