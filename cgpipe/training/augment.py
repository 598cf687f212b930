"""DiffAugment (arXiv 2006.10738): random augmentation of all discriminator inputs, real and translated.

It keeps a discriminator from memorising a small set. Every augmentation is differentiable, so gradients reach the
generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional as F

from cgpipe.parallel import global_count, share
from cgpipe.training.draws import drawn


def diffaugment(pictures: torch.Tensor, kinds: Sequence[str], given: int = 0) -> torch.Tensor:
    """(N, C, H, W) in [-1, 1], each picture with its own random augmentation of every kind, of :data:`KINDS`.

    Args:
        given: how many of the first channels are another picture, which gets the same augmentation.
    """
    for kind in kinds:
        pictures = KINDS[kind](pictures, given)
    return pictures


def _colour(pictures: torch.Tensor, given: int) -> torch.Tensor:
    """Brightness changes by up to 0.5, saturation by a factor of 0 to 2, contrast by a factor of 0.5 to 1.5."""
    count = global_count(len(pictures))
    numbers = drawn(lambda: torch.rand(3, count, 1, 1, 1), pictures.device)
    brightness, saturation, contrast = (share(kind) for kind in numbers)
    parts = pictures.split([given, pictures.shape[1] - given], dim=1) if given else [pictures]
    changed = []
    for part in parts:
        bright = part + (brightness - 0.5)
        grey = bright.mean(dim=1, keepdim=True)
        saturated = grey + 2 * saturation * (bright - grey)
        middle = saturated.mean(dim=(1, 2, 3), keepdim=True)
        changed.append(middle + (contrast + 0.5) * (saturated - middle))
    return torch.cat(changed, dim=1)


def _translation(pictures: torch.Tensor, given: int) -> torch.Tensor:
    """Shifts by up to an eighth of the sides, padded with 0."""
    height, width = pictures.shape[-2:]
    down, across = round(height / 8), round(width / 8)
    padded = F.pad(pictures, (across, across, down, down))
    top, left = _integers(pictures, 0, 2 * down + 1), _integers(pictures, 0, 2 * across + 1)
    rows, columns = top + _range(height, pictures), left + _range(width, pictures)
    moved = padded.gather(2, rows[:, None, :, None].expand(-1, padded.shape[1], -1, padded.shape[3]))
    return moved.gather(3, columns[:, None, None].expand(-1, padded.shape[1], height, -1))


def _cutout(pictures: torch.Tensor, given: int) -> torch.Tensor:
    """Sets a random rectangle of half the sides to 0."""
    height, width = pictures.shape[-2:]
    top, left = (_integers(pictures, -side // 4, side - side // 4 + 1) for side in (height, width))
    rows, columns = _range(height, pictures), _range(width, pictures)
    in_rows, in_columns = (rows >= top) & (rows < top + height // 2), (columns >= left) & (columns < left + width // 2)
    return pictures * ~(in_rows[:, None, :, None] & in_columns[:, None, None])


def _integers(pictures: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """A random integer from ``low`` to ``high - 1`` for each of the pictures: (N, 1)."""
    count = global_count(len(pictures))
    return drawn(lambda: share(torch.randint(low, high, (count, 1))), pictures.device)


def _range(count: int, pictures: torch.Tensor) -> torch.Tensor:
    """The integers below ``count``, where the pictures are."""
    return torch.arange(count, device=pictures.device)


KINDS: Mapping[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "color": _colour,
    "translation": _translation,
    "cutout": _cutout,
}
