"""Normalisation layers by name."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks.eager import eager_on_cpu

NormKind = Literal["instance", "instance_affine", "batch", "none"]
NORMS: tuple[NormKind, ...] = ("instance", "instance_affine", "batch", "none")
FEWEST_PIXELS = 1024
"""Of a map; with fewer, torch's group norm on a CPU goes through it channel by channel, wherever these lie."""


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
        if not eager_on_cpu(x):
            return F.group_norm(x, self.channels, self.weight, self.bias, self.eps)
        y: torch.Tensor = _Normalise.apply(x, self.eps)
        if self.weight is None or self.bias is None:
            return y
        return torch.addcmul(self.bias[:, None, None], y, self.weight[:, None, None])

    def extra_repr(self) -> str:
        return f"{self.channels}, affine={self.weight is not None}, eps={self.eps}"


class _Normalise(torch.autograd.Function):
    """Group normalisation with one group a channel, whose gradient is made by sums over whole pictures.

    torch's own takes five to ten times as long where channels lie last, and so does its way forward for small maps.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> torch.Tensor:
        count, channels, height, width = x.shape
        if height * width < FEWEST_PIXELS:
            mean = x.mean((2, 3), keepdim=True)
            centred = x - mean
            scale = torch.rsqrt(centred.square().mean((2, 3), keepdim=True) + eps)
            y = centred.mul_(scale)
        else:
            shape = (count, channels, height * width, channels, eps)
            y, mean, scale = torch.native_group_norm(x, None, None, *shape)
        ctx.save_for_backward(x, mean, scale)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # Gradients of the gradients are wanted.
            y = F.group_norm(x, x.shape[1], eps=ctx.eps)
            return torch.autograd.grad(y, x, gradient, create_graph=True)[0], None
        mean, scale = mean.view(*x.shape[:2], 1, 1), scale.view(*x.shape[:2], 1, 1)
        # Of y = (x - mean) * scale: scale * (gradient - its mean - y * the mean of gradient * y), as a * x + b + ...
        of_mean = gradient.mean((2, 3), keepdim=True)
        of_scale = ((gradient * x).mean((2, 3), keepdim=True) - of_mean * mean) * scale
        slope = -of_scale * scale.square()
        offset = -of_mean * scale - slope * mean
        return torch.addcmul(offset, x, slope).addcmul_(gradient, scale), None


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
