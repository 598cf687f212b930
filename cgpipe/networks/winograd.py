"""3x3 convolutions with fewer multiplications, in fp32 on a CPU.

Winograd's F(4x4, 3x3) (arXiv 1509.09308): an output tile of 4x4 pixels takes 36 multiplications a pair of channels in
place of 144. The ways into that space and out of it are small matrix products, so all of it is torch's own.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TILE = 4
"""Side of a tile of the output; larger ones multiply still less, and round worse."""
WINDOW = TILE + 2
"""Side of what a tile sees of the input."""
FEWEST_CHANNELS = 64
"""With fewer, in or out, the ways into the space and back cost more than the products save."""
MEASURED = platform.machine().lower() in ("x86_64", "amd64")
"""Elsewhere torch has other convolutions, beside which this was never measured."""
BAND = 256
"""Tiles that are worked on at a time, about: what comes between then lies in the cache."""

INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
KERNEL = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
"""B^T, G and A^T of the paper's section 4.3."""

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution of stride 1 that keeps the sides: ``nn.Conv2d``, to rounding.

    Wide ones in fp32 on a CPU go by tiles (see :func:`convolve`), forwards and backwards. Compiled, traced or exported
    it is a plain convolution, which others know how to run.
    """

    def __init__(self, inputs: int, outputs: int, *, padding_mode: PaddingMode = "zeros", bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, padding=1, padding_mode=padding_mode, bias=bias)
        self._kept: dict[Callable[[torch.Tensor], torch.Tensor], _Transformed] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self._goes_by_tiles(x):
            return super().forward(x)
        padding = 1
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, (1, 1, 1, 1), mode=self.padding_mode), 0
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            y: torch.Tensor = _Convolution.apply(x, self.weight, padding, self._transformed)
        else:
            y = convolve(x, self._transformed(transform_kernel), padding)
        return y if self.bias is None else y + self.bias[:, None, None]

    def _goes_by_tiles(self, x: torch.Tensor) -> bool:
        return (
            MEASURED
            and min(self.in_channels, self.out_channels) >= FEWEST_CHANNELS
            and x.dtype in (torch.float32, torch.float64)
            and x.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        )

    def _transformed(self, transform: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """``transform`` of the weight, kept until that changes."""
        weight, kept = self.weight, self._kept.get(transform)
        version = 0 if weight.is_inference() else weight._version
        if kept is None or kept.weight is not weight or kept.version != version:
            with torch.no_grad():
                kept = self._kept[transform] = _Transformed(weight, version, transform(weight))
        return kept.kernel

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}  # A copy has weights of its own.


class _Transformed(NamedTuple):
    weight: torch.Tensor
    version: int
    kernel: torch.Tensor


def convolve(x: torch.Tensor, kernel: torch.Tensor, padding: int = 0) -> torch.Tensor:
    """Convolves (N, C, H, W), with ``padding`` zeros on every side, with a :func:`transform_kernel`.

    Returns:
        (N, D, H + 2 * padding - 2, W + 2 * padding - 2), channels_last.
    """
    count, outputs = len(x), kernel.shape[2]
    height, width = (side + 2 * padding - 2 for side in x.shape[2:])
    padded = _of_whole_tiles(x, padding, height, width)
    columns = (padded.shape[3] - 2) // TILE
    result = padded.new_empty(count, padded.shape[2] - 2, columns, TILE, outputs)
    for top, bottom in _bands(padded.shape):
        product = torch.bmm(_transform_input(padded[:, :, top : bottom + 2]), kernel)
        tiles = _both_ways(_matrix("output", padded.dtype), product).view(TILE, TILE, count, -1, columns, outputs)
        result[:, top:bottom].unflatten(1, (-1, TILE)).copy_(tiles.permute(2, 3, 0, 4, 1, 5))
    return result.flatten(2, 3)[:, :height, :width].permute(0, 3, 1, 2)


def transform_kernel(weight: torch.Tensor) -> torch.Tensor:
    """(D, C, 3, 3) to (36, C, D)."""
    outputs, inputs = weight.shape[:2]
    return (_matrix("kernel", weight.dtype) @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(-1, inputs, outputs)


def transform_turned(weight: torch.Tensor) -> torch.Tensor:
    """(D, C, 3, 3) to (36, D, C): the kernel with which gradients go back."""
    return transform_kernel(weight.transpose(0, 1).flip(2, 3))


def gradient_of_weight(x: torch.Tensor, gradient: torch.Tensor, padding: int = 0) -> torch.Tensor:
    """(D, C, 3, 3) of what :func:`convolve` took and of its result's gradient: each of its steps, transposed."""
    height, width = gradient.shape[2:]
    padded, gradient = _of_whole_tiles(x, padding, height, width), _of_whole_tiles(gradient, 0, height, width)
    inputs, outputs = padded.shape[1], gradient.shape[1]
    total = None
    for top, bottom in _bands(padded.shape):
        band = gradient[:, :, top:bottom].permute(0, 2, 3, 1)
        tiles = band.unfold(1, TILE, TILE).unfold(2, TILE, TILE).permute(4, 5, 0, 1, 2, 3)
        product = _both_ways(_matrix("output", padded.dtype).T, tiles).view(WINDOW * WINDOW, -1, outputs)
        seen = _transform_input(padded[:, :, top : bottom + 2]).transpose(1, 2)
        total = torch.bmm(seen, product) if total is None else total.baddbmm_(seen, product)
    assert total is not None
    kernels = _matrix("kernel", padded.dtype).T @ total.flatten(1)
    return kernels.view(3, 3, inputs, outputs).permute(3, 2, 0, 1)


