"""Temporal consistency loss, which keeps videos still: translating a moved picture must give the moved translation.

Detail that a generator derives from the position in the frame, or from invisible grain, flickers as soon as the camera
moves. The loss needs no video and no flow network: still pictures are warped by a synthetic motion, in the sense of
the unsupervised recycle loss (arXiv 2201.05723).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from cgpipe.parallel import global_count, share
from cgpipe.training.draws import drawn

ROTATION = math.radians(4)
"""Largest rotation, in radians."""
SCALE = 0.06
"""Largest relative change of scale."""
SHIFT = 16 / 192
"""Largest shift, as a fraction of the shorter side."""
BEND = 6 / 192
"""Largest local shift, likewise."""
KNOTS = 4
"""Points per side between which local shifts are interpolated."""
WHOLE = 0.5
"""Fraction of pictures that are only shifted by whole pixels, which does not blur, so that sharp output stays sharp."""
NOISE = 0.02
"""Standard deviation of the grain on moved pictures, which are in [-1, 1]."""


@dataclass(frozen=True)
class Motion:
    """Where each pixel of moved pictures comes from.

    Args:
        grid: (N, H, W, 2), x and y, for ``grid_sample`` with ``align_corners=False``.
    """

    grid: torch.Tensor

    @property
    def inside(self) -> torch.Tensor:
        """(N, 1, H, W): 1 for pixels that come from inside the frame, else 0."""
        return (self.grid.abs() <= 1).all(dim=-1)[:, None].float()

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Moves (N, C, H, W), bicubic; float32."""
        with torch.autocast(pictures.device.type, enabled=False):
            return F.grid_sample(
                pictures.float(), self.grid, mode="bicubic", padding_mode="reflection", align_corners=False
            )


def random_motion(pictures: torch.Tensor) -> Motion:
    """A random smooth motion for each of (N, C, H, W): rotation, scale, shift, and local shifts.

    The fraction :data:`WHOLE` of them is only shifted by whole pixels.
    """
    count, height, width = len(pictures), *pictures.shape[2:]
    side = min(height, width)
    numbers = drawn(lambda: share(torch.rand(global_count(count), 5 + 2 * KNOTS**2)), pictures.device)
    whole = numbers[:, 0] < WHOLE
    angle, zoom, shift, bend = (2 * numbers[:, 1:] - 1).split((1, 1, 2, 2 * KNOTS**2), dim=1)
    angle, zoom, bend = (
        part.masked_fill(whole[:, None], 0) for part in (ROTATION * angle, SCALE * zoom, BEND * side * bend)
    )
    shift = SHIFT * side * shift
    shift = torch.where(whole[:, None], shift.round(), shift)
    # From ranges on the device: a copy of constants could not be replayed.
    x, y = (torch.arange(side, device=pictures.device) + (1 - side) / 2 for side in (width, height))
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    bends = F.interpolate(bend.unflatten(1, (2, KNOTS, KNOTS)), (height, width), mode="bicubic", align_corners=True)
    turned = torch.einsum("nij,hwj->nhwi", _turns(angle, 1 + zoom), places)
    across, down = (turned + shift[:, None, None] + bends.movedim(1, -1)).unbind(-1)
    return Motion(torch.stack([across / (width / 2), down / (height / 2)], dim=-1))


def _turns(angle: torch.Tensor, zoom: torch.Tensor) -> torch.Tensor:
    """The matrices (N, 2, 2) of rotations by ``angle`` and scales by ``zoom``, both (N, 1)."""
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    return torch.cat([cosine, -sine, sine, cosine], dim=1).reshape(-1, 2, 2)


def motion_loss(
    generator: Callable[[torch.Tensor], torch.Tensor], pictures: torch.Tensor, translated: torch.Tensor
) -> torch.Tensor:
    """Mean absolute difference of ``generator(moved pictures)`` and moved ``translated``, inside the frame.

    Gradients flow through both sides, so that the generator also learns not to paint what cannot follow the motion.

    Args:
        generator: maps (N, 3, H, W) in [-1, 1] to the same.
        pictures: its input.
        translated: its output for them.
    """
    with torch.autocast(pictures.device.type, enabled=False):  # bf16 is too coarse for places
        move = random_motion(pictures)
    count, *shape = pictures.shape
    noise = drawn(lambda: share(torch.randn(global_count(count), *shape)), pictures.device)
    found = generator(move(pictures) + NOISE * noise)
    difference = (found.float() - move(translated)).abs().mean(dim=1, keepdim=True)
    inside = move.inside
    loss: torch.Tensor = ((difference * inside).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))).mean()
    return loss
