"""Detects collapsed generators: to the identity, or to one output for every input."""

from __future__ import annotations

from collections.abc import Iterator

import torch

TINY_CHANGE = 0.02
"""Mean difference from the original, in [-1, 1]; a run that was stuck at the identity had 0.015."""

TINY_SPREAD = 0.1
"""Spread of translations as a fraction of the spread of their originals."""

CHECKS = 2
"""Consecutive checks that must agree."""

YOUNG = 500
"""Steps without a warning: a fresh generator turns everything gray."""


class CollapseWatch:
    """Checks translations of the same pictures from time to time, and warns of each thing once.

    Attributes:
        seen: consecutive checks that saw each thing; fixed after the warning. Part of a run's state.
    """

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def check(self, step: int, direction: str, real: torch.Tensor, translated: torch.Tensor) -> Iterator[str]:
        """Yields warnings about a generator.

        Args:
            step: step of the run.
            direction: the direction, as text.
            real: pictures, (N, 3, H, W) in [-1, 1].
            translated: their translations.
        """
        if step < YOUNG:
            return
        change = float((translated.float() - real.float()).abs().mean())
        if self._stays(f"{direction}: identity", change < TINY_CHANGE):
            yield (
                f"{direction}: translations hardly differ from their originals (by {change * 127.5:.1f} of 255 on "
                "average): the generator has collapsed to the identity. Try a smaller weight of what holds it to its "
                "input: --lamda and --idt-coef, or --nce-weight."
            )
        before, after = spread(real), spread(translated)
        if self._stays(f"{direction}: one output", before > TINY_CHANGE and after < TINY_SPREAD * before):
            yield (
                f"{direction}: translations of different pictures hardly differ ({after / before:.0%} of how far the "
                "pictures do): the generator has collapsed to one output. Try a smaller --lr, or a larger weight of "
                "what holds it to its input: --lamda, or --nce-weight."
            )

    def _stays(self, what: str, now: bool) -> bool:
        count = self.seen.get(what, 0)
        if count < CHECKS:
            self.seen[what] = count + 1 if now else 0
        return count < CHECKS <= self.seen[what]


def spread(pictures: torch.Tensor) -> float:
    """Mean difference of (N, 3, H, W) from their mean picture, in their own units."""
    pictures = pictures.float()
    return float((pictures - pictures.mean(dim=0)).abs().mean())
