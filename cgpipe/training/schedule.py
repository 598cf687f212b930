"""The learning rate over a run."""

from __future__ import annotations


def learning_rate_factor(epoch: float, *, epochs: int, decay_epoch: int) -> float:
    """1 until ``decay_epoch``, then falling linearly to 0 at ``epochs``; ``epoch`` counts from 0 and may be fractional.

    A ``decay_epoch`` at or after ``epochs`` means no decay.
    """
    if decay_epoch >= epochs or epoch <= decay_epoch:
        return 1.0
    return max(0.0, (epochs - epoch) / (epochs - decay_epoch))
