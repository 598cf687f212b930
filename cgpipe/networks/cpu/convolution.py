"""Convolutions equal to torch's to rounding, with faster gradients in fp32 on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.networks.cpu import winograd
from cgpipe.networks.cpu.eager import eager_on_cpu

MIN_CHANNELS_FOR_WINOGRAD = 64
"""Channels in and out; with fewer, the transforms cost more than the products save."""
MIN_CHANNELS_FOR_ROWS = 32
"""Input channels; with fewer, torch's weight gradient is as fast."""
MIN_MULTIPLICATIONS = 2**26
"""With fewer, torch's own are as fast."""

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


class FastConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a square kernel, the same to rounding and faster in fp32 on a CPU.

    Wide 3x3 and 4x4 kernels with stride 1 use Winograd transforms (:mod:`cgpipe.networks.cpu.winograd`), forward and
    backward. The others compute their weight gradient by :func:`gradient_of_weight`.

    Attributes:
        frozen: the weight never changes again, so that its transform is kept.
    """

    frozen = False
    _frozen_kernel: torch.Tensor | None = None

    @classmethod
    def of(cls, conv: nn.Conv2d, *, frozen: bool) -> FastConv2d:
        """One that shares the parameters of ``conv``."""
        fast = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            padding_mode=conv.padding_mode,
            device="meta",
        )
        fast.weight, fast.bias, fast.frozen = conv.weight, conv.bias, frozen
        return fast.train(conv.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not eager_on_cpu(x):
            return super().forward(x)
        tiled, learns = self._suits_winograd(x), torch.is_grad_enabled() and self.weight.requires_grad
        if not tiled and not (learns and self.in_channels >= MIN_CHANNELS_FOR_ROWS):
            return super().forward(x)
        geometry = Geometry.of(self)
        if geometry.padding and self.padding_mode != "zeros":
            x, geometry = F.pad(x, 4 * (geometry.padding,), mode=self.padding_mode), geometry._replace(padding=0)
        y: torch.Tensor
        if tiled:
            y = _Winograd.apply(x, self.weight, self.bias, self._kernel(), geometry)
        else:
            y = _GradientByRows.apply(x, self.weight, self.bias, geometry)
        return y

    def _suits_winograd(self, x: torch.Tensor) -> bool:
        return (
            self.kernel_size[0] in winograd.KERNELS
            and self.stride[0] == 1
            and min(self.in_channels, self.out_channels) >= MIN_CHANNELS_FOR_WINOGRAD
            and _multiplications(self.weight, x) >= MIN_MULTIPLICATIONS
        )

    def _kernel(self) -> torch.Tensor:
        if not self.frozen:
            return transformed(self.weight)
        if self._frozen_kernel is None or self._frozen_kernel.dtype != self.weight.dtype:
            self._frozen_kernel = transformed(self.weight)
        return self._frozen_kernel


class FastConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with a square kernel, with the weight gradient of :class:`FastConv2d`."""

    @classmethod
    def of(cls, conv: nn.ConvTranspose2d) -> FastConvTranspose2d:
        """One that shares the parameters of ``conv``."""
        fast = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.output_padding,  # type: ignore[arg-type]
            device="meta",
        )
        fast.weight, fast.bias = conv.weight, conv.bias
        return fast.train(conv.training)

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        learns = torch.is_grad_enabled() and self.weight.requires_grad and self.out_channels >= MIN_CHANNELS_FOR_ROWS
        if output_size is not None or not (learns and eager_on_cpu(x)):
            return super().forward(x, output_size)
        y: torch.Tensor = _GradientByRows.apply(x, self.weight, self.bias, Geometry.of(self))
        return y


_transforms: ContextVar[dict[int, tuple[torch.Tensor, torch.Tensor]] | None] = ContextVar("transforms", default=None)


@contextmanager
def steady_weights() -> Iterator[None]:
    """Promises that no weight changes in the body, so that each is transformed once, however often its layer runs."""
    token = _transforms.set({})
    try:
        yield
    finally:
        _transforms.reset(token)


def transformed(weight: torch.Tensor) -> torch.Tensor:
    """The Winograd transform of (D, C, side, side): (36, C, D)."""
    known = _transforms.get()
    if known is not None and id(weight) in known:
        return known[id(weight)][1]
    with torch.no_grad():
        kernel = winograd.transform_kernel(weight)
    if known is not None:
        known[id(weight)] = weight, kernel  # the weight too: as long as it lives, no other has its id
    return kernel


class Geometry(NamedTuple):
    """The parameters of a convolution other than its weight."""

    stride: int = 1
    padding: int = 0
    transposed: bool = False
    output_padding: int = 0

    @classmethod
    def of(cls, conv: nn.Conv2d | nn.ConvTranspose2d) -> Geometry:
        stride, padding, output_padding = conv.stride[0], conv.padding[0], conv.output_padding[0]
        assert isinstance(padding, int)
        transposed = isinstance(conv, nn.ConvTranspose2d)
        return cls(stride=stride, padding=padding, transposed=transposed, output_padding=output_padding)

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

    def _arguments(self) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
        return 2 * [self.stride], 2 * [self.padding], [1, 1], self.transposed, 2 * [self.output_padding], 1


class _Context(Protocol):
    """What a convolution keeps for its way back."""

    geometry: Geometry
    kernel: torch.Tensor
    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[torch.Tensor, ...]

    def save_for_backward(self, *tensors: torch.Tensor) -> None: ...


class _Winograd(torch.autograd.Function):
    """A convolution of stride 1, and its gradients, by Winograd transforms."""

    @staticmethod
    def forward(
        ctx: _Context,
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
    def backward(ctx: _Context, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        geometry, wanted = ctx.geometry, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # Gradients of the gradients are wanted.
            return *geometry.gradients(gradient, x, weight, wanted), None, None
        asked = {"of_input": wanted[0], "of_weight": wanted[1]}
        found = winograd.gradients(gradient, x, ctx.kernel, geometry.padding, **asked)
        return *found, _of_bias(gradient) if wanted[2] else None, None, None


class _GradientByRows(torch.autograd.Function):
    """torch's own convolution, but for the gradient of the weight."""

    @staticmethod
    def forward(
        ctx: _Context, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, geometry: Geometry
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return geometry.convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: _Context, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        geometry, wanted = ctx.geometry, ctx.needs_input_grad[:3]
        large, small = (gradient, x) if geometry.transposed else (x, gradient)
        if torch.is_grad_enabled() or _multiplications(weight, small) < MIN_MULTIPLICATIONS:
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
