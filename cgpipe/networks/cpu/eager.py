"""When the layers of this package apply: on an x86 CPU, run eagerly.

torch's convolutions and norms are slow there in places, above all the gradients of channels_last tensors; in bf16 the
norms alone are. Compiled, traced and exported networks, other dtypes and other devices keep torch's own operations.
"""

from __future__ import annotations

import platform

import torch

MEASURED = platform.machine().lower() in ("x86_64", "amd64")
"""Elsewhere torch has other operations, beside which nothing was measured."""


def eager_on_cpu(x: torch.Tensor) -> bool:
    """Whether ``x`` is computed on in fp32 or fp64 on a CPU, by torch's operations one after the other."""
    return x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu") and _is_eager(x)


def eager_bf16_on_cpu(x: torch.Tensor) -> bool:
    """The same of bf16, with autocast or without."""
    return x.dtype == torch.bfloat16 and _is_eager(x)


def _is_eager(x: torch.Tensor) -> bool:
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined, no-untyped-call]
    return MEASURED and x.device.type == "cpu" and not traced
