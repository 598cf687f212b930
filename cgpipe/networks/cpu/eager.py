"""When the layers of this package apply: in fp32 or fp64 on an x86 CPU, run eagerly.

torch's convolutions and norms are slow there in places, above all the gradients of channels_last tensors. Compiled,
traced and exported networks, other dtypes and other devices keep torch's own operations.
"""

from __future__ import annotations

import platform

import torch

MEASURED = platform.machine().lower() in ("x86_64", "amd64")
"""Elsewhere torch has other operations, beside which nothing was measured."""


def eager_on_cpu(x: torch.Tensor) -> bool:
    """Whether ``x`` is computed on in fp32 or fp64 on a CPU, by torch's operations one after the other."""
    return (
        MEASURED
        and x.dtype in (torch.float32, torch.float64)
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )
