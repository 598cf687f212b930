"""The device and dtype of a training run."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from cgpipe.errors import UsageError
from cgpipe.networks.cpu.eager import MEASURED
from cgpipe.parallel import place_on_machine

MOST_LOADERS = 8
"""Most processes that load pictures, unless more are asked for."""


@dataclass(frozen=True, kw_only=True)
class DevicePlan:
    """A device and the dtype of convolutions; weights, losses and optimisers stay in fp32."""

    device: torch.device
    dtype: torch.dtype

    @property
    def gains_by_compiling(self) -> bool:
        """Whether compiling is worth its start: not in fp32 on a CPU, nor on one of x86.

        There :func:`cgpipe.networks.cpu.accelerate` does as much at once.
        """
        return self.device.type != "cpu" or not (MEASURED or self.dtype == torch.float32)

    def loaders(self, wanted: int) -> int:
        """Processes that load pictures: as many as ``wanted`` or, for -1, as the machine can spare."""
        if wanted >= 0 or self.device.type == "cpu":  # on a CPU, training itself uses every core
            return max(0, wanted)
        _, processes = place_on_machine()
        return min(MOST_LOADERS, max(1, (os.cpu_count() or 1) // processes - 1))

    def autocast(self) -> AbstractContextManager[object]:
        """Runs its body in :attr:`dtype`."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Scales gradients to the range of fp16 (arXiv 1710.03740); disabled for other dtypes."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def place(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) on the device, in channels_last."""
        return pictures.to(self.device, non_blocking=True, memory_format=torch.channels_last)


def plan_device(gpu_ids: str, precision: str) -> DevicePlan:
    """The device of ``--gpu-ids``, with bf16 for precision ``auto`` if the hardware supports it.

    Several processes on a machine get a GPU each.

    Raises:
        UsageError: there is no such GPU, the numbers of GPUs and processes differ, or fp16 is requested on a CPU.
    """
    device = _choose_device(gpu_ids)
    if precision == "fp16":
        if device.type == "cpu":
            raise UsageError("A CPU cannot compute in fp16: use --precision bf16, fp32 or auto.")
        return DevicePlan(device=device, dtype=torch.float16)
    if device.type == "cuda":
        fast_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast_bf16 = _cpu_multiplies_bf16()
    use_bf16 = precision == "bf16" or (precision == "auto" and fast_bf16)
    return DevicePlan(device=device, dtype=torch.bfloat16 if use_bf16 else torch.float32)


def _choose_device(gpu_ids: str) -> torch.device:
    gpus = gpus_of(gpu_ids)
    if not gpus:
        return torch.device("cpu")
    place, processes = place_on_machine()
    if gpu_ids == "auto":
        gpus = gpus[:processes]
    if len(gpus) != processes:
        raise UsageError(
            f"--gpu-ids {gpu_ids}: {len(gpus)} GPUs for {processes} processes on this machine, but each needs one. "
            f"Start as many with torchrun --nproc-per-node {len(gpus)}; `cgpipe train --gpu-ids 0,1` does so itself."
        )
    device = torch.device("cuda", gpus[place])
    torch.cuda.set_device(device)  # the process group uses the current device
    return device


def gpus_of(gpu_ids: str) -> tuple[int, ...]:
    """The GPUs that ``--gpu-ids`` names, all of the machine for ``auto``; none for the CPU.

    Raises:
        UsageError: it names no GPU, one twice, or one that the machine does not have.
    """
    if gpu_ids == "-1":
        return ()
    there = torch.cuda.device_count()
    if gpu_ids == "auto":
        return tuple(range(there))
    words = gpu_ids.split(",")
    if not all(word.isdecimal() for word in words) or len(set(words)) != len(words):
        raise UsageError(f"--gpu-ids {gpu_ids}: give one number, several with commas, -1 for the CPU, or auto.")
    if any(int(word) >= there for word in words):
        raise UsageError(f"--gpu-ids {gpu_ids}: this machine has {there} usable GPUs. Use -1 for the CPU.")
    return tuple(int(word) for word in words)


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
