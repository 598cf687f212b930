"""Chooses whether a picture goes through the network whole or in tiles, and the size of the tiles."""

from __future__ import annotations

import torch

from cgpipe.engine.memory import available_memory
from cgpipe.engine.tiles.tiled import LAYERS_AT_ONCE, TiledNetwork
from cgpipe.errors import MediaError, UsageError
from cgpipe.networks import Generator
from cgpipe.options import Engine, Tile

LARGE_PIXELS = 1 << 22
"""Pixels from which on free memory is checked."""


class NoRoomError(MediaError):
    """A single picture as a whole does not fit in memory."""


class Tiles:
    """Chooses the tiles of each picture.

    Args:
        generator: in fp32.
        device: its device.
        engine: its engine.
        asked: side of the tiles in pixels, ``auto`` or ``off``.

    Raises:
        UsageError: tiles are requested, but this network or engine does not support them.
    """

    def __init__(self, generator: Generator, device: torch.device, engine: Engine, asked: Tile) -> None:
        self.network = TiledNetwork(generator, device)
        self._device = device
        self._engine = engine
        self._asked = asked
        self._too_large: int | None = None
        if isinstance(asked, int) and self.refusal:
            raise UsageError(f"--tile {asked}: {self.refusal}. Omit it, or use a smaller --size.")

    @property
    def refusal(self) -> str:
        """Why tiles are impossible; empty if they are possible."""
        if self._engine != "eager":
            return f"tiles are run by --engine eager alone, not {self._engine}"
        reason = self.network.refusal
        return f"this network cannot be run by tiles: {reason}" if reason else ""

    @property
    def hint(self) -> str:
        """What else to do if memory is short."""
        if self._asked == "off":
            return ", or omit --tile off"
        return f" ({self.refusal})" if self.refusal else ""

    def side_for(self, size: tuple[int, int], count: int, *, fast: bool) -> int | None:
        """Side of the tiles for pictures that the network sees at this size; None if it sees them whole.

        Raises:
            NoRoomError: the whole certainly does not fit in memory, and tiles are impossible.
        """
        if isinstance(self._asked, int):
            side = self.network.rounded(self._asked)
            return side if max(size) > side else None
        pixels = size[0] * size[1]
        if not self._asks_for_tiles(pixels, count):
            return None
        if self._asked == "off" or self.refusal:
            raise NoRoomError
        return self._side(fast=fast)

    def after_out_of_memory(self, pixels: int) -> int | None:
        """Side of the tiles for a picture that ran out of memory, and from now on for others as large."""
        if self._asked != "auto" or self.refusal:
            return None
        self._too_large = min(pixels, self._too_large or pixels)
        return self._side(fast=True)

    def needed(self, pixels: int) -> str:
        """Memory that a whole picture needs, as text; empty if unknown."""
        wanted = self.network.bytes_a_pixel * pixels
        return f" and which takes about {wanted / 1e9:.1f} GB" if wanted else ""

    def _side(self, *, fast: bool) -> int:
        return self.network.side(self._memory(), fast=fast)

    def _asks_for_tiles(self, pixels: int, count: int) -> bool:
        if self._too_large is not None and pixels >= self._too_large:
            return self._asked == "auto"
        if pixels * count < LARGE_PIXELS or self._device.type not in ("cpu", "cuda"):
            return False
        memory = self._memory()
        if self._asked == "auto" and not self.refusal:
            return memory is not None and self.network.bytes_a_pixel * pixels > memory
        # Without tiles it is tried unless it certainly fails, in which case the system would kill the process.
        certain = self.network.bytes_a_pixel / LAYERS_AT_ONCE * pixels * count
        return self._device.type == "cpu" and memory is not None and certain > memory

    def _memory(self) -> int | None:
        """Free bytes on the device."""
        if self._device.type == "cuda":
            cached = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
            return int(torch.cuda.mem_get_info(self._device)[0] + cached)
        return available_memory() if self._device.type == "cpu" else None
