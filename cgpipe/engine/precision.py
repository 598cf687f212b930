"""The arithmetic of a network, chosen by trying."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from cgpipe.engine.remembered import recall, remember, trial_key
from cgpipe.errors import UsageError
from cgpipe.networks import Generator

Precision = Literal["auto", "fp32", "fp16", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

TOLERANCE = 2.0 / 255
"""Mean error against fp32, in units of white, up to which a faster type is taken."""
LEAST_GAIN = 1.1
"""How many times as fast as fp32 another type must be."""

PROBE_PIXELS = 1 << 20
"""Of a larger picture only so many pixels are tried: speed and error are the same for the rest. A GPU is given so many
however small the picture: on a few it waits for the work to be handed over, whatever the type."""
TIMED_RUNS = 3
TIMED_SECONDS = 0.5
"""A run is timed until either is reached; one that takes longer is timed once."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What trying a type against fp32 showed: its speed as a ratio, and its mean error in units of white."""

    speed: float
    error: float

    @property
    def pays(self) -> bool:
        return self.speed > LEAST_GAIN and self.error <= TOLERANCE

    def __str__(self) -> str:
        return f"{self.speed:.2f} times as fast as fp32, mean error {100 * self.error:.2f}% of white"


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raises UsageError where ``device`` has no arithmetic of this kind."""
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("A CPU has no fp16 arithmetic: use --precision bf16, fp32 or auto.")


def choose_precision(generator: Generator, picture: torch.Tensor) -> tuple[Precision, str]:
    """The type to run ``generator`` in, and why.

    Half precision is taken where it is faster and its error small, both measured on the network and the picture at
    hand: fp16 on CUDA, and bf16 where fp16 overflows; bf16 alone on a CPU, since not every CPU multiplies it, and not
    every network bears it. What was measured is kept for this machine, model and size.

    Args:
        generator: in fp32, on the device where it will run.
        picture: (N, 3, H, W) in [-1, 1], of the size at which it will run, on that device.
    """
    tried = []
    candidates: list[Precision] = ["fp16", "bf16"] if picture.device.type == "cuda" else ["bf16"]
    for precision in candidates:
        trial = _remembered_trial(generator, precision, picture)
        tried.append(f"{precision} is {trial}")
        if trial.pays:
            return precision, "; ".join(tried)
    return "fp32", "; ".join(tried)


def _remembered_trial(generator: Generator, precision: Precision, picture: torch.Tensor) -> Trial:
    key = f"{precision}: {trial_key(generator, picture.device, picture.shape)}"
    match recall(key):
        case [speed, error]:
            return Trial(speed=speed, error=error)
    trial = compare(generator, DTYPES[precision], picture)
    remember(key, [trial.speed, trial.error])
    return trial


@torch.inference_mode()
def compare(generator: Generator, dtype: torch.dtype, picture: torch.Tensor) -> Trial:
    """Runs ``generator`` on ``picture`` in fp32 and in ``dtype``; infinite or undefined values count as error 1."""
    seen = _middle(picture[:1], generator.multiple, generator.least_side)
    if seen.device.type != "cpu":
        seen = _filled(seen)
    outputs, seconds = [], []
    for kind in (torch.float32, dtype):
        network = cast(generator, kind)
        x = seen.to(dtype=kind, memory_format=torch.channels_last)
        outputs.append(network(x).float())
        seconds.append(timed(lambda network=network, x=x: network(x), x.device))  # type: ignore[misc]
    error = float((outputs[0] - outputs[1]).abs().mean()) / 2
    return Trial(speed=seconds[0] / seconds[1], error=error if error == error else 1.0)


def cast(generator: Generator, dtype: torch.dtype) -> Generator:
    """``generator`` in ``dtype`` and laid out as channels_last: itself where it is of that type, else a copy."""
    if any(weights.dtype != dtype for weights in generator.parameters()):
        generator = copy.deepcopy(generator)
    return generator.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that ``run``, which has run before, takes: the shortest of a few times."""
    times: list[float] = []
    while len(times) < TIMED_RUNS and sum(times) < TIMED_SECONDS:
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _filled(picture: torch.Tensor) -> torch.Tensor:
    """As many copies of a picture as :data:`PROBE_PIXELS` hold, at least one."""
    return picture.repeat(max(1, PROBE_PIXELS // (picture.shape[2] * picture.shape[3])), 1, 1, 1)


def _middle(picture: torch.Tensor, multiple: int, least: int) -> torch.Tensor:
    """The middle of a picture of more than :data:`PROBE_PIXELS`, in sides that the network takes."""
    height, width = picture.shape[2:]
    share = min(1.0, (PROBE_PIXELS / (height * width)) ** 0.5)
    rows, columns = (max(least, int(side * share) // multiple * multiple) for side in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    return picture[:, :, top : top + rows, left : left + columns]
