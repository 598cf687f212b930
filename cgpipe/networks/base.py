"""What every generator is."""

from __future__ import annotations

import torch
from torch import nn


class Generator(nn.Module):
    """Translates pictures: (N, 3, H, W) in [-1, 1] in, the same shape and range out, or enlarged by :attr:`enlarges`.

    ``H`` and ``W`` must be multiples of :attr:`multiple` and at least :attr:`least_side`; whoever calls a generator
    with other sizes pads and crops.
    """

    multiple: int = 1
    least_side: int = 1
    """Below it a layer has too few pixels: to pad by reflection, or to normalise by their own mean and deviation."""

    fixed_size: tuple[int, int] | None = None
    """Height and width for which it was made, where it was made for one size alone: others are fitted into that."""

    enlarges: int = 1
    """How many times as high and wide the result is: more than once for an upscaler."""

    runtime: str | None = None
    """What runs it, where that is not torch: it then has one dtype and cannot be rewritten, exported or trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the first half of the network makes of a picture, from its pixels on, for one-sided training.

        Layers from small to large fields of view, as in CUT (arXiv 2007.15651): each (N, C, H', W'), the first of them
        the picture itself.
        """
        raise NotImplementedError
