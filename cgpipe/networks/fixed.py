"""Networks that accept only one size of picture, or sizes up to a limit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product

import torch
from torch.nn import functional as F


def at_fixed_size(run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Runs a network with a fixed input size on pictures of any size.

    A picture is scaled to fit, padded by reflection, and the result is scaled back.

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
    """Pads (N, C, h, w) to ``size`` by reflection at the bottom and right edges, repeatedly if needed."""
    while x.shape[2:] != size:
        down, right = (wanted - side for wanted, side in zip(size, x.shape[2:], strict=True))
        if min(x.shape[2:]) == 1:
            return F.pad(x, (0, right, 0, down), mode="replicate")
        x = F.pad(x, (0, min(right, x.shape[3] - 1), 0, min(down, x.shape[2] - 1)), mode="reflect")
    return x


def by_parts(
    run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, size: tuple[int, int], margin: int, enlarges: int
) -> torch.Tensor:
    """Runs an upscaler on pictures of any size, in overlapping parts.

    Upscalers look only at the neighbourhood: of each part, a border of half the ``margin`` is discarded.

    Args:
        run: (N, 3, h, w) to (N, 3, enlarges * h, enlarges * w).
        x: (N, 3, H, W).
        size: height and width of a part.
        margin: pixels by which neighbouring parts overlap, at least.
        enlarges: how many times as high and wide the result is.
    """
    rows, columns = (_spans(*sides, margin) for sides in zip(x.shape[2:], size, strict=True))
    result = x.new_empty((*x.shape[:2], *(side * enlarges for side in x.shape[2:])))
    for (top, kept_rows), (left, kept_columns) in product(rows, columns):
        made = run(x[:, :, top : top + size[0], left : left + size[1]])
        places = [slice(kept.start * enlarges, kept.stop * enlarges) for kept in (kept_rows, kept_columns)]
        down, right = (
            slice(place.start - first * enlarges, place.stop - first * enlarges)
            for place, first in zip(places, (top, left), strict=True)
        )
        result[:, :, places[0], places[1]] = made[:, :, down, right]
    return result


def _spans(length: int, side: int, margin: int) -> list[tuple[int, slice]]:
    """Where each part begins along one axis, and the places of the picture for which it stands."""
    count = 1 if length <= side else -(-(length - margin) // (side - margin))
    starts = [round(index * (length - side) / max(1, count - 1)) for index in range(count)]
    borders = [0, *((one + side + other) // 2 for one, other in pairwise(starts)), length]
    return [(start, slice(*kept)) for start, kept in zip(starts, pairwise(borders), strict=True)]
