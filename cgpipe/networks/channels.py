"""Pictures of any channels as RGB, for networks and people that see nothing else."""

from __future__ import annotations

import torch


def as_rgb(pictures: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) in [-1, 1] as (N, 3, H, W); RGB is returned as it is.

    Gray is repeated, RGB with opacity is composited on white; of other pictures the first three channels are taken, or
    the first alone where there are two.
    """
    channels = pictures.shape[1]
    if channels == 3:
        return pictures
    if channels < 3:
        return pictures[:, :1].expand(-1, 3, -1, -1)
    if channels == 4:
        opacity = (pictures[:, 3:] + 1) / 2
        return (pictures[:, :3] - 1) * opacity + 1
    return pictures[:, :3]
