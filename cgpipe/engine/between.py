"""What a fused generator has between its convolutions: modules that run as one or two kernels on a GPU."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.errors import CgpipeWarning
from cgpipe.networks.norm import InstanceNorm

LONGEST_WAIT = 60.0
"""Seconds after which a process forks although libraries are still being loaded."""
MAX_VALUES = 2**30
"""Most values of a map for kernels of our own: offsets have 31 bits, and padding makes a map larger."""


class Between(nn.Module):
    """Instance norm, bias, (leaky) ReLU, addition and reflection padding, each optional.

    Args:
        norm: an instance norm.
        bias: (C,), added if there is no norm; a norm would cancel it.
        slope: of the activation below 0; None for no activation.
    """

    bias: torch.Tensor | None

    def __init__(
        self, norm: InstanceNorm | None = None, bias: torch.Tensor | None = None, slope: float | None = None
    ) -> None:
        super().__init__()
        self.norm = norm
        self.slope = slope
        self.pad = 0
        self.folded = 1
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Maps (N, C, H, W), plus a residual of that shape, to (N, C, H + 2 * pad, W + 2 * pad)."""
        norm = self.norm
        weight, bias, eps = (None, self.bias, None) if norm is None else (norm.weight, norm.bias, norm.eps)
        run = kernels().between_convolutions if _suits(x) else plainly
        result: torch.Tensor = run(
            x, eps=eps, weight=weight, bias=bias, slope=self.slope, residual=residual, pad=self.pad, folded=self.folded
        )
        return result


class Fold(nn.Module):
    """Reflection padding, then squares of pixels folded into one.

    Args:
        pad: pixels on every side.
        factor: side of the squares.
        places: channels of a pixel in the result; those that the input does not have are 0.
    """

    def __init__(self, pad: int, factor: int, places: int) -> None:
        super().__init__()
        self.pad, self.factor, self.places = pad, factor, places

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to (N, factor * factor * places, ...), channels in the order row, column, channel."""
        run = kernels().fold if _suits(x, self.places) else plainly_folded
        result: torch.Tensor = run(x, pad=self.pad, factor=self.factor, places=self.places)
        return result


class Unfold(nn.Module):
    """``F.pixel_shuffle`` that keeps channels last, after adding a bias and before tanh, each optional.

    Args:
        factor: side of the squares.
        bias: (C * factor * factor,).
        tanh: whether tanh follows.
    """

    bias: torch.Tensor | None

    def __init__(self, factor: int, bias: torch.Tensor | None = None, *, tanh: bool = False) -> None:
        super().__init__()
        self.factor = factor
        self.tanh = tanh
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C * factor * factor, H, W) to (N, C, factor * H, factor * W)."""
        run = kernels().unfold if _suits(x) else plainly_unfolded
        result: torch.Tensor = run(x, factor=self.factor, bias=self.bias, tanh=self.tanh)
        return result


def may_fuse(device: torch.device) -> bool:
    """Whether there may be kernels for ``device``: a generator is then fused."""
    return device.type == "cuda" and find_spec("triton") is not None


def prepare_gpu(index: int) -> None:
    """Begins to load cuDNN and Triton and to build kernels, in a thread, on a GPU that may not exist."""
    if index < torch.cuda.device_count():
        prepare_kernels(torch.device("cuda", index))


def prepare_kernels(device: torch.device) -> None:
    """The same on a GPU that exists; it takes as long as the first picture."""
    if may_fuse(device):
        _prepared(device.index or 0)


def can_fuse(device: torch.device) -> bool:
    """Whether kernels can be built for ``device``, when it is known; warns if building fails."""
    return may_fuse(device) and not _without.get() and _are_built(device.index or 0)


@contextmanager
def without_kernels_at_first() -> Iterator[None]:
    """The first body of the process runs with torch's operations alone, while kernels are being prepared.

    It is the first whatever is ready, so that results do not depend on time.
    """
    token = _without.set(next(_bodies) == 0)
    try:
        yield
    finally:
        _without.reset(token)


_bodies = count()
_without = ContextVar("without_kernels", default=False)


@cache
def _are_built(index: int) -> bool:
    error = _prepared(index).exception()
    if error is not None:
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"Triton cannot build kernels ({reason}): continuing without.", CgpipeWarning, stacklevel=2)
    return error is None


