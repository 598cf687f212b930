"""DiffAugment (arXiv 2006.10738): random augmentation of all discriminator inputs, real and translated.

It keeps a discriminator from memorising a small set. Every augmentation is differentiable, so gradients reach the
generator. Random numbers come from the CPU's generator, whose state a run saves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch.nn import functional as F

from cgpipe.parallel import global_count, share


def diffaugment(pictures: torch.Tensor, kinds: Sequence[str]) -> torch.Tensor:
    """(N, 3, H, W) in [-1, 1], each picture with its own random augmentation of every kind, of :data:`KINDS`."""
    for kind in kinds:
        pictures = KINDS[kind](pictures)
    return pictures


def _colour(pictures: torch.Tensor) -> torch.Tensor:
    """Brightness changes by up to 0.5, saturation by a factor of 0 to 2, contrast by a factor of 0.5 to 1.5."""
    numbers = torch.rand(3, global_count(len(pictures)), 1, 1, 1).to(pictures.device)
    brightness, saturation, contrast = (share(kind) for kind in numbers)
    pictures = pictures + (brightness - 0.5)
    grey = pictures.mean(dim=1, keepdim=True)
    pictures = grey + 2 * saturation * (pictures - grey)
    middle = pictures.mean(dim=(1, 2, 3), keepdim=True)
    contrasted: torch.Tensor = middle + (contrast + 0.5) * (pictures - middle)
    return contrasted


def _translation(pictures: torch.Tensor) -> torch.Tensor:
    """Shifts by up to an eighth of the sides, padded with 0."""
    height, width = pictures.shape[-2:]
    most = (round(height / 8), round(width / 8))
    padded = F.pad(pictures, (most[1], most[1], most[0], most[0]))
    tops, lefts = (share(torch.randint(0, 2 * side + 1, (global_count(len(pictures)),))).tolist() for side in most)
    windows = zip(padded, tops, lefts, strict=True)
    return torch.stack([picture[:, top : top + height, left : left + width] for picture, top, left in windows])


def _cutout(pictures: torch.Tensor) -> torch.Tensor:
    """Sets a random rectangle of half the sides to 0."""
    height, width = pictures.shape[-2:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    count = (global_count(len(pictures)), 1, 1)
    tops, lefts = (share(torch.randint(-side // 4, side - side // 4 + 1, count)) for side in (height, width))
    hole = (rows >= tops) & (rows < tops + height // 2) & (columns >= lefts) & (columns < lefts + width // 2)
    return pictures * ~hole[:, None].to(pictures.device)


KINDS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "color": _colour,
    "translation": _translation,
    "cutout": _cutout,
}
