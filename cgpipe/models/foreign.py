"""Generators from other projects: recognised by what is in the file, and converted into cgpipe's own networks.

Read are the ResNets and U-Nets of pytorch-CycleGAN-and-pix2pix and of cycleGAN-PyTorch, the ResNets of CUT with their
low-pass filters, and the ResNets of mmgeneration and mmagic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from cgpipe.errors import ModelError, UsageError
from cgpipe.models.checkpoint import load_checkpoint
from cgpipe.models.layouts import Layout, recognise
from cgpipe.networks import Generator, build_generator

Direction = Literal["AtoB", "BtoA"]
Weights = dict[str, torch.Tensor]

_BOTH_WAYS: Mapping[Direction, str] = {"AtoB": "Gba", "BtoA": "Gab"}  # that project names the domain painted first
_STATISTICS = re.compile(r"\.norm\d?\.(running_mean|running_var|num_batches_tracked)$")


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """A generator from another project, ready for use.

    Args:
        architecture: its name in :data:`cgpipe.networks.GENERATORS`.
        settings: the keyword arguments that build it again.
        generator: its weights in float32 on the CPU, ready for inference (``eval``, no gradients).
        recognised_as: the project and the network that the file comes from.
        notes: what was chosen or changed on the way, a sentence each, for the user.
    """

    architecture: str
    settings: Mapping[str, Any]
    generator: Generator
    recognised_as: str
    notes: tuple[str, ...]


def read_foreign(
    path: Path, *, direction: Direction | None = None, target: str | None = None, batch_statistics: bool = False
) -> ForeignModel:
    """The generator in a checkpoint of another project.

    Args:
        path: what ``torch.save`` or safetensors wrote; nothing in it is ever run.
        direction: which generator to take from a file of cycleGAN-PyTorch, which holds both.
        target: the domain that the generator paints: which one to take from a file of mmgeneration with several.
        batch_statistics: normalise a network with batch norm by each picture's own statistics instead of those
            gathered in training, as the projects do whose test stays in training mode.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file cannot be read, holds no generator of a known kind, or does not fit that kind.
        UsageError: the file holds several generators, and neither ``direction`` nor ``target`` picks one.
    """
    weights, choice = _one_generator(path, load_checkpoint(path), direction, target)
    try:
        layout = recognise(weights)
        weights, changes = _renamed(weights, layout), [*choice]
        ...
    except _Misfit ...
