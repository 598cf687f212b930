"""Which of a run's two domains is translated into which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Domain = Literal["a", "b"]
DOMAINS: tuple[Domain, Domain] = ("a", "b")


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of translation between the domains ``a`` and ``b``."""

    source: Domain
    target: Domain

    @property
    def generator(self) -> str:
        """Name of the generator that translates this way."""
        return f"{self.source}_to_{self.target}"

    @property
    def discriminator(self) -> str:
        """Name of the discriminator that sees its translations."""
        return f"discriminator_{self.target}"

    @property
    def reverse(self) -> Direction:
        """The other direction."""
        return Direction(self.target, self.source)


A_TO_B = Direction("a", "b")
B_TO_A = Direction("b", "a")
DIRECTIONS = {"AtoB": A_TO_B, "BtoA": B_TO_A}
"""By the names that options have for them."""
