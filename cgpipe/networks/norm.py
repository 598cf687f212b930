"""Normalisation layers by name."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

NormKind = Literal["instance", "instance_affine", "batch", "none"]
NORMS: tuple[NormKind, ...] = ("instance", "instance_affine", "batch", "none")


class InstanceNorm(nn.Module):
    """Instance normalisation (arXiv 1607.08022), (N, C, H, W) in and out.

    Computed as group normalisation with one group a channel: the same numbers as ``F.instance_norm``, which converts
    a channels_last tensor to the contiguous layout and back at every call.
    """

    def __init__(self, channels: int, *, affine: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, self.channels, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.channels}, affine={self.weight is not None}, eps={self.eps}"


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """The normalisation called ``kind`` for (N, ``channels``, H, W); raises ValueError for an unknown name."""
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "instance_affine":
        return InstanceNorm(channels, affine=True)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"unknown norm {kind!r}: choose one of {', '.join(NORMS)}")


def needs_bias(kind: NormKind) -> bool:
    """Whether a convolution before this norm has a bias in the reference networks (arXiv 1703.10593)."""
    return kind in ("instance", "instance_affine")
