"""Feature-matching loss: distance between mean features of translations and of real pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks.channels import as_rgb
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.parallel import all_reduce_sum, global_count
from cgpipe.training.draws import chosen

REMEMBERED = 1000
"""Approximate number of real pictures in the running average; fewer at first."""
FAKES_REMEMBERED = 200
"""The same for translations: fewer, since older generators say little about the current one."""
SCALES = (0.75, 0.875, 1.0, 1.125, 1.25)
"""Scales, one of which is chosen each time, so that the generator does not exploit a single size."""
FEWEST = 50
"""Pictures of each kind before the loss starts."""


class FeatureMoments(nn.Module):
    """Matches the mean features of translations with those of real pictures (GFMN, arXiv 1904.02762).

    A picture's features are the mean and the standard deviation, over its area, of each channel of a frozen network's
    blocks. Their running averages over many pictures are compared, so a step's few pictures only provide the gradient
    of these averages. No discriminator has to be trained first, so a finished generator can be trained further.

    Args:
        taps: frozen networks, each with the indices of the blocks, from 0, whose features are compared. Two networks
            are harder to fool than one.
    """

    real: torch.Tensor
    fake: torch.Tensor
    seen: torch.Tensor

    def __init__(self, taps: Sequence[tuple[EfficientNetLite, Sequence[int]]]) -> None:
        super().__init__()
        # In a tuple the networks are not submodules: they are shared, frozen, and stay out of the state.
        self._taps = tuple(taps)
        features = 2 * sum(network.channels(block) for network, blocks in taps for block in blocks)
        self.register_buffer("real", torch.zeros(2, features))  # means, and means of squares
        self.register_buffer("fake", torch.zeros(features))
        self.register_buffer("seen", torch.zeros(2))  # pictures: real, translated

    def forward(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Mean squared distance of the averages, in units of the variance of real and translated pictures together.

        ``real`` and ``fake`` are (N, C, H, W) in [-1, 1]. The loss is 4 at most, since the distance itself adds to the
        variance: a feature that real pictures hardly have would otherwise outweigh all others by thousands in a
        generator's first steps, and Adam, which remembers them, would hold back everything for thousands more.

        The gradient is that of the running averages, not of these pictures alone, as if the averages moved with the
        generator and the variance stayed.
        """
        scale = SCALES[chosen(len(SCALES))]
        real, fake = (resized(pictures, scale) for pictures in (real, fake))
        with torch.no_grad():
            found = self.features(real)
            self._remember(self.real, torch.stack([found, found.square()]), 0, REMEMBERED)
        made = self.features(fake)
        self._remember(self.fake, made.detach(), 1, FAKES_REMEMBERED)
        mean, square = self.real
        apart = self.fake - mean
        variance = (square - mean.square()).clamp_min(1e-6) + apart.square() / 4  # of both halves of such a set
        offset = apart / variance
        distance = (offset.square() * variance).mean()
        direction = 2 * (offset * made).mean()
        loss: torch.Tensor = distance + direction - direction.detach()
        return loss * (self.seen.min() >= FEWEST)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Means and standard deviations of all channels of all blocks: (N, F), float32."""
        seen = as_rgb(pictures)
        maps = [tap.float().flatten(2) for network, blocks in self._taps for tap in network.taps(seen, blocks)]
        deviations = [(channel.var(dim=2, correction=0) + 1e-6).sqrt() for channel in maps]
        return torch.cat([channel.mean(dim=2) for channel in maps] + deviations, dim=1)

    def _remember(self, average: torch.Tensor, found: torch.Tensor, kind: int, remembered: int) -> None:
        """Moves ``average`` (..., F) towards the mean of ``found`` (..., N, F) over the pictures of all processes."""
        count = global_count(found.shape[-2])
        self.seen[kind] += count
        mean = all_reduce_sum(found.sum(dim=-2)) / count
        average.lerp_(mean, count / self.seen[kind].clamp(max=remembered))  # a tensor: no wait for a GPU


def resized(pictures: torch.Tensor, scale: float) -> torch.Tensor:
    """(N, 3, H, W) with sides scaled by ``scale``, antialiased bicubic."""
    if scale == 1.0:
        return pictures
    sides = [max(1, round(side * scale)) for side in pictures.shape[2:]]
    return F.interpolate(pictures.float(), sides, mode="bicubic", align_corners=False, antialias=True)
