"""GPUs of any make by Vulkan: ncnn runs the networks there, and everything else stays on the CPU."""

from __future__ import annotations

import warnings

import torch

from cgpipe.engine.export import extra
from cgpipe.errors import CgpipeWarning, UsageError
from cgpipe.media.pictures.quiet import c_warnings_hidden
from cgpipe.options import Engine, Precision

NAME = "vulkan"
_SOFTWARE = 3
"""ncnn's type of a driver that computes on the processor."""


def find_gpu(device: torch.device) -> torch.device:
    """``vulkan`` or ``vulkan:N`` with its number; by default that of the GPU that ncnn prefers. Warns if it is none.

    Raises:
        MissingDependencyError: ncnn is not installed.
        UsageError: there is no such GPU.
    """
    ncnn = extra("ncnn", "ncnn")
    with c_warnings_hidden():  # ncnn prints what each GPU can do when it first looks for them
        count = ncnn.get_gpu_count()
    number = ncnn.get_default_gpu_index() if device.index is None else device.index
    if not 0 <= number < count:
        raise UsageError(
            f"Device '{device}' does not exist: Vulkan finds {count} of them on this machine. Use --device cpu, or "
            "install a Vulkan driver for your GPU (on Debian and Ubuntu: mesa-vulkan-drivers)."
        )
    info = ncnn.get_gpu_info(number)
    if info.type() == _SOFTWARE:
        warnings.warn(
            f"Vulkan finds no GPU, only a driver that computes on the processor ({info.device_name()}): --device cpu "
            "is faster.",
            CgpipeWarning,
            stacklevel=4,
        )
    return torch.device(NAME, number)


def memory_of(device: torch.device) -> torch.device:
    """The device that holds pictures and weights for ``device``."""
    return torch.device("cpu") if device.type == NAME else device


def check_choices(runtime: str | None, precision: Precision, engine: Engine) -> None:
    """Raises UsageError for a network or options that Vulkan does not support."""
    if runtime:
        raise UsageError(f"{runtime} runs this network as it is: use --device cpu, not vulkan.")
    if engine not in ("auto", "ncnn"):
        raise UsageError(f"--device vulkan runs networks by ncnn: use --engine auto, not {engine}.")
    if precision not in ("auto", "fp32"):
        raise UsageError(f"--device vulkan computes in fp32: use --precision auto, not {precision}.")
