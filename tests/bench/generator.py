"""The generator alone: cgpipe's engines, other ways to run the same network, and the limit of the machine."""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import Any, get_args

import numpy as np
import torch
from material import photo
from measure import Runs, Way, in_turn, repeated, tell
from peers import PEERS, REFERENCE, Peer
from results import Aim, Row, Table
from settings import CannotMeasureError, Settings
from subjects import SUBJECTS, Subject

import cgpipe
from cgpipe.engine.autotune import cpu_multiplies_bf16
from cgpipe.engine.backends import Engine
from cgpipe.models import load_any

SECONDS = {"cpu": 2.0, "cuda": 0.5}
"""How long each way runs at a time, at least."""
SLOW_TO_START = ("compile", "onnx", "openvino")
MINUTES_TO_START = ("max-autotune", "engine compile")
OURS = "cgpipe"
BF16 = "OpenVINO bf16"

COLUMNS = {
    "way": "",
    "dtype": "",
    "frames a second": ".2f",
    "lowest": ".2f",
    "highest": ".2f",
    "of the reference": ".2f",
    "of the limit": ".0%",
    "mean difference": ".2f",
    "largest": ".0f",
}


def measure_generator(which: str, settings: Settings) -> list[Table]:
    """One network at 256x256."""
    subject = SUBJECTS[which](settings.folder, tiny=settings.tiny)
    side = 64 if settings.tiny else 256
    pixels = photo(0, side, side)
    example = _as_input(pixels).to(settings.device)
    peers, missing = _peers(subject, pixels, example, settings)
    seconds = 0.01 if settings.tiny else SECONDS[settings.device.type] / (2 if settings.brief else 1)
    ways: dict[str, Way] = {
        name: repeated(peer.many, seconds, settings.device, batch=peer.batch) for name, peer in peers.items()
    }
    operations = subject.operations(side, side)
    limits = {f"limit: matrix product, {kind}": kind for kind in _types(settings.device)}
    products = {name: _product(kind, settings) for name, kind in limits.items()}
    measured = in_turn(ways | products, settings.times(5))
    rates = {limits[name]: 2 * _side(settings) ** 3 * measured[name].rate.median for name in limits}
    differences = _differences(peers, example)
    rows = [
        _row(name, measured, peer.dtype, rates.get(peer.dtype, 0.0) / operations) | differences[name]
        for name, peer in peers.items()
    ]
    rows += [
        {"way": name, "dtype": kind, "frames a second": rates[kind] / operations, "gigaflops": rates[kind] / 1e9}
        for name, kind in limits.items()
    ]
    table = Table(
        title=f"Generator alone: {subject.title}, {side}x{side}",
        columns=COLUMNS,
        rows=rows,
        notes=[
            f"One picture takes {operations / 1e9:.2f} GFLOP, counted from the layers.",
            f"The limit: a {_side(settings)}^3 matrix product of the same type, measured in the same run.",
            "Differences are from the reference's result, in levels of 255; rounding alone makes a mean one of 0.25.",
            "cgpipe takes and gives 8-bit pixels, the others floats.",
            *(f"Left out: {name}: {reason}." for name, reason in missing.items()),
        ],
    )
    if which == "resnet" and settings.device.type == "cpu" and not settings.tiny:
        table.aims = _aims(measured, peers, rates, operations)
    return [table]


def _peers(
    subject: Subject, pixels: np.ndarray, example: torch.Tensor, settings: Settings
) -> tuple[dict[str, Peer], dict[str, str]]:
    """Every way that runs here, and for every other one the reason why not."""
    ready: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    makers: dict[str, Any] = {
        name: lambda make=make: make(copy.deepcopy(subject.plain).to(settings.device), example)
        for name, make in PEERS.items()
    }
    makers |= {
        name: lambda options=options, batch=batch: _ours(subject, pixels, batch, settings, options)
        for name, (batch, options) in _choices(settings.device).items()
    }
    for name, make in makers.items():
        if reason := _too_slow(name.lower(), settings):
            missing[name] = reason
            continue
        tell(f"  preparing {name}")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", cgpipe.CgpipeWarning)
                peer = make()
                peer.once(example)
        except (CannotMeasureError, cgpipe.CgpipeError) as error:
            missing[name] = str(error)
            continue
        said = [str(warning.message) for warning in caught if issubclass(warning.category, cgpipe.CgpipeWarning)]
        if said:
            missing[name] = " ".join(said)
        else:
            ready[name] = peer
    return ready, missing


def _too_slow(way: str, settings: Settings) -> str:
    """Why there is no time to prepare a way; empty if there is."""
    slow = any(word in way for word in SLOW_TO_START)
    if settings.tiny and slow:
        return "too slow to start for --tiny"
    if settings.brief and any(word in way for word in MINUTES_TO_START):
        return "too slow to start for --quick"
    return "no time was left" if settings.late and slow else ""


def _choices(device: torch.device) -> dict[str, tuple[int, dict[str, Any]]]:
    """The ways to use cgpipe that are compared: the batch size and the options of each, by name."""
    choices: dict[str, tuple[int, dict[str, Any]]] = {OURS: (1, {})}
    choices |= {f"{OURS} --engine {engine}": (1, {"engine": engine}) for engine in get_args(Engine) if engine != "auto"}
    if device.type == "cuda":
        choices |= {f"{OURS} --precision {kind}": (1, {"precision": kind}) for kind in ("fp32", "fp16", "bf16")}
        choices |= {f"{OURS} --batch-size {size}": (size, {}) for size in (8, 32)}
    return choices


def _ours(subject: Subject, pixels: np.ndarray, size: int, settings: Settings, options: dict[str, Any]) -> Peer:
    translate = cgpipe.Translator(load_any(subject.file), device=str(settings.device), size="full", **options)
    stack = torch.from_numpy(np.repeat(pixels[None], size, 0))
    batch = cgpipe.Batch(pixels=stack, origins=(None,) * size)
    translate(pixels)  # what is chosen by trying, is chosen on the first picture

    def many(count: int) -> None:
        for _ in translate.stream(itertools.repeat(batch, count)):
            pass

    def once(x: torch.Tensor) -> torch.Tensor:
        return _as_input(translate(pixels))

    return Peer(dtype=translate.precision, once=once, many=many, batch=size)


def _as_input(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) float in [-1, 1], as the CycleGAN repositories do it."""
    return (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1).contiguous()


def _differences(peers: dict[str, Peer], example: torch.Tensor) -> dict[str, dict[str, float]]:
    """How far each way's result is from the reference's, in levels of 255."""
    results = {name: peer.once(example).float().cpu() * 127.5 for name, peer in peers.items()}
    gaps = {name: (result - results[REFERENCE]).abs() for name, result in results.items()}
    return {name: {"mean difference": float(gap.mean()), "largest": float(gap.max())} for name, gap in gaps.items()}


def _types(device: torch.device) -> dict[str, torch.dtype]:
    types = {"fp32": torch.float32}
    if device.type == "cuda" or cpu_multiplies_bf16():  # where it is emulated, a product takes 20 s
        types["bf16"] = torch.bfloat16
    return types | ({"fp16": torch.float16} if device.type == "cuda" else {})


def _side(settings: Settings) -> int:
    return 128 if settings.tiny else 8192 if settings.device.type == "cuda" else 2048


def _product(kind: str, settings: Settings) -> Way:
    """Products of two square matrices."""
    side, dtype = _side(settings), _types(settings.device)[kind]
    left, right = (torch.randn(side, side, device=settings.device).to(dtype) for _ in range(2))

    def many(count: int) -> None:
        for _ in range(count):
            torch.mm(left, right)

    return repeated(many, 0.01 if settings.tiny else SECONDS[settings.device.type] / 2, settings.device)


def _row(name: str, measured: dict[str, Runs], dtype: str, limit: float) -> Row:
    rate = measured[name].rate
    return {
        "way": name,
        "dtype": dtype,
        "frames a second": rate.median,
        "lowest": rate.lowest,
        "highest": rate.highest,
        "of the reference": rate.median / measured[REFERENCE].rate.median,
        "of the limit": rate.median / limit if limit else None,
    }


def _aims(measured: dict[str, Runs], peers: dict[str, Peer], rates: dict[str, float], operations: int) -> list[Aim]:
    ours = measured[OURS].rate.median
    kind = "bf16" if "bf16" in rates else "fp32"
    aims = [Aim(f"cgpipe, of the {kind} matrix-product limit", ours * operations / rates[kind], 0.95, ".0%")]
    if BF16 in peers:
        best = max(measured[name].rate.median for name in peers if name.startswith(BF16))
        aims.append(Aim("cgpipe, times OpenVINO bf16 at its best", ours / best, 1.0))
    return aims
