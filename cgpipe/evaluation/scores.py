"""Figures from the features and logits of a classifier; deterministic, in double precision."""

from __future__ import annotations

import torch
from torch import Tensor

from cgpipe.errors import DataError

_ROWS = 1024
"""Rows of a kernel matrix held at once: 50,000 pictures stay within a few hundred MB."""


def kid(features: Tensor, reference: Tensor) -> float:
    """Kernel distance between two sets of features, (N, D) and (M, D): the unbiased squared maximum mean discrepancy.

    The kernel is ``(x.y / D + 1) ** 3`` (arXiv 1801.01401). All pictures enter the estimate, not random subsets, so
    that it is the same every time. Sets drawn from one distribution give 0 on average, and so now and then less than 0.
    Tables show it times 1000.

    Raises:
        DataError: a set holds fewer than two pictures.
    """
    x, y = _double(features, reference)
    return _mean_kernel(x) + _mean_kernel(y) - 2 * _sum_kernel(x, y) / (len(x) * len(y))


def fid(features: Tensor, reference: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features, (N, D) and (M, D) (arXiv 1706.08500).

    The trace of the root of the covariances' product is the nuclear norm of the product of the centred features, which
    is exact for singular covariances too, as those of fewer than D pictures are. It is biased upwards for small sets:
    compare it only between sets of the same counts.

    Raises:
        DataError: a set holds fewer than two pictures.
    """
    x, y = _double(features, reference)
    means = (x.mean(0) - y.mean(0)).square().sum()
    x, y = _factor(x), _factor(y)
    root = torch.linalg.matrix_norm(x @ y.T, "nuc")
    return float(means + x.square().sum() + y.square().sum() - 2 * root)


def top1_share(logits: Tensor, class_index: int) -> float:
    """The share, 0 to 1, of pictures (N, classes) whose likeliest class is this one."""
    return (logits.argmax(dim=1) == class_index).double().mean().item()


def _double(features: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    for name, values in (("measured", features), ("reference", reference)):
        if len(values) < 2:
            raise DataError(f"The {name} set holds {len(values)} pictures. KID and FID need at least two.")
    return features.double(), reference.double()


def _sum_kernel(x: Tensor, y: Tensor) -> float:
    parts: tuple[Tensor, ...] = x.split(_ROWS)
    return sum(((rows @ y.T) / x.shape[1] + 1).pow(3).sum().item() for rows in parts)


def _mean_kernel(x: Tensor) -> float:
    """Over all pairs of different rows."""
    diagonal = (x.square().sum(1) / x.shape[1] + 1).pow(3).sum().item()
    return (_sum_kernel(x, x) - diagonal) / (len(x) * (len(x) - 1))


def _factor(x: Tensor) -> Tensor:
    """A matrix of at most D rows whose Gram matrix is the covariance of the rows of ``x``."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    factor: Tensor = torch.linalg.qr(centred, mode="r").R
    return factor
