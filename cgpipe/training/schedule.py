"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import torch

from cgpipe.training.config import Policy

STEP_FACTOR = 0.1
PLATEAU_FACTOR = 0.2
PROGRESS = 0.01
"""Fraction by which a loss must fall to count as an improvement."""


def learning_rate_factor(
    epoch: float, *, epochs: int, decay_epoch: int, policy: Policy = "linear", step: int = 50
) -> float:
    """The factor of the learning rate: 1 until ``decay_epoch``, then falling; ``epoch`` is from 0, maybe fractional.

    linear falls to 0 at ``epochs`` (arXiv 1703.10593), cosine along half a cosine (arXiv 1608.03983), step to a tenth
    at ``decay_epoch`` and again every ``step`` epochs. A ``decay_epoch`` at or after ``epochs`` means no decay. For
    plateau the factor is always 1: see :class:`Plateau`.
    """
    if policy == "plateau" or decay_epoch >= epochs or epoch < decay_epoch:
        return 1.0
    if policy == "step":
        return float(STEP_FACTOR ** (1 + int(epoch - decay_epoch) // step))
    left = max(0.0, (epochs - epoch) / (epochs - decay_epoch))
    return left if policy == "linear" else (1 - math.cos(math.pi * left)) / 2


class Plateau:
    """Divides the learning rate by 5 when a loss has not fallen by 1% for ``patience`` epochs."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.factor = 1.0
        self._best = math.inf
        self._waited = 0
        self._sum = torch.zeros((), dtype=torch.float64)
        self._count = 0

    def add(self, loss: torch.Tensor) -> None:
        """Adds a step's loss, without waiting for the device."""
        self._sum = self._sum.to(loss.device) + loss.detach().double()
        self._count += 1

    def end_epoch(self) -> None:
        """Compares the mean loss of the epoch with the best so far."""
        mean = float(self._sum) / self._count
        if mean < self._best * (1 - PROGRESS) or math.isinf(self._best):
            self._best, self._waited = mean, 0
        else:
            self._waited += 1
        if self._waited >= self.patience:
            self.factor, self._waited = self.factor * PLATEAU_FACTOR, 0
        self._sum, self._count = torch.zeros((), dtype=torch.float64), 0

    def state_dict(self) -> dict[str, object]:
        """Everything that determines how it continues, within an epoch too."""
        return {
            **{"factor": self.factor, "best": self._best, "waited": self._waited},
            **{"sum": self._sum.cpu(), "count": self._count},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.factor, self._best, self._waited = state["factor"], state["best"], state["waited"]
        self._sum, self._count = state["sum"], state["count"]
