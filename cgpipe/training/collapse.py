"""Notices generators that have collapsed: to the identity, or to one output whatever comes in."""

from __future__ import annotations

from collections.abc import Iterator

import torch

TINY_CHANGE = 0.02
"""Mean difference from the original, in [-1, 1]: a run that was stuck at the identity was seen to change 0.015."""

TINY_SPREAD = 0.1
"""How far translations differ from one another, as a share of how far the originals do."""

CHECKS = 2
"""In a row that must show it."""

YOUNG = 500
"""Steps in which nothing is said: a fresh generator makes a grey of everything."""


class CollapseWatch:
    """Looks at translations of the same pictures from time to time, and says each thing once.

    Attributes:
        seen: how often in a row each thing was seen; once it was said the count stays. Part of a run's state.
    """

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def check(self, step: int, direction: str, real: torch.Tensor, translated: torch.Tensor) -> Iterator[str]:
        """What has happened to a generator, as text.

        Args:
            step: how far the run is.
            direction: the direction, as text.
            real: pictures, (N, 3, H, W) in [-1, 1].
            translated: what it made of them.
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