@cache
def _prepared(index: int) -> Future[None]:
    threads = ThreadPoolExecutor(2, "cgpipe-kernels")
    try:
        loading, building = threads.submit(_load_convolutions, index), threads.submit(_build, index)
        _under_way.extend((loading, building))
        return building
    finally:
        threads.shutdown(wait=False)


_under_way: list[Future[None]] = []
if hasattr(os, "register_at_fork"):
    # A forked process would wait for ever for the locks of modules and libraries that a thread was loading.
    os.register_at_fork(before=lambda: wait(_under_way, LONGEST_WAIT))


def _load_convolutions(index: int) -> None:
    """Loads cuDNN, for which the first picture would wait."""
    x = torch.zeros(1, 16, 4, 4, device=f"cuda:{index}", dtype=torch.float16)
    F.conv2d(x, x)


def _build(index: int) -> None:
    """Builds kernels of both modules, which may fail in any way: Triton calls a compiler."""
    modules = kernels(), upsampling()
    x = torch.zeros(1, 16, 4, 4, device=f"cuda:{index}")
    modules[0].between_convolutions(x, eps=1e-5, weight=None, bias=None, slope=0.0, residual=None, pad=0)
    pixels = torch.zeros(1, 4, 4, 3, device=x.device, dtype=torch.uint8)
    modules[1].add_change_up(pixels, x[:, :3], x[:, :1])


@cache
def kernels() -> ModuleType:
    """:mod:`cgpipe.engine.kernels`, which needs Triton."""
    # Imported by name: mypy cannot type what Triton decorates.
    return import_module("cgpipe.engine.kernels")


@cache
def upsampling() -> ModuleType:
    """:mod:`cgpipe.engine.upsampling`, likewise."""
    return import_module("cgpipe.engine.upsampling")


def _suits(x: torch.Tensor, times: int = 1) -> bool:
    """Whether kernels may run on maps whose result is at most so many times as large."""
    return x.is_cuda and x[0].numel() * times <= MAX_VALUES and can_fuse(x.device)


def plainly(
    x: torch.Tensor,
    *,
    eps: float | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    slope: float | None,
    residual: torch.Tensor | None,
    pad: int,
    folded: int = 1,
) -> torch.Tensor:
    """The same as :func:`cgpipe.engine.kernels.between_convolutions`, with torch's operations."""
    if folded > 1:
        x = _spread(x.unflatten(1, (folded, folded, -1)).permute(0, 3, 1, 2, 4, 5))
    if eps is not None:
        x = F.group_norm(x, x.shape[1], weight, bias, eps)
    elif bias is not None:
        x = x + bias[:, None, None]
    if slope is not None:
        x = F.leaky_relu(x, slope)
    if residual is not None:
        x = x + residual
    return F.pad(x, 4 * (pad,), mode="reflect") if pad else x


def _spread(squares: torch.Tensor) -> torch.Tensor:
    """(N, C, row, column, H, W) as maps."""
    maps: torch.Tensor = squares.permute(0, 4, 2, 5, 3, 1).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return maps


def plainly_folded(x: torch.Tensor, *, pad: int, factor: int, places: int) -> torch.Tensor:
    """The same as :func:`cgpipe.engine.kernels.fold`, with torch's operations."""
    padded = F.pad(F.pad(x, 4 * (pad,), mode="reflect"), (0, 0, 0, 0, 0, places - x.shape[1]))
    squares: torch.Tensor = pixel_unshuffle(padded, factor).unflatten(1, (places, factor**2))
    return squares.transpose(1, 2).flatten(1, 2)


def plainly_unfolded(x: torch.Tensor, *, factor: int, bias: torch.Tensor | None, tanh: bool) -> torch.Tensor:
    """The same as :func:`cgpipe.engine.kernels.unfold`, with torch's operations."""
    if bias is not None:
        x = x + bias[:, None, None]
    shuffled = pixel_shuffle(x, factor)
    return shuffled.tanh() if tanh else shuffled


def pixel_shuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """``F.pixel_shuffle`` of channels_last maps, in one copy: torch's own changes the layout."""
    return _spread(x.unflatten(1, (-1, factor, factor)))


def pixel_unshuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """``F.pixel_unshuffle``, likewise."""
    blocks = x.permute(0, 2, 3, 1).unflatten(2, (-1, factor)).unflatten(1, (-1, factor))  # (N, h, f, w, f, C)
    folded: torch.Tensor = blocks.permute(0, 1, 3, 5, 2, 4).flatten(3).permute(0, 3, 1, 2)
    return folded
