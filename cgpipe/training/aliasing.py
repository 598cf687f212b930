"""Aliasing loss: what a generator paints must not depend on where a picture lies on its grid of cells.

A generator that folds or strides sees cells of several pixels, and can paint detail finer than a cell in a fixed place
of it, whatever is there. Such detail looks sharp in a picture and crawls over everything that moves in a video
("texture sticking", arXiv 2106.12423). The loss translates a picture once more, shifted by whole pixels, and compares
both changes band by band, relative to their own power. Unlike the motion loss it cannot be lowered by weaker contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn import functional as F

from cgpipe.training.draws import drawn

REACH = 8
"""Largest shift, in pixels: the largest cell of the networks here."""
SPREADS = (3, 5, 9)
"""Sides of the means that separate the bands: periods of up to about 5, 10 and 20 pixels."""
FAINT = 1e-4
"""Power per value of pictures in [-1, 1], about a level of 255, beside which a band counts less."""


def alias_loss(
    generator: Callable[[torch.Tensor], torch.Tensor], pictures: torch.Tensor, translated: torch.Tensor
) -> torch.Tensor:
    """The part of the change that a shift of the picture alters, as a share of its power, averaged over three bands.

    0: the change moves with the picture; 1: the two changes have nothing in common.

    Args:
        generator: maps (N, C, H, W) in [-1, 1] to (N, D, H, W) in the same range.
        pictures: its input.
        translated: its output for them. Where it has other channels than its input, it is compared itself.
    """
    shift = drawn(lambda: torch.randint(-REACH, REACH + 1, (2,)), pictures.device)
    places = [_places(side, by) for side, by in zip(pictures.shape[2:], shift, strict=True)]
    moved, wanted = (
        values.float().index_select(2, places[0]).index_select(3, places[1]) for values in (pictures, translated)
    )
    found = generator(moved).float()
    if found.shape == moved.shape:
        found, wanted = found - moved, wanted - moved
    with torch.autocast(pictures.device.type, enabled=False):  # bf16 is too coarse for differences of means
        return torch.stack([_share(*both) for both in _bands(torch.stack([found, wanted]))]).mean()


def _places(side: int, by: torch.Tensor) -> torch.Tensor:
    """Where the lines of a picture come from that is shifted by ``by``, a scalar; reflected at its ends."""
    last = side - 1
    return last - (last - (torch.arange(side, device=by.device) + by).abs()).abs()


def _bands(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """Differences of ever smoother versions of (..., H, W), without the border that the shift brings in."""
    sides = values.shape[-2:]
    down, right = (min(2 * REACH, side // 4) for side in sides)
    for spread in SPREADS:
        rows, columns = (mean_matrix(side, spread, values.device) for side in sides)
        smooth = rows @ F.linear(values, columns)
        yield (values - smooth)[..., down:-down, right:-right]
        values = smooth


def mean_matrix(side: int, spread: int, device: torch.device) -> torch.Tensor:
    """The matrix, (side, side), that takes means over ``spread`` neighbours, fewer at the ends, twice.

    Products with it are many times faster on a CPU than pooling is.
    """
    place = torch.arange(side, device=device)
    near = ((place[:, None] - place).abs() <= spread // 2).float()
    once = near / near.sum(1, keepdim=True)
    return once @ once


def _share(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How much of the power of two bands is in their difference, averaged over the pictures."""
    power = (found.square() + wanted.square() + FAINT).sum((1, 2, 3))
    return ((found - wanted).square().sum((1, 2, 3)) / power).mean()
