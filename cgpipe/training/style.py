"""The look of paintings as a loss: Gram matrices of a frozen network's features (arXiv 1508.06576, 1603.08155)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.data.loading import load_8_bits, resize, to_network_range
from cgpipe.errors import MediaError, UsageError
from cgpipe.media.frames import LUMA
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.training.moments import resized

Colours = Literal["painting", "photo"]

TAPS = (0, 2, 4, 10)
"""Blocks of EfficientNet-Lite0 whose features describe a look: grain, strokes, shapes and their arrangement."""
SCALES = (1.0, 0.5)
"""Scales of comparison: at half size the same blocks see strokes of twice the length."""
CONTENT = 2
"""Place in :data:`TAPS` of the block whose features describe the content of a picture."""
SMALLEST = 64
"""Minimum short side of a painting, in pixels."""


def load_painting(path: Path, side: int) -> torch.Tensor:
    """A painting as (1, 3, H, W) in [-1, 1], with its short side reduced to at most ``side`` pixels.

    Raises:
        UsageError: it cannot be read, or its short side has fewer than :data:`SMALLEST` pixels.
    """
    try:
        pixels = load_8_bits(path)
    except MediaError as error:
        raise UsageError(f"The painting cannot be used: {error}") from error
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short < SMALLEST:
        raise UsageError(
            f"The painting {path} has {width}x{height} pixels, which shows no strokes: give a picture with a short "
            f"side of {SMALLEST} at least, better {side}."
        )
    scale = min(1.0, side / short)
    return to_network_range(resize(pixels, round(height * scale), round(width * scale)))[None]


def gram(features: torch.Tensor) -> torch.Tensor:
    """Gram matrices of (N, C, H, W), averaged over the area: (N, C, C), float32."""
    with torch.autocast(features.device.type, enabled=False):
        rows = features.float().flatten(2)
        return rows @ rows.transpose(1, 2) / rows.shape[2]


class StyleLoss(nn.Module):
    """The style and content losses, against the mean Gram matrices of some paintings.

    Args:
        network: the frozen feature network.
        paintings: each (1, 3, H, W) in [-1, 1].
        colours: ``painting``, or ``photo`` to compare in grayscale.
    """

    def __init__(self, network: EfficientNetLite, paintings: Sequence[torch.Tensor], colours: Colours) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple it is not a submodule, and stays out of the state
        self.colours = colours
        for scale in SCALES:
            with torch.no_grad():
                found = [[gram(tap) for tap in self._features(painting, scale)] for painting in paintings]
            for tap, grams in zip(TAPS, zip(*found, strict=True), strict=True):
                self.register_buffer(_buffer(scale, tap), torch.stack(grams).mean(dim=0), persistent=False)

    def _features(self, pictures: torch.Tensor, scale: float, taps: Sequence[int] = TAPS) -> list[torch.Tensor]:
        seen = gray(pictures).expand_as(pictures) if self.colours == "photo" else pictures
        return self._network[0].taps(resized(seen, scale), taps)

    def forward(self, pictures: torch.Tensor, originals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The style loss of (N, 3, H, W), and their content loss against ``originals``; scalars.

        The style loss is 0 to 2; the content loss is about 1 for unrelated pictures.
        """
        made = {scale: self._features(pictures, scale) for scale in SCALES}
        with torch.no_grad():
            wanted = self._features(originals, 1.0, TAPS[: CONTENT + 1])[CONTENT].float()
        apart = [
            self._apart(gram(features), self.get_buffer(_buffer(scale, tap)))
            for scale, maps in made.items()
            for tap, features in zip(TAPS, maps, strict=True)
        ]
        content = F.mse_loss(made[1.0][CONTENT].float(), wanted) / wanted.var().clamp_min(1e-6)
        return torch.stack(apart).mean(), content

    @staticmethod
    def _apart(found: torch.Tensor, look: torch.Tensor) -> torch.Tensor:
        """Squared difference of Gram matrices, relative to the mean of the squares of both; averaged over pictures.

        Relative to those of the look alone, it is so large for a painting of low contrast (fog) that a gray picture
        is the optimum.
        """
        size = (found.detach().square().sum(dim=(1, 2)) + look.square().sum()) / 2
        return ((found - look).square().sum(dim=(1, 2)) / size).mean()


def _buffer(scale: float, tap: int) -> str:
    return f"gram_{round(100 * scale)}_{tap}"


def gray(pictures: torch.Tensor) -> torch.Tensor:
    """The luma (N, 1, H, W) of (N, 3, H, W)."""
    channels = zip(LUMA, pictures.split(1, dim=1), strict=True)
    return torch.stack([weight * channel for weight, channel in channels]).sum(0)


def colour_loss(pictures: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of colour without lightness; both (N, 3, H, W) in [-1, 1]."""
    change = pictures.float() - originals
    return (change - gray(change)).abs().mean()


def total_variation(pictures: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of vertical and horizontal neighbours, of (N, 3, H, W)."""
    pictures = pictures.float()
    down, right = pictures.diff(dim=2).abs().mean(), pictures.diff(dim=3).abs().mean()
    return down + right
