"""The arithmetic of a network, chosen by trying."""

from __future__ import annotations

import copy
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from platformdirs import user_cache_path

from cgpipe.errors import UsageError
from cgpipe.media.files import atomic_write
from cgpipe.networks import Generator

Precision = Literal["auto", "fp32", "fp16", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

TOLERANCE = 2.0 / 255
"""Mean error against fp32, in units of the whole range of values, up to which a faster type is taken."""

PROBE_SIDE = 256
PROBE_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What trying a type against fp32 showed: its speed as a ratio, and its mean error in units of white."""

    speed: float
    error: float

    @property
    def pays(self) -> bool:
        return self.speed > 1.1 and self.error <= TOLERANCE


def choose_dtype(generator: Generator, precision: Precision, device: torch.device, key: str = "") -> torch.dtype:
    """The type to run ``generator`` in.

    ``auto`` takes fp16 on CUDA (bf16 where fp16 overflows) and on a CPU whichever of fp32 and bf16 is faster, as long
    as its error is small: not every CPU multiplies bf16, and not every network bears it. The outcome of the trial is
    kept for ``key`` on this machine.

    Raises:
        UsageError: fp16 is asked for on a CPU, which has no arithmetic for it.
    """
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("A CPU has no fp16 arithmetic: use --precision bf16, fp32 or auto.")
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        return torch.float16 if compare(generator, torch.float16, device).error <= TOLERANCE else torch.bfloat16
    trial = _remembered_trial(generator, device, key)
    return torch.bfloat16 if trial.pays else torch.float32


@torch.inference_mode()
def compare(generator: Generator, dtype: torch.dtype, device: torch.device) -> Trial:
    """Runs ``generator`` on the same noise in fp32 and in ``dtype``; infinite or undefined values count as error 1."""
    side = -(-PROBE_SIDE // generator.multiple) * generator.multiple
    noise = torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    outputs, seconds = [], []
    for kind in (torch.float32, dtype):
        network = copy.deepcopy(generator).to(device=device, dtype=kind, memory_format=torch.channels_last)  # type: ignore[call-overload]
        picture = noise.to(device=device, dtype=kind, memory_format=torch.channels_last)
        outputs.append(network(picture).float())
        times = []
        for _ in range(PROBE_RUNS):
            started = time.perf_counter()
            network(picture)
            times.append(time.perf_counter() - started)
        seconds.append(min(times))
    error = float((outputs[0] - outputs[1]).abs().mean()) / 2
    return Trial(speed=seconds[0] / seconds[1], error=error if error == error else 1.0)


def _remembered_trial(generator: Generator, device: torch.device, key: str) -> Trial:
    path = user_cache_path("cgpipe") / "precision.json"
    cpu = torch.cpu.get_capabilities().get("cpu_name", "") if hasattr(torch.cpu, "get_capabilities") else ""
    name = f"{key} torch-{torch.__version__} {cpu} threads-{torch.get_num_threads()}"
    trials = _read(path)
    if not key or name not in trials:
        trial = compare(generator, torch.bfloat16, device)
        if key:
            _write(path, _read(path) | {name: [trial.speed, trial.error]})
        return trial
    speed, error = trials[name]
    return Trial(speed=speed, error=error)


def _read(path: Path) -> dict[str, list[float]]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _write(path: Path, trials: dict[str, list[float]]) -> None:
    # Only a memory: where it cannot be written, the next run tries again.
    with suppress(OSError), atomic_write(path) as partial:
        partial.write_text(json.dumps(trials, indent=1), encoding="utf-8")
