"""Translates pictures part by part, if the network or the pixels themselves do not fit in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from cgpipe.engine.cuda import Translated
from cgpipe.engine.scale import add_change, brought_up, resize, to_integer
from cgpipe.engine.tiles.operations import Region
from cgpipe.engine.tiles.passes import Statistics
from cgpipe.engine.tiles.tiled import TiledNetwork
from cgpipe.media.progress import Progress
from cgpipe.options import Precision
from cgpipe.scratch import folder_of, release, room_for
from cgpipe.storage import PathLike

FAST_PIXELS = 1 << 20
"""Pixels of the reduced picture from which fast tiles take their statistics."""


@dataclass(frozen=True, kw_only=True)
class ByRegions:
    """Translates pictures part by part, with fixed settings.

    Args:
        network: runs in tiles.
        whole: runs the network on (1, C, H, W) in [-1, 1], float32 in and out.
        seen_range, made_range: black and white of the input and of the output.
        strength: blend strength: 0 = original, 1 = full translation.
        fast: take the norms' statistics from a reduced picture (as in arXiv 2208.10730), which needs one pass; else
            from all tiles, with one pass per norm.
        precision: of the network.
        progress: called with each part.
    """

    network: TiledNetwork
    whole: Callable[[torch.Tensor], torch.Tensor]
    seen_range: tuple[int, int]
    made_range: tuple[int, int]
    strength: float
    fast: bool
    precision: Precision
    progress: Progress

    def translate(self, picture: torch.Tensor, size: tuple[int, int], tile: int | None) -> Translated:
        """Translates one picture on the CPU; the result is stored as the picture is, in memory or on disk.

        Args:
            picture: (H, W, C), uint8 or uint16, and optionally a mask as one channel more.
            size: the network's working size: height and width.
            tile: side of a tile in pixels; None: the network sees the whole picture at once.
        """
        if size == tuple(picture.shape[:2]) and tile is not None:
            return self._at_own_size(picture, tile)
        return self._at_another_size(picture, size, tile)

    def _at_own_size(self, picture: torch.Tensor, tile: int) -> Translated:
        height, width = picture.shape[:2]
        result = room_for((height, width, self.network.channels[1]), picture)
        total = torch.zeros((), dtype=torch.float64)

        def write(region: Region, values: torch.Tensor) -> None:
            rows, columns = slice(*region.rows), slice(*region.columns)
            total.add_(values.sum(dtype=torch.float64).cpu())
            made = self._in_units(values)
            result[rows, columns] = self._added(picture[rows, columns], made).cpu()
            if region.columns.stop == width:
                release(picture, result)

        self._run(picture, write, tile, folder_of(picture))
        return Translated(result[None], total[None].float())

    def _at_another_size(self, picture: torch.Tensor, size: tuple[int, int], tile: int | None) -> Translated:
        seen = resize(picture[None, ..., : self._takes], size)
        release(picture)
        if tile is None:
            made = self.whole(self._scaled(seen))
        else:
            made = seen.new_empty((1, self.network.channels[1], *size))

            def write(region: Region, values: torch.Tensor) -> None:
                made[..., slice(*region.rows), slice(*region.columns)] = values.float().cpu()

            self._run(seen, write, tile, folder_of(picture))
        sums = made.sum((1, 2, 3)).cpu()
        made = self._in_units(made.cpu())
        if made.shape[1] != self._takes:
            return Translated(brought_up(picture[None], made), sums)
        mask = self._mask_of(picture)
        told = partial(self.progress.reached, "translate")
        return Translated(add_change(picture[None, ..., : self._takes], seen, made, self.strength, mask, told), sums)

    def _run(
        self,
        pixels: torch.Tensor,
        write: Callable[[Region, torch.Tensor], None],
        tile: int,
        folder: PathLike | None,
    ) -> None:
        picture = self.network.seen(pixels, *self.seen_range, self.precision)
        statistics = self._of_a_reduced_one(pixels, tile, folder) if self.fast and self.network.normalises else None
        self.network.run(
            picture,
            write,
            tile=tile,
            precision=self.precision,
            statistics=statistics,
            folder=folder,
            on_tile=partial(self.progress.reached, "translate"),
        )

    def _of_a_reduced_one(self, pixels: torch.Tensor, tile: int, folder: PathLike | None) -> Statistics:
        """The norms' statistics, from the picture reduced to :data:`FAST_PIXELS`."""
        floating = pixels.is_floating_point()
        height, width = pixels.shape[2:] if floating else pixels.shape[:2]
        share = min(1.0, (FAST_PIXELS / (height * width)) ** 0.5)
        size = max(1, round(height * share)), max(1, round(width * share))
        if floating:
            reduced = torch.nn.functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        else:
            reduced = resize(pixels[None, ..., : self._takes], size)
            release(pixels)
        seen = self.network.seen(reduced, *self.seen_range, self.precision)
        return self.network.statistics(seen, tile=tile, precision=self.precision, folder=folder)

    @property
    def _takes(self) -> int:
        return self.network.channels[0]

    def _mask_of(self, picture: torch.Tensor) -> torch.Tensor | None:
        """The mask, (1, h, w), if there is one."""
        return picture[None, ..., -1] if picture.shape[2] > self._takes else None

    def _scaled(self, seen: torch.Tensor) -> torch.Tensor:
        low, high = self.seen_range
        return ((seen - low) / ((high - low) / 2) - 1).clamp_(-1, 1)

    def _in_units(self, values: torch.Tensor) -> torch.Tensor:
        """The network's output in units of the pixels, float."""
        low, high = self.made_range
        return values.float().add(1).mul_((high - low) / 2).add_(low)

    def _added(self, pixels: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """The translated region, as integers (h, w, C)."""
        mask = self._mask_of(pixels)
        if self.strength == 1 and mask is None:
            return to_integer(made, pixels.dtype)[0].permute(1, 2, 0)
        pixels = pixels[..., : self._takes]
        seen = pixels.permute(2, 0, 1)[None].float()
        return add_change(pixels[None], seen, made.cpu(), self.strength, mask)[0]
