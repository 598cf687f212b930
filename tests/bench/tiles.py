"""Layers of cgpipe beside torch's own, in whole networks in fp32 on a CPU: what comes out, and with gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from measure import in_turn, repeated
from plain import with_torch_norms
from results import Row, Table
from settings import CannotMeasureError, Settings
from torch import nn

from cgpipe.engine.memory import keep_freed_memory
from cgpipe.networks import build_generator
from cgpipe.networks.cpu import accelerate
from cgpipe.networks.discriminators import PatchDiscriminator
from cgpipe.networks.initialise import initialise

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "ResNet-9": partial(build_generator, "resnet_9blocks"),
    "compact": partial(build_generator, "compact"),
    "compact-xs": partial(build_generator, "compact-xs"),
    "PatchGAN": PatchDiscriminator,
}
FIRST, LAST, OURS = "torch, channels first, ms", "torch, channels last, ms", "cgpipe, ms"
COLUMNS = {
    "network": "",
    "what": "",
    "threads": "",
    FIRST: ".1f",
    LAST: ".1f",
    OURS: ".1f",
    "times the faster one": ".2f",
    "largest difference": ".4f",
}
SECONDS = 2.0
"""How long each way runs at a time, at least."""


def measure_tiles(settings: Settings) -> list[Table]:
    """Every network with one thread and with all."""
    if settings.device.type != "cpu":
        raise CannotMeasureError("convolutions go by tiles on a CPU alone")
    keep_freed_memory()
    side, threads = 32 if settings.tiny else 256, torch.get_num_threads()
    rows = [row for name in NETWORKS for count in sorted({1, threads}) for row in _rows(name, side, count, settings)]
    torch.set_num_threads(threads)
    notes = [
        f"One picture of {side}x{side}, random weights, fp32. With gradients: those of all weights too.",
        "Differences are those of the results from torch's, in levels of 255.",
    ]
    return [Table(title="Layers of cgpipe beside torch's", columns=COLUMNS, rows=rows, notes=notes)]


def _rows(name: str, side: int, threads: int, settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    plain = NETWORKS[name]().eval()
    initialise(plain)
    theirs, ours = with_torch_norms(copy.deepcopy(plain)), accelerate(copy.deepcopy(plain), frozen=True)
    networks = {
        FIRST: theirs,
        LAST: plain.to(memory_format=torch.channels_last),
        OURS: ours.to(memory_format=torch.channels_last),
    }
    x = torch.rand(1, 3, side, side) * 2 - 1
    seen = {way: x if way == FIRST else x.to(memory_format=torch.channels_last) for way in networks}
    with torch.inference_mode():
        difference = float((ours(seen[OURS]) - theirs(x)).abs().max()) * 127.5
    for what, run in (("translating", _translate), ("with gradients", _learn)):
        ways = {
            way: repeated(partial(_often, run, network, seen[way]), _seconds(settings), settings.device)
            for way, network in networks.items()
        }
        times = {way: 1000 / runs.rate.median for way, runs in in_turn(ways, settings.times(3)).items()}
        yield {
            "network": name,
            "what": what,
            "threads": threads,
            **times,
            "times the faster one": min(times[FIRST], times[LAST]) / times[OURS],
            "largest difference": difference,
        }


def _seconds(settings: Settings) -> float:
    return 0.01 if settings.tiny else SECONDS


def _often(run: Callable[[nn.Module, torch.Tensor], None], network: nn.Module, x: torch.Tensor, count: int) -> None:
    for _ in range(count):
        run(network, x)


@torch.inference_mode()
def _translate(network: nn.Module, x: torch.Tensor) -> None:
    network(x)


def _learn(network: nn.Module, x: torch.Tensor) -> None:
    network(x).square().mean().backward()
