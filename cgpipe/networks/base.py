"""The base class of generators."""

from __future__ import annotations

import torch
from torch import nn


class Generator(nn.Module):
    """Translates pictures: (N, 3, H, W) in [-1, 1] in, the same shape and range out, or enlarged by :attr:`enlarges`.

    Networks for other pictures have other :attr:`channels`.

    ``H`` and ``W`` must be multiples of :attr:`multiple` and at least :attr:`least_side`; for other sizes the caller
    pads and crops.
    """

    multiple: int = 1
    least_side: int = 1
    """Smallest side: below it some layer has too few pixels for reflection padding or for a norm."""

    fixed_size: tuple[int, int] | None = None
    """Height and width, if it accepts only one size; other pictures are fitted into it."""

    channels: tuple[int, int] = (3, 3)
    """Input and output channels."""

    enlarges: int = 1
    """Upscaling factor of the sides; more than 1 for an upscaler."""

    runtime: str | None = None
    """Name of its runtime, if not torch: it then has one dtype and cannot be rewritten, exported or trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def starting_weights(self, other: Generator) -> dict[str, torch.Tensor]:
        """The weights with which this generator begins to learn as ``other``.

        They fit if ``other`` has the same settings, or what this one has beside can begin without effect.
        """
        return dict(other.state_dict())

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of the first half of the network, for one-sided training.

        Layers from small to large receptive fields, as in CUT (arXiv 2007.15651): each (N, C, H', W'), the first of
        them the picture itself.
        """
        raise NotImplementedError
