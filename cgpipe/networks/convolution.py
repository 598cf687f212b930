"""Convolutions that are torch's to rounding, and learn faster on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks import winograd
from cgpipe.networks.eager import eager_on_cpu

FEWEST_BY_TILES = 64
"""Channels in and out; with fewer, the ways into Winograd's space and back cost more than the products save."""
FEWEST_BY_ROWS = 32
"""Channels in; with fewer, torch's gradient of the weight is as fast."""
LEAST_WORK = 2**26
"""Multiplications; with fewer, torch's own are as fast."""

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with a square kernel.

    In fp32 on a CPU, run eagerly (:mod:`cgpipe.networks.eager`), wide ones with a kernel of 3x3 or 4x4 and stride 1 go
    by tiles (:mod:`cgpipe.networks.winograd`), forwards and backwards; the others make the gradient of their weight by
    :func:`gradient_of_weight`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        padding_mode: PaddingMode = "zeros",
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, kernel_size, stride, padding, padding_mode=padding_mode, bias=bias)
        self.geometry = Geometry(stride=stride, padding=padding)
        self._kept: _Kept | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not eager_on_cpu(x):
            return super().forward(x)
        by_tiles, learns = self._goes_by_tiles(x), torch.is_grad_enabled() and self.weight.requires_grad
        if not by_tiles and not (learns and self.in_channels >= FEWEST_BY_ROWS):
            return super().forward(x)
        geometry = self.geometry
        if geometry.padding and self.padding_mode != "zeros":
            x, geometry = F.pad(x, 4 * (geometry.padding,), mode=self.padding_mode), geometry._replace(padding=0)
        y: torch.Tensor
        if by_tiles:
            y = _ByTiles.apply(x, self.weight, self.bias, self._kernel(), geometry)
        else:
            y = _ByRows.apply(x, self.weight, self.bias, geometry)
        return y

    def _goes_by_tiles(self, x: torch.Tensor) -> bool:
        return (
            self.kernel_size[0] in winograd.KERNELS
            and self.geometry.stride == 1
            and min(self.in_channels, self.out_channels) >= FEWEST_BY_TILES
            and _multiplications(self.weight, x) >= LEAST_WORK
        )

    def _kernel(self) -> torch.Tensor:
        """The weight in Winograd's space, kept until it changes, as autograd counts.

        Who changes it in ways that do not count, as fused optimisers do, has to say so by
        ``torch.autograd.graph.increment_version``.
        """
        weight, kept = self.weight, self._kept
        state = weight.data_ptr(), 0 if weight.is_inference() else weight._version
        if kept is None or kept.weight is not weight or kept.state != state:
            with torch.no_grad():
                kept = self._kept = _Kept(weight, state, winograd.transform_kernel(weight))
        return kept.kernel

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # A copy has weights of its own.


class ConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with a square kernel; its weight's gradient on a CPU is as that of :class:`Conv2d`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, kernel_size, stride, padding, output_padding, bias=bias)
        self.geometry = Geometry(stride=stride, padding=padding, transposed=True, output_padding=output_padding)

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        learns = torch.is_grad_enabled() and self.weight.requires_grad and self.out_channels >= FEWEST_BY_ROWS
        if output_size is not None or not (learns and eager_on_cpu(x)):
            return super().forward(x, output_size)
        y: torch.Tensor = _ByRows.apply(x, self.weight, self.bias, self.geometry)
        return y


class _Kept(NamedTuple):
    weight: torch.Tensor
    state: tuple[int, int]
    kernel: torch.Tensor


