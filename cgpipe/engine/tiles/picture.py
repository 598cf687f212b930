"""Regions of a picture as network input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cgpipe.engine.tiles.operations import Piece, Region, Size, Window, needed_for
from cgpipe.scratch import release


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A picture as network input: in [-1, 1], its sides padded by reflection.

    Args:
        pixels: (H, W, C) integers, of which the first ``channels`` are seen, or (1, channels, H, W) float.
        channels: that the network takes.
        low, high: black and white.
        multiple, least: the sides become multiples of it, and at least this.
        dtype: of the network's input.
    """

    pixels: torch.Tensor
    channels: int
    low: int
    high: int
    multiple: int
    least: int
    device: torch.device
    dtype: torch.dtype

    @property
    def own(self) -> Size:
        """Size of the picture itself."""
        floating = self.pixels.is_floating_point()
        return Size(*(self.pixels.shape[2:] if floating else self.pixels.shape[:2]))

    @property
    def size(self) -> Size:
        """Size with padding."""
        return Size(*(max(-(-side // self.multiple) * self.multiple, self.least) for side in self.own))

    @property
    def fits(self) -> bool:
        """Whether a single reflection suffices."""
        return all(wanted < 2 * side for wanted, side in zip(self.size, self.own, strict=True))

    def read(self, region: Region) -> torch.Tensor:
        """A region as network input, (1, channels, h, w), on the device."""
        after = (self.size.height - self.own.height, self.size.width - self.own.width)
        filled = Window(after=after, mode="reflect")
        there = needed_for(filled, region, self.own)
        return filled.run([Piece(self._scaled(there), there, self.own)], region)

    def values(self, region: Region) -> torch.Tensor:
        """A region of the picture itself, (1, channels, h, w), float, in its own units."""
        rows, columns = slice(*region.rows), slice(*region.columns)
        if self.pixels.is_floating_point():
            return self.pixels[..., rows, columns].to(self.device)
        values = self.pixels[rows, columns, : self.channels].to(self.device).permute(2, 0, 1)[None].float()
        release(self.pixels)
        return values

    def _scaled(self, region: Region) -> torch.Tensor:
        scaled = ((self.values(region) - self.low) / ((self.high - self.low) / 2) - 1).clamp_(-1, 1)
        return scaled.to(dtype=self.dtype, memory_format=torch.channels_last)


def inside(own: Size, write: Callable[[Region, torch.Tensor], None]) -> Callable[[Region, torch.Tensor], None]:
    """Passes on only what lies in the picture itself, without the padding."""

    def cropped(region: Region, values: torch.Tensor) -> None:
        rows, columns = (span._replace(stop=min(span.stop, side)) for span, side in zip(region, own, strict=True))
        if rows.start < rows.stop and columns.start < columns.stop:
            write(Region(rows, columns), values[..., : rows.length, : columns.length])

    return cropped
