"""Layers that train faster on a GPU: they stay in channels_last and in the dtype of the convolutions.

torch's group norm and reflection padding convert to the contiguous layout and back, and under autocast norms run in
fp32: at 256x256 a ResNet's copies take longer than its convolutions.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cgpipe.errors import CgpipeWarning
from cgpipe.networks.norm import InstanceNorm


@cache
def kernels() -> ModuleType:
    """The kernels, loaded when they are first needed."""
    from cgpipe.training import kernels as module

    return module


@cache
def can_run_kernels(device: torch.device) -> bool:
    """Whether kernels can be built for ``device``; warns if building fails."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        x = torch.zeros(1, 16, 4, 4, device=device).contiguous(memory_format=torch.channels_last)
        kernels().reflect(kernels().normalise(x, 1e-5)[0], 1)
    except Exception as error:  # Triton calls a compiler, which may fail in any way
        reason = str(error).strip().rpartition("\n")[2]
        warnings.warn(f"Triton cannot build kernels ({reason}): continuing without.", CgpipeWarning, stacklevel=2)
        return False
    return True


def use_gpu_layers(network: nn.Module) -> None:
    """Makes the norms and the reflecting convolutions of ``network`` such layers; weights and names stay.

    Their gradients cannot be differentiated again.
    """
    for layer in network.modules():
        if type(layer) is InstanceNorm and layer.weight is None:
            layer.__class__ = GpuInstanceNorm
        elif type(layer) is nn.Conv2d and layer.padding_mode == "reflect" and len(set(_paddings(layer))) == 1:
            layer.__class__ = GpuReflectingConv2d


class GpuInstanceNorm(InstanceNorm):
    """:class:`~cgpipe.networks.norm.InstanceNorm` in the dtype of its input, with sums in fp32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not _fits(x):
            return super().forward(x)
        made: torch.Tensor = _Normalise.apply(x, self.eps)
        return made


class GpuReflectingConv2d(nn.Conv2d):
    """A convolution that pads by reflection."""

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        padding = _paddings(self)[0]
        if self.padding_mode != "reflect" or not _fits(input) or min(input.shape[2:]) <= padding:
            return super()._conv_forward(input, weight, bias)  # type: ignore[no-any-return]
        if torch.is_autocast_enabled(input.device.type):
            input = input.to(torch.get_autocast_dtype(input.device.type))  # before padding, in half the bytes
        padded = _Reflect.apply(input, padding)
        return F.conv2d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)


def _paddings(conv: nn.Conv2d) -> tuple[int, ...]:
    return () if isinstance(conv.padding, str) else conv.padding


def _fits(x: torch.Tensor) -> bool:
    return x.is_cuda and x[0].numel() < kernels().MAX_VALUES


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        made, stats = kernels().normalise(x, eps)
        ctx.save_for_backward(x, stats)
        return made  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, stats = ctx.saved_tensors
        return kernels().normalise_backward(grad.contiguous(memory_format=torch.channels_last), x, stats), None


class _Reflect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, padding: int) -> torch.Tensor:
        ctx.padding = padding
        return kernels().reflect(x.contiguous(memory_format=torch.channels_last), padding)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return kernels().reflect_backward(grad.contiguous(memory_format=torch.channels_last), ctx.padding), None
