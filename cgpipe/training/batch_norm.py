"""Batch norm over the pictures of all processes."""

from __future__ import annotations

import torch
from torch import nn

from cgpipe.parallel import all_reduce_sum, process_count


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation (arXiv 1502.03167) of (N, C, H, W) with the statistics of all processes' pictures.

    Every process must have the same number of pictures. torch's own SyncBatchNorm works only on GPUs.
    """

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.float()
        mean = _mean_of_all(wide.mean((0, 2, 3)))
        distance = wide - mean[:, None, None]
        variance = _mean_of_all(distance.square().mean((0, 2, 3)))
        self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1] * process_count())
        scale = self.weight * (variance + self.eps).rsqrt()
        return (distance * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        self.num_batches_tracked.add_(1)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its backward pass sums the gradients of all processes."""

    @staticmethod
    def forward(ctx: object, mine: torch.Tensor) -> torch.Tensor:
        return all_reduce_sum(mine.clone())

    @staticmethod
    def backward(ctx: object, *gradients: torch.Tensor) -> torch.Tensor:
        return all_reduce_sum(gradients[0].clone())


def _mean_of_all(mine: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _Sum.apply(mine)
    return total / process_count()


def synchronise(network: nn.Module) -> None:
    """Replaces every batch norm in ``network`` by a :class:`SynchronisedBatchNorm` with the same weights and names."""
    for name, child in network.named_children():
        if type(child) is nn.BatchNorm2d:
            synchronised = SynchronisedBatchNorm(child.num_features, child.eps, child.momentum)
            synchronised.load_state_dict(child.state_dict())
            setattr(network, name, synchronised)
        else:
            synchronise(child)
