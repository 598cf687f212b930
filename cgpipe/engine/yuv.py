"""Planar YUV where the network runs.

:func:`to_rgb` and :func:`from_rgb` give what :mod:`cgpipe.media.yuv` gives, in torch. They round where OpenCV rounds,
so that a clip comes out the same whichever way it goes; where OpenCV was built without vector instructions, values
differ by one.

Frames that a processor reduces for the generator need no RGB of their own size. The generator's input comes from
reduced planes (:func:`seen_at`); as the conversion is linear, the change is converted at the working size and added to
the planes (:func:`add_change`), which have half as many values as RGB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from cgpipe.engine.scale import change_of
from cgpipe.media.planar import Planar
from cgpipe.media.yuv import from_rgb_matrix, to_rgb_matrix

Plane = NDArray[Any]

_HALF = np.array([0, 0, 0, 0.5])


def to_rgb(planes: torch.Tensor, planar: Planar) -> torch.Tensor:
    """Frames (N, 1, bytes, 1), laid out as ``planar`` says, as RGB (N, H, W, 3); both uint8."""
    luma, *chroma = (plane.float() for plane in _parts(planes, planar))
    matrix = to_rgb_matrix(planar.matrix, planar.full_range)
    return torch.stack([*_mixed([luma, *(_enlarged(plane, planar) for plane in chroma)], matrix)], -1)


def from_rgb(pixels: torch.Tensor, planar: Planar) -> torch.Tensor:
    """RGB frames (N, H, W, 3) as planes (N, 1, bytes, 1), laid out as ``planar`` says; both uint8."""
    matrix = from_rgb_matrix(planar.matrix, planar.full_range)
    luma, *chroma = _mixed([pixels[..., channel].float() for channel in range(3)], matrix)
    parts = [luma, *(_reduced(plane, planar) for plane in chroma)]
    return torch.cat([part.flatten(1) for part in parts], 1)[:, None, :, None]


def seen_at(size: tuple[int, int], planes: torch.Tensor, planar: Planar) -> torch.Tensor:
    """Frames (N, 1, bytes, 1), reduced to a size, as float RGB (N, 3, *size) in 0 to 255."""
    # In floating point: rounded planes would tint what the network sees.
    parts = [part[:, None].float() for part in _parts(planes, planar)]
    small = torch.cat([F.interpolate(part, size, mode="bilinear", antialias=True) for part in parts], 1)
    matrix = to_rgb_matrix(planar.matrix, planar.full_range)
    return _product(matrix, torch.cat([small, torch.ones_like(small[:, :1])], 1)).clamp_(0, 255)


def add_change(
    planes: torch.Tensor, planar: Planar, seen: torch.Tensor, translated: torch.Tensor, strength: float
) -> torch.Tensor:
    """:func:`cgpipe.engine.scale.add_change` to planes (N, 1, bytes, 1), on a CPU.

    Args:
        seen: the generator's input, RGB (N, 3, h, w), float in 0 to 255.
        translated: its output, likewise.
    """
    change, lost = change_of(seen, translated, strength, 255)
    # What is taken away leaves black, not 0: the last column of the matrix.
    changes = _product(from_rgb_matrix(planar.matrix, planar.full_range), torch.cat([change, lost], 1))
    result = torch.empty_like(planes)
    for index in range(len(planes)):
        for before, after, added in zip(_parts(planes, planar), _parts(result, planar), changes[index], strict=True):
            _add(before[index].numpy(), added.numpy(), lost[index, 0].numpy(), after[index].numpy())
    return result


def _add(plane: Plane, change: Plane, lost: Plane, result: Plane) -> None:
    """Writes ``plane + change - lost * plane``, of which change and lost are at another size."""
    size = plane.shape[::-1]
    way = cv2.INTER_CUBIC if len(plane) >= len(change) else cv2.INTER_AREA
    added = cv2.resize(change, size, interpolation=way)
    if lost.any():
        added = np.subtract(added, plane * cv2.resize(lost, size, interpolation=way))
    cv2.add(plane, added, dst=result, dtype=cv2.CV_8U)


def _product(matrix: NDArray[np.float64], channels: torch.Tensor) -> torch.Tensor:
    """The product of a matrix (3, 4) with the channels of (N, 4, h, w)."""
    weights = torch.from_numpy(matrix).float()
    product: torch.Tensor = (weights @ channels.flatten(2)).unflatten(2, channels.shape[2:])
    return product


def _parts(planes: torch.Tensor, planar: Planar) -> list[torch.Tensor]:
    """Views of the planes, each (N, height, width)."""
    parts = planes.flatten(1).split(planar.sizes, 1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, planar.shapes, strict=True)]


def _mixed(channels: Sequence[torch.Tensor], matrix: NDArray[np.float64]) -> Iterator[torch.Tensor]:
    """The products of a matrix (3, 4) with three channels and 1, as uint8."""
    # OpenCV's arithmetic of 10 bits behind the point, which float32 holds exactly.
    for first, second, third, offset in (np.rint((matrix + _HALF) * 1024) / 1024).tolist():
        mixed = (channels[0] * first).add_(channels[1], alpha=second).add_(channels[2], alpha=third)
        yield mixed.add_(offset).floor_().clamp_(0, 255).to(torch.uint8)


def _enlarged(chroma: torch.Tensor, planar: Planar) -> torch.Tensor:
    """Chroma (N, h, w) at the size of luma; bilinear, rounded where OpenCV rounds."""
    lines = chroma
    if planar.across > 1:
        wide = F.interpolate(chroma[:, None], (chroma.shape[1], 2 * chroma.shape[2]), mode="bilinear")[:, 0]
        lines = wide[..., : planar.width]
    if planar.down > 1:
        lines = lines * 4
        near, far = (lines * 0.75).floor_(), (lines * 0.25).floor_()
        above, below = torch.cat([far[:, :1], far[:, :-1]], 1), torch.cat([far[:, 1:], far[:, -1:]], 1)
        lines = torch.stack([above.add_(near), below.add_(near)], 2).flatten(1, 2)[:, : planar.height].mul_(0.25)
    return lines.add(0.5).floor_() if lines is not chroma else chroma


def _reduced(values: torch.Tensor, planar: Planar) -> torch.Tensor:
    """Values (N, H, W) averaged down to the size of chroma; the last line and column of an odd side count twice."""
    if planar.down == planar.across == 1:
        return values
    height, width = planar.chroma
    below, right = height * planar.down - planar.height, width * planar.across - planar.width
    whole = F.pad(values.float()[:, None], (0, right, 0, below), mode="replicate")
    means = F.avg_pool2d(whole, (planar.down, planar.across))[:, 0]
    # OpenCV rounds halves up for four samples, and to even numbers for two.
    return (means.add_(0.5).floor_() if planar.down > 1 else means.round_()).to(torch.uint8)
