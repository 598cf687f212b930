"""The optimiser step, and the exponential moving average (EMA) of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cgpipe.parallel import average_gradients


def adam(network: nn.Module, lr: float, betas: tuple[float, float] = (0.5, 0.999)) -> torch.optim.Adam:
    """Adam for the parameters that are not frozen, by default with the betas of CycleGAN (arXiv 1703.10593)."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.Adam(parameters, lr=lr, betas=betas, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what the optimiser of an interrupted run has gathered; the betas stay those of the recipe."""
    betas = [group["betas"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, betas, strict=True):
        group["betas"] = own


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of the next steps."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@contextmanager
def rate_from(optimizer: torch.optim.Optimizer | None, rate: torch.Tensor) -> Iterator[None]:
    """Makes steps that are recorded in its body read the learning rate from ``rate``, which may change later."""
    groups = optimizer.param_groups if optimizer is not None else []
    kept = [group["lr"] for group in groups]
    for group in groups:
        group |= {"lr": rate, "capturable": True}
    try:
        yield
    finally:
        for group, lr in zip(groups, kept, strict=True):
            group |= {"lr": lr, "capturable": False}


def update(
    optimizer: torch.optim.Optimizer, losses: dict[str, torch.Tensor], scaler: torch.amp.GradScaler | None = None
) -> None:
    """One optimiser step on the sum of the losses, which ``scaler`` keeps within the range of fp16.

    Several processes all-reduce their gradients to the mean.
    """
    optimizer.zero_grad(set_to_none=True)
    add_gradients(losses, scaler)
    apply_gradients(optimizer, scaler)


def add_gradients(
    losses: dict[str, torch.Tensor], scaler: torch.amp.GradScaler | None = None, *, share: float = 1.0
) -> None:
    """Adds the gradients of the sum of the losses, times ``share``, to those that the weights have."""
    loss = torch.stack(list(losses.values())).sum() * share
    (loss if scaler is None else scaler.scale(loss)).backward()


def apply_gradients(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
    """One optimiser step by the gradients that the weights have."""
    average_gradients(optimizer)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()


@torch.no_grad()
def average_weights(averages: nn.Module, network: nn.Module, *, decay: float, step: int) -> None:
    """Updates the EMA weights by ``decay``, which is smaller in the first steps."""
    # Otherwise the first steps would weigh on the average for a thousand more.
    decay = min(decay, step / (step + 10))
    torch._foreach_lerp_(list(averages.parameters()), list(network.parameters()), 1 - decay)
    for average, buffer in zip(averages.buffers(), network.buffers(), strict=True):
        average.copy_(buffer)
