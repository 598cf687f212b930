"""What every generator is."""

from __future__ import annotations

import torch
from torch import nn


class Generator(nn.Module):
    """Translates pictures: (N, 3, H, W) in [-1, 1] in, the same shape and range out.

    ``H`` and ``W`` must be multiples of :attr:`multiple`; whoever calls a generator with other sizes pads and crops.
    """

    multiple: int = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError
