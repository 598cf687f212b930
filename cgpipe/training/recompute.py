"""Activation checkpointing (arXiv 1604.06174): less memory for more computation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Forward = Callable[[torch.Tensor], torch.Tensor]


def recompute_activations(network: nn.Module) -> None:
    """Makes a network keep only the inputs of its blocks for the backward pass, and compute the rest again there.

    Gradients stay the same. Batch norm would count the statistics of a batch twice: it is not supported.
    """
    for module in network.modules():
        if isinstance(module, nn.ReLU | nn.LeakyReLU):
            module.inplace = False  # the input of a block must stay as it was
    for block in _blocks(network):
        block.forward = partial(_recomputed, block.forward)


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The children of a network and, of sequences of blocks, each block."""
    for child in network.children():
        if isinstance(child, nn.Sequential) and any(True for inner in child for _ in inner.children()):
            yield from child
        elif any(True for _ in child.parameters()):
            yield child


def _recomputed(forward: Forward, x: torch.Tensor) -> torch.Tensor:
    if not torch.is_grad_enabled():
        return forward(x)
    made: torch.Tensor = checkpoint(forward, x, use_reentrant=False)
    return made
