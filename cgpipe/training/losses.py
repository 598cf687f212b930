"""The losses of CycleGAN (arXiv 1703.10593)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

WeightedLogits = Sequence[tuple[float, torch.Tensor]]
"""Maps of logits, each with its weight in the sum."""


def adversarial_loss(judgement: WeightedLogits, *, real: bool) -> torch.Tensor:
    """Least squares (LSGAN, arXiv 1611.04076): the logits' mean squared distance from 1 (real) or 0."""
    target = 1.0 if real else 0.0
    return torch.stack([weight * (logits.float() - target).square().mean() for weight, logits in judgement]).sum()


def discriminator_loss(real: WeightedLogits, fake: WeightedLogits) -> torch.Tensor:
    """Half the sum of both sides, so that the discriminator learns half as fast as the generator."""
    return 0.5 * (adversarial_loss(real, real=True) + adversarial_loss(fake, real=False))


def cycle_loss(reconstructed: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference; both (N, 3, H, W) in [-1, 1]."""
    return F.l1_loss(reconstructed.float(), original.float())
