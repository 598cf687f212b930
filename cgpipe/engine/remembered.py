"""What was measured on this machine, so that it need not be measured again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from math import log2

import torch
from platformdirs import user_cache_path

from cgpipe.networks import Generator
from cgpipe.storage import atomic_write

FILE = "trials.json"


def recall(key: str) -> list[float] | None:
    """The figures that were kept under ``key``."""
    figures = _read().get(key)
    fits = isinstance(figures, list) and all(isinstance(figure, int | float) for figure in figures)
    return figures if fits else None


def remember(key: str, figures: Sequence[float]) -> None:
    """Keeps ``figures`` for the next run; where the folder cannot be written, the next run measures again."""
    path = user_cache_path("cgpipe") / FILE
    with suppress(OSError), atomic_write(path) as partial:
        partial.write_text(json.dumps(_read() | {key: list(figures)}, indent=1), encoding="utf-8")


def trial_key(generator: Generator, device: torch.device, shape: Sequence[int]) -> str:
    """What a measurement depends on: the machine, the model with its weights, and the size.

    Sizes whose areas lie within the same power of two count as one: a folder of many sizes is not tried over and over.
    """
    size = round(log2(max(1, shape[-2] * shape[-1])))
    return f"{_machine(device)}, model {_fingerprint(generator)}, 2^{size} pixels"


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    name = torch.cpu.get_capabilities().get("cpu_name", "") if hasattr(torch.cpu, "get_capabilities") else ""
    return f"torch {torch.__version__}, {name or 'CPU'}, threads {torch.get_num_threads()}"


def _fingerprint(generator: Generator) -> str:
    digest = hashlib.blake2b(str(generator).encode(), digest_size=8)
    for weights in generator.state_dict().values():
        digest.update(weights.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _read() -> dict[str, list[float]]:
    try:
        return dict(json.loads((user_cache_path("cgpipe") / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
