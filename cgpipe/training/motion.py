"""A loss that keeps video still: the translation of a moved picture is the moved translation.

What a generator paints by the place in the frame, or by grain that the eye does not see, shimmers as soon as the camera
moves. The loss needs no video and no flow network: still pictures are moved in a made-up way, in the sense of the
unsupervised recycle loss (arXiv 2201.05723).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from cgpipe.parallel import global_count, share

ROTATION = math.radians(4)
"""Largest rotation, in radians."""
SCALE = 0.06
"""Largest change of scale, as a share."""
SHIFT = 16 / 192
"""Largest shift, as a share of the shorter side."""
BEND = 6 / 192
"""Largest shift that differs from place to place, likewise."""
KNOTS = 4
"""Places a side between which that shift varies smoothly."""
WHOLE = 0.5
"""Share of pictures that are shifted by whole pixels alone: that softens nothing, so what is sharp may stay sharp."""
NOISE = 0.02
"""Deviation of the grain on moved pictures, which are in [-1, 1]."""


@dataclass(frozen=True)
class Motion:
    """Where each pixel of moved pictures comes from.

    Args:
        grid: (N, H, W, 2), x and y, as ``grid_sample`` takes them with ``align_corners=False``.
    """

    grid: torch.Tensor

    @property
    def inside(self) -> torch.Tensor:
        """1 where a pixel comes from inside the frame, else 0; (N, 1, H, W)."""
        return (self.grid.abs() <= 1).all(dim=-1)[:, None].float()

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Moves (N, C, H, W), bicubic; float32."""
        with torch.autocast(pictures.device.type, enabled=False):
            return F.grid_sample(
                pictures.float(), self.grid, mode="bicubic", padding_mode="reflection", align_corners=False
            )


def random_motion(pictures: torch.Tensor) -> Motion:
    """A smooth motion for each of (N, C, H, W): a rotation, a scale, a shift, and a bend that differs by place.

    The share :data:`WHOLE` of them is shifted by whole pixels alone.
    """
    height, width = pictures.shape[2:]
    side = min(height, width)
    # Drawn on the CPU, whose random state a run keeps, and for the pictures of all processes.
    numbers = share(torch.rand(global_count(len(pictures)), 5 + 2 * KNOTS**2)).to(pictures.device)
    whole = numbers[:, 0] < WHOLE
    angle, zoom, shift, bend = (2 * numbers[:, 1:] - 1).split((1, 1, 2, 2 * KNOTS**2), dim=1)
    angle, zoom = (torch.where(whole[:, None], 0, part) for part in (ROTATION * angle, SCALE * zoom))
    bend = torch.where(whole[:, None], 0, BEND * side * bend)
    shift = SHIFT * side * shift
    shift = torch.where(whole[:, None], shift.round(), shift)
    half = torch.tensor([width, height], device=pictures.device) / 2
    places = F.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], align_corners=False).to(half) * half
    bends = F.interpolate(bend.unflatten(1, (2, KNOTS, KNOTS)), (height, width), mode="bicubic", align_corners=True)
    turned = torch.einsum("nij,hwj->nhwi", _turns(angle, 1 + zoom), places[0])
    return Motion((turned + shift[:, None, None] + bends.movedim(1, -1)) / half)


def _turns(angle: torch.Tensor, zoom: torch.Tensor) -> torch.Tensor:
    """The matrices (N, 2, 2) of rotations by ``angle`` and scales by ``zoom``, both (N, 1)."""
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    return torch.cat([cosine, -sine, sine, cosine], dim=1).reshape(-1, 2, 2)


def motion_loss(
    generator: Callable[[torch.Tensor], torch.Tensor], pictures: torch.Tensor, translated: torch.Tensor
) -> torch.Tensor:
    """Mean absolute difference of ``generator(moved pictures)`` and moved ``translated``, inside the frame.

    Both sides carry gradients: what cannot follow the motion is not painted in the first place.

    Args:
        generator: takes and gives (N, 3, H, W) in [-1, 1].
        pictures: what it translated.
        translated: what it made of them.
    """
    move = random_motion(pictures)
    noise = share(torch.randn(global_count(len(pictures)), *pictures.shape[1:])).to(pictures.device)
    found = generator(move(pictures) + NOISE * noise)
    difference = (found.float() - move(translated)).abs().mean(dim=1, keepdim=True)
    inside = move.inside
    loss: torch.Tensor = ((difference * inside).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))).mean()
    return loss
