"""Losses: adversarial losses, cycle consistency (arXiv 1703.10593) and PatchNCE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from cgpipe.parallel import global_count, share
from cgpipe.training.config import GanLoss
from cgpipe.training.draws import drawn

WeightedLogits = Sequence[tuple[float, torch.Tensor]]
"""Maps of logits, (N, 1, H, W) each, with their weights in the sum."""

Term = Callable[[torch.Tensor], torch.Tensor]
PENALTY = 10.0
"""Weight of the gradient penalty, as in the paper."""


@dataclass(frozen=True, slots=True)
class Adversarial:
    """An adversarial loss: the generator's term, and the discriminator's for real and for fake pictures."""

    generator: Term
    fake: Term
    real: Callable[[torch.Tensor, float], torch.Tensor]
    """Also takes the label of real pictures, which label smoothing lowers below 1."""


def _distance(label: float) -> Term:
    return lambda logits: (logits - label).square().mean()


def _cross_entropy(logits: torch.Tensor, label: float) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


ADVERSARIAL: Mapping[GanLoss, Adversarial] = {
    # Least squares, arXiv 1611.04076.
    "lsgan": Adversarial(_distance(1.0), _distance(0.0), lambda logits, label: _distance(label)(logits)),
    # The original GAN, arXiv 1406.2661, in its non-saturating form.
    "vanilla": Adversarial(
        lambda logits: _cross_entropy(logits, 1.0), lambda logits: _cross_entropy(logits, 0.0), _cross_entropy
    ),
    # Geometric GAN, arXiv 1705.02894.
    "hinge": Adversarial(
        lambda logits: -logits.mean(),
        lambda logits: F.relu(1 + logits).mean(),
        lambda logits, label: F.relu(1 - logits).mean(),
    ),
    # Wasserstein GAN, arXiv 1701.07875; see gradient_penalty for its penalty.
    "wgan-gp": Adversarial(
        lambda logits: -logits.mean(), lambda logits: logits.mean(), lambda logits, label: -logits.mean()
    ),
}


def generator_loss(logits: WeightedLogits, kind: GanLoss = "lsgan") -> torch.Tensor:
    """The generator's adversarial loss, from a discriminator's logits on translations."""
    return _weighted(logits, ADVERSARIAL[kind].generator)


def discriminator_loss(
    real: WeightedLogits, fake: WeightedLogits, kind: GanLoss = "lsgan", *, smoothing: float = 0.0
) -> torch.Tensor:
    """The discriminator's adversarial loss: half the sum of both terms, which slows it relative to the generator.

    Args:
        real: logits on real pictures.
        fake: logits on translations.
        kind: the adversarial loss.
        smoothing: one-sided label smoothing (arXiv 1606.03498): subtracted from the label (1) of real pictures.
    """
    loss = ADVERSARIAL[kind]
    return 0.5 * (_weighted(real, lambda logits: loss.real(logits, 1.0 - smoothing)) + _weighted(fake, loss.fake))


def gradient_penalty(
    discriminator: Callable[[torch.Tensor], WeightedLogits], real: torch.Tensor, fake: torch.Tensor
) -> torch.Tensor:
    """WGAN-GP (arXiv 1704.00028): squared distance of the gradient norm from 1, between real and translated pictures.

    The discriminator's value for a picture is the weighted sum of its maps' means. ``real`` and ``fake`` are
    (N, 3, H, W). The weight is half the paper's, as is the rest of the discriminator's loss.
    """
    count = len(real)
    numbers = drawn(lambda: share(torch.rand(global_count(count), 1, 1, 1)), real.device)
    between = (real + numbers * (fake - real)).float().requires_grad_()
    maps = discriminator(between)
    value = torch.stack([weight * logits.float().flatten(1).mean(1) for weight, logits in maps]).sum()
    (slope,) = torch.autograd.grad(value, between, create_graph=True)
    penalty: torch.Tensor = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    return 0.5 * PENALTY * penalty


def patch_nce(found: torch.Tensor, wanted: torch.Tensor, *, temperature: float = 0.07) -> torch.Tensor:
    """PatchNCE (CUT, arXiv 2007.15651): cross-entropy of finding the original's patch at the same place.

    Args:
        found: unit vectors of the translation's patches, (N, P, C).
        wanted: unit vectors of the original's patches at the same places, (N, P, C); the other patches of a picture are
            its negatives.
        temperature: divides the similarities; default as in the paper.
    """
    with torch.autocast(found.device.type, enabled=False):  # bf16 has too few bits to separate similarities
        likeness = found.float() @ wanted.float().transpose(1, 2) / temperature
    place = torch.arange(found.shape[1], device=found.device).repeat(len(found))
    return F.cross_entropy(likeness.flatten(0, 1), place)


def cycle_loss(reconstructed: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference; both (N, 3, H, W) in [-1, 1]."""
    return F.l1_loss(reconstructed.float(), original.float())


def _weighted(maps: WeightedLogits, term: Term) -> torch.Tensor:
    return torch.stack([weight * term(logits.float()) for weight, logits in maps]).sum()