class _Convolution(torch.autograd.Function):
    """:func:`convolve`, and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, padding: int, transformed: Callable[..., torch.Tensor]
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.transformed = padding, transformed
        return convolve(x, transformed(transform_kernel), padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        x, _ = ctx.saved_tensors  # The weight is asked for too, so that one that has changed since is an error.
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            of_input = convolve(gradient, ctx.transformed(transform_turned), 2 - ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = gradient_of_weight(x, gradient, ctx.padding)
        return of_input, of_weight, None, None


def _bands(shape: torch.Size) -> Iterator[tuple[int, int]]:
    """First and last rows, of the output, of bands of whole tiles."""
    height, width = shape[2] - 2, shape[3] - 2
    rows = TILE * max(1, round(BAND * TILE / (shape[0] * width)))
    for top in range(0, height, rows):
        yield top, min(height, top + rows)


def _of_whole_tiles(x: torch.Tensor, padding: int, height: int, width: int) -> torch.Tensor:
    """``x`` with zeros around it, and with more of them below and to the right until the result's tiles are whole."""
    down, right = -height % TILE, -width % TILE
    return F.pad(x, (padding, padding + right, padding, padding + down)) if padding or down or right else x


def _transform_input(padded: torch.Tensor) -> torch.Tensor:
    """(N, C, H + 2, W + 2), of whole tiles, to (36, tiles of all pictures, C)."""
    windows = padded.permute(0, 2, 3, 1).unfold(1, WINDOW, TILE).unfold(2, WINDOW, TILE)  # (N, rows, columns, C, 6, 6)
    transformed = _both_ways(_matrix("input", padded.dtype), windows.permute(4, 5, 0, 1, 2, 3))
    return transformed.view(WINDOW * WINDOW, -1, padded.shape[1])


def _both_ways(matrix: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """``matrix`` times windows times its transpose, each window lying along the first two dimensions."""
    outputs, inputs = matrix.shape
    rows = (matrix @ windows.reshape(inputs, -1)).view(outputs, inputs, -1)
    return torch.matmul(matrix, rows)


@lru_cache
def _matrix(name: str, dtype: torch.dtype) -> torch.Tensor:
    """One of the three matrices; that of the kernel, which is small, for both ways at once: (36, 9)."""
    with torch.inference_mode(False):  # kept for whoever comes next, with gradients or without
        if name == "kernel":
            one_way = torch.tensor(KERNEL, dtype=dtype)
            return torch.kron(one_way, one_way)
        return torch.tensor({"input": INPUT, "output": OUTPUT}[name], dtype=dtype)
