"""Chooses a network's dtype by measuring, with cached results, and the batch size."""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import log2

import torch
from platformdirs import user_cache_path

from cgpipe.errors import UsageError
from cgpipe.networks import Generator
from cgpipe.options import Precision
from cgpipe.storage import atomic_write

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

CACHE_FILE = "trials.json"

TOLERANCE = 2.0 / 255
"""Mean error against fp32, as a fraction of white, up to which a half-precision dtype is accepted."""
MIN_SPEEDUP = 1.1
"""How many times as fast as fp32 a dtype must be on a CPU."""

PROBE_PIXELS = 1 << 20
"""Pixels of a large picture that a trial uses: speed per pixel and error are the same for the rest."""
SMALLEST_PROBE = 64
"""Shortest side of a trial picture: instance norm is undefined where a network reduces a tiny one to a pixel."""
MAX_BATCH = 16
"""Most pictures in a batch: larger ones are a tenth faster on a large GPU, but delay the first picture."""
BATCH_PIXELS = 1 << 21
"""Pixels that the generator sees in a batch on a GPU."""
BATCH_SOURCE_PIXELS = 1 << 24
"""Pixels of the original pictures in a batch on a GPU, whose copies take pinned memory."""

TIMED_RUNS = 3
TIMED_SECONDS = 0.5
"""A run is timed until either limit is reached; one that takes longer is timed once."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A dtype against fp32: its speed as a ratio (None if not timed), its mean error as a fraction of white."""

    speed: float | None
    error: float

    @property
    def pays(self) -> bool:
        return (self.speed is None or self.speed > MIN_SPEEDUP) and self.error <= TOLERANCE

    def __str__(self) -> str:
        error = f"mean error {100 * self.error:.2f}% of white"
        return error if self.speed is None else f"{self.speed:.2f} times as fast as fp32, {error}"


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raises UsageError if ``device`` cannot compute in this dtype."""
    if precision == "fp16" and device.type == "cpu":
        raise UsageError("A CPU cannot compute in fp16: use --precision bf16, fp32 or auto.")


def choose_precision(generator: Generator, picture: torch.Tensor) -> tuple[Precision, str]:
    """The dtype to run ``generator`` in, and why.

    A GPU uses fp16, or bf16 if fp16 overflows, or fp32 if neither is accurate for this network and picture. A CPU uses
    bf16 if the processor has instructions for it and a trial finds it faster and accurate. Results are cached.

    Args:
        generator: in fp32, on its final device.
        picture: (N, 3, H, W) in [-1, 1], of the size at which the generator runs, on that device.
    """
    on_cpu = picture.device.type == "cpu"
    if on_cpu and not cpu_multiplies_bf16():
        return "fp32", "this processor has no bf16 instructions"
    candidates: list[Precision] = ["bf16"] if on_cpu else ["fp16", "bf16"]
    tried = []
    for precision in candidates:
        trial = _cached_trial(generator, precision, picture)
        tried.append(f"{precision}: {trial}")
        if trial.pays:
            return precision, "; ".join(tried)
    return "fp32", "; ".join(tried)


def cpu_multiplies_bf16() -> bool:
    """Whether the processor has bf16 instructions; elsewhere torch emulates them, at a tenth of the speed.

    True if torch cannot tell: a trial then decides.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not hasattr(torch.cpu, "get_capabilities"):
        return True
    flags = torch.cpu.get_capabilities()
    return any(flags.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _cached_trial(generator: Generator, precision: Precision, picture: torch.Tensor) -> Trial:
    key = f"{precision}: {trial_key(generator, picture.device, picture.shape)}"
    match recall(key):
        case [speed, error]:
            return Trial(speed=speed or None, error=error)
    trial = compare(generator, DTYPES[precision], picture)
    remember(key, [trial.speed or 0.0, trial.error])
    return trial


@torch.inference_mode()
def compare(generator: Generator, dtype: torch.dtype, picture: torch.Tensor) -> Trial:
    """Runs ``generator`` on ``picture`` in fp32 and in ``dtype``; infinite or undefined values count as error 1."""
    seen = _probe(picture[:1], generator)
    outputs, seconds = [], []
    for kind in (torch.float32, dtype):
        network = cast(generator, kind)
        x = seen.to(dtype=kind, memory_format=torch.channels_last)
        outputs.append(network(x).float())
        if x.device.type == "cpu":
            seconds.append(timed(lambda network=network, x=x: network(x), x.device))  # type: ignore[misc]
    error = float((outputs[0] - outputs[1]).abs().mean()) / 2
    return Trial(speed=seconds[0] / seconds[1] if seconds else None, error=error if error == error else 1.0)


def cast(generator: Generator, dtype: torch.dtype) -> Generator:
    """``generator`` in ``dtype`` and channels_last: itself if it has that dtype, else a copy."""
    if any(weights.dtype != dtype for weights in generator.parameters()):
        generator = copy.deepcopy(generator)
    return generator.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that ``run``, already warmed up, takes: the best of a few runs."""
    times: list[float] = []
    while len(times) < TIMED_RUNS and sum(times) < TIMED_SECONDS:
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _probe(picture: torch.Tensor, generator: Generator) -> torch.Tensor:
    """The middle of a large picture, or a small one repeated, with sides that the network accepts."""
    multiple = generator.multiple
    smallest = max(generator.least_side, -(-SMALLEST_PROBE // multiple) * multiple)
    down, right = (-(-smallest // side) for side in picture.shape[2:])
    picture = picture.repeat(1, 1, down, right)
    height, width = picture.shape[2:]
    share = min(1.0, (PROBE_PIXELS / (height * width)) ** 0.5)
    rows, columns = (max(smallest, int(side * share) // multiple * multiple) for side in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    return picture[:, :, top : top + rows, left : left + columns]


def batch_size(device: torch.device, source_pixels: int, seen_pixels: int) -> int:
    """How many pictures to put in a batch.

    On a CPU one: pictures run side by side, one thread each, and larger batches were no faster for any network. On a
    GPU as many as keep it busy.

    Args:
        source_pixels: pixels of a picture.
        seen_pixels: its pixels at the generator's working size.
    """
    if device.type == "cpu":
        return 1
    return max(1, min(MAX_BATCH, BATCH_PIXELS // seen_pixels, BATCH_SOURCE_PIXELS // source_pixels))


def recall(key: str) -> list[float] | None:
    """The figures that were cached under ``key``."""
    figures = _read().get(key)
    fits = isinstance(figures, list) and all(isinstance(figure, int | float) for figure in figures)
    return figures if fits else None


def remember(key: str, figures: Sequence[float]) -> None:
    """Caches ``figures`` for the next run; if the folder cannot be written, the next run measures again."""
    path = user_cache_path("cgpipe") / CACHE_FILE
    with suppress(OSError), atomic_write(path) as partial:
        partial.write_text(json.dumps(_read() | {key: list(figures)}, indent=1), encoding="utf-8")


def trial_key(generator: Generator, device: torch.device, shape: Sequence[int]) -> str:
    """Everything that a measurement depends on: the machine, the model with its weights, and the size.

    Sizes are rounded to powers of two in area, so that a folder of many sizes is not measured again and again.
    """
    size = round(log2(max(1, shape[-2] * shape[-1])))
    return f"{_machine(device)}, model {_fingerprint(generator)}, 2^{size} pixels"


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    name = torch.cpu.get_capabilities().get("cpu_name", "") if hasattr(torch.cpu, "get_capabilities") else ""
    return f"torch {torch.__version__}, {name or device.type}, threads {torch.get_num_threads()}"


def _fingerprint(generator: Generator) -> str:
    digest = hashlib.blake2b(str(generator).encode(), digest_size=8)
    for weights in generator.state_dict().values():
        digest.update(weights.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _read() -> dict[str, list[float]]:
    try:
        return dict(json.loads((user_cache_path("cgpipe") / CACHE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
