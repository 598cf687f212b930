"""Ways to run a generator: as it stands, compiled, or as TorchScript."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from typing import Literal

import torch

from cgpipe.errors import CgpipeWarning
from cgpipe.networks import Generator

Engine = Literal["eager", "compile", "torchscript"]
Run = Callable[[torch.Tensor], torch.Tensor]
"""Takes and gives (N, 3, H, W) in the generator's own type."""


def _eager(generator: Generator) -> Run:
    return generator


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` can work: on a CPU it needs a C++ compiler. Warns where there is none."""
    found = device.type != "cpu" or bool(shutil.which("c++") or shutil.which("g++"))
    if not found:
        warnings.warn(
            "Compiling needs a C++ compiler, and there is none: going on without.", CgpipeWarning, stacklevel=2
        )
    return found


def _compile(generator: Generator) -> Run:
    if not can_compile(next(generator.parameters()).device):
        return generator
    compiled: Run = torch.compile(generator, dynamic=None)
    return compiled


def _torchscript(generator: Generator) -> Run:
    first = next(generator.parameters())
    side = 4 * generator.multiple
    example = torch.zeros((1, 3, side, side), device=first.device, dtype=first.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated at every step.
        traced = torch.jit.trace(generator, example.to(memory_format=torch.channels_last))
        frozen: Run = torch.jit.freeze(traced)
    return frozen


ENGINES: Mapping[Engine, Callable[[Generator], Run]] = {
    "eager": _eager,
    "compile": _compile,
    "torchscript": _torchscript,
}


def prepare(generator: Generator, engine: Engine) -> Run:
    """``generator``, which is in its final type and on its device, ready to run by ``engine``."""
    return ENGINES[engine](generator)