class Geometry(NamedTuple):
    """What a convolution has beside its weight."""

    stride: int = 1
    padding: int = 0
    transposed: bool = False
    output_padding: int = 0

    def convolve(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """torch's own."""
        return torch.convolution(x, weight, bias, *self._arguments())

    def gradients(
        self, gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, wanted: Sequence[bool]
    ) -> Gradients:
        """torch's own of ``x``, the weight and the bias, which have gradients themselves; None for one not wanted."""
        outputs = [gradient.shape[1]]
        found: Gradients = torch.ops.aten.convolution_backward(
            gradient, x, weight, outputs, *self._arguments(), list(wanted)
        )
        return found

    def _arguments(self) -> tuple[Any, ...]:
        return 2 * [self.stride], 2 * [self.padding], [1, 1], self.transposed, 2 * [self.output_padding], 1


class _ByTiles(torch.autograd.Function):
    """A convolution of stride 1, and its gradients, in Winograd's space."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        kernel: torch.Tensor,
        geometry: Geometry,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.kernel = geometry, kernel
        return winograd.convolve(x, kernel, weight.shape[3], geometry.padding, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        geometry, wanted = ctx.geometry, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # Gradients of the gradients are wanted.
            return *geometry.gradients(gradient, x, weight, wanted), None, None
        asked = {"of_input": wanted[0], "of_weight": wanted[1]}
        found = winograd.gradients(gradient, x, ctx.kernel, geometry.padding, **asked)
        return *found, _of_bias(gradient) if wanted[2] else None, None, None


class _ByRows(torch.autograd.Function):
    """torch's own convolution, but for the gradient of the weight."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return geometry.convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        geometry, wanted = ctx.geometry, ctx.needs_input_grad[:3]
        large, small = (gradient, x) if geometry.transposed else (x, gradient)
        if torch.is_grad_enabled() or _multiplications(weight, small) < LEAST_WORK:
            return *geometry.gradients(gradient, x, weight, wanted), None
        of_input, _, _ = geometry.gradients(gradient, x, weight, (wanted[0], False, False))
        of_weight = gradient_of_weight(large, small, weight.shape[3], geometry.stride, geometry.padding)
        return of_input, of_weight, _of_bias(gradient) if wanted[2] else None, None


def _multiplications(weight: torch.Tensor, places: torch.Tensor) -> int:
    """Of a kernel that is laid on every place of (N, C, H, W)."""
    count, _, height, width = places.shape
    return weight.numel() * count * height * width


def _of_bias(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.sum((0, 2, 3))  # Asked for the bias's gradient, torch makes the weight's too.


def gradient_of_weight(x: torch.Tensor, gradient: torch.Tensor, side: int, stride: int, padding: int) -> torch.Tensor:
    """The gradient of a convolution's weight, as one matrix product for each row of the kernel.

    What torch has for channels_last tensors on CPUs without bf16 takes up to five times as long.

    Args:
        x: (N, C, H, W) that came in.
        gradient: (N, D, h, w) of what went out; as large as a kernel of ``side`` with ``stride`` makes it from ``x``
            with ``padding`` zeros on every side.

    Returns:
        (D, C, side, side). For a transposed convolution the two are exchanged, and C and D are what it calls so.
    """
    if stride == 1 and gradient.shape[1] < x.shape[1]:  # the one with fewer channels is to be copied for every column
        around = F.pad(gradient, 4 * (side - 1 - padding,))
        return gradient_of_weight(around, x, side, 1, 0).transpose(0, 1).flip(2, 3)
    count, outputs, height, width = gradient.shape
    inputs, lines = x.shape[1], height + (side - 1) // stride
    bottom, right = stride * lines - x.shape[2], stride * (width - 1) + side - x.shape[3]
    x = F.pad(x, (padding, right - padding, padding, bottom - padding)).permute(0, 2, 3, 1)
    windows = x.unfold(2, side, stride).unflatten(1, (lines, stride))  # (N, lines, stride, w, C, side)
    rows = windows.permute(2, 0, 1, 3, 5, 4).reshape(stride, count, -1, side * inputs)
    columns = gradient.permute(0, 2, 3, 1).reshape(count, -1, outputs).transpose(1, 2)
    products = []
    for row in range(side):
        above = row // stride * width
        products.append((columns @ rows[row % stride, :, above : above + height * width]).sum(0))
    return torch.stack(products).view(side, outputs, side, inputs).permute(1, 3, 0, 2)
