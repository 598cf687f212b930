"""Networks that take pictures of one size alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F


def at_fixed_size(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """What ``run``, which takes ``size`` alone, makes of pictures of any size.

    A picture is fitted into that size, filled up by reflection, and brought back to its own.

    Args:
        run: (N, 3, *size) to the same shape.
        x: (N, 3, H, W).
        size: height and width.
    """
    height, width = x.shape[2:]
    if (height, width) == size:
        return run(x)
    scale = min(size[0] / height, size[1] / width)
    inner = (min(size[0], max(1, round(height * scale))), min(size[1], max(1, round(width * scale))))
    small = x if inner == (height, width) else F.interpolate(x, inner, mode="bilinear", antialias=True)
    y = run(fill_up(small, size))[:, :, : inner[0], : inner[1]]
    return y if inner == (height, width) else F.interpolate(y, (height, width), mode="bicubic", antialias=True)


def fill_up(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Reflects (N, C, h, w) at its bottom and right edges, as often as it takes, up to ``size``."""
    while x.shape[2:] != size:
        down, right = (wanted - side for wanted, side in zip(size, x.shape[2:], strict=True))
        if min(x.shape[2:]) == 1:
            return F.pad(x, (0, right, 0, down), mode="replicate")
        x = F.pad(x, (0, min(right, x.shape[3] - 1), 0, min(down, x.shape[2] - 1)), mode="reflect")
    return x
