"""A generator that runs in tiles."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable
from functools import cached_property

import torch

from cgpipe.engine.autotune import DTYPES
from cgpipe.engine.memory import bytes_a_pixel
from cgpipe.engine.tiles.graph import Graph, NotTileableError, trace
from cgpipe.engine.tiles.operations import Region
from cgpipe.engine.tiles.passes import Passes, Statistics, reach
from cgpipe.engine.tiles.picture import Seen, inside
from cgpipe.engine.tiles.planes import Planes
from cgpipe.networks import Generator
from cgpipe.options import Precision
from cgpipe.storage import PathLike

LEAST_SIDE, LARGEST_SIDE = 256, 2048
"""Bounds of the default side of tiles."""

SIDE_STEP = 64
"""Default sides are multiples of it."""

TILE_BYTES = 1 << 30
"""Most memory of a tile in bytes: larger tiles are no faster."""

PLANE_BYTES = 1 << 28
"""Most memory of planes between two passes, in bytes; the rest goes to disk."""

FREE_SHARE = 0.8
"""Fraction of a disk's free space that planes may take."""

LAYERS_AT_ONCE = 2.0
"""Number of layers whose inputs and outputs exist at once: padding, and skip connections."""


class TiledNetwork:
    """A generator that runs in tiles, with the same result as on the whole picture.

    Args:
        generator: in fp32.
        device: its device.
    """

    def __init__(self, generator: Generator, device: torch.device) -> None:
        self._generator = generator
        self._device = device
        self._graphs: dict[Precision, Graph] = {}

    @cached_property
    def refusal(self) -> str:
        """Why the network cannot run in tiles; empty if it can."""
        try:
            self._graph("fp32")
        except NotTileableError as error:
            return str(error)
        return ""

    @cached_property
    def bytes_a_pixel(self) -> float:
        """Memory of a whole picture in bytes per pixel, in fp32; 0 if shapes alone do not tell."""
        try:
            return LAYERS_AT_ONCE * bytes_a_pixel(self._generator)
        except Exception:  # a network of another runtime takes no tensors without values
            return 0.0

    @cached_property
    def reach(self) -> int:
        """Radius of the receptive field in pixels, without norms."""
        return reach(self._graph("fp32"), self._generator.multiple)

    @property
    def normalises(self) -> bool:
        """Whether the network has norms over the whole picture."""
        return bool(self._graph("fp32").norms)

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels of the network."""
        return self._generator.channels

    def side(self, memory: int | None, *, fast: bool) -> int:
        """Side of the largest tiles that fit in memory, a multiple that the network accepts."""
        halo = self.reach if fast else 2 * self._generator.multiple
        room = min(TILE_BYTES, TILE_BYTES if memory is None else memory // 4)
        side = math.isqrt(int(room / max(1.0, self.bytes_a_pixel))) - 2 * halo
        return self.rounded(min(max(side // SIDE_STEP * SIDE_STEP, LEAST_SIDE), LARGEST_SIDE))

    def rounded(self, side: int) -> int:
        """A side of tiles, rounded up to a multiple that the network accepts."""
        return -(-side // self._generator.multiple) * self._generator.multiple

    def seen(self, pixels: torch.Tensor, low: int, high: int, precision: Precision) -> Seen:
        """A picture as network input (see :class:`~cgpipe.engine.tiles.picture.Seen`)."""
        return Seen(
            pixels=pixels,
            channels=self._generator.channels[0],
            low=low,
            high=high,
            multiple=self._generator.multiple,
            least=self._generator.least_side,
            device=self._device,
            dtype=DTYPES[precision],
        )

    def run(
        self,
        picture: Seen,
        write: Callable[[Region, torch.Tensor], None],
        *,
        tile: int,
        precision: Precision,
        statistics: Statistics | None = None,
        folder: PathLike | None = None,
        on_tile: Callable[[float], None] | None = None,
    ) -> Statistics:
        """Runs the network on a picture, and writes each region of its result, (1, C, h, w), as soon as it is computed.

        Args:
            statistics: of its norms; None: those of this picture, which take one pass per norm.
            folder: folder for planes that do not fit in memory.
            on_tile: called after each tile with the fraction of all tiles of all passes; an exception ends the work.

        Returns:
            The statistics.
        """
        with Planes(folder, self._plane_bytes) as planes:
            passes = Passes(
                graph=self._graph(precision),
                picture=picture,
                size=picture.size,
                tile=tile,
                planes=planes,
                room=self._room(folder),
                statistics=dict(statistics or {}),
                on_tile=on_tile,
            )
            found = passes.learn()
            passes.result(inside(picture.own, write))
        return found

    def statistics(
        self, picture: Seen, *, tile: int, precision: Precision, folder: PathLike | None = None
    ) -> Statistics:
        """The norms' statistics on a picture."""
        graph, room = self._graph(precision), self._room(folder)
        with Planes(folder, self._plane_bytes) as planes:
            return Passes(graph=graph, picture=picture, size=picture.size, tile=tile, planes=planes, room=room).learn()

    def _room(self, folder: PathLike | None) -> int:
        """Bytes of planes that may be kept, in memory and on disk."""
        free = shutil.disk_usage(folder or tempfile.gettempdir()).free
        return max(int(FREE_SHARE * free), self._plane_bytes)

    @property
    def _plane_bytes(self) -> int:
        """Device memory for planes; on a GPU this saves the way to disk."""
        if self._device.type != "cuda":
            return PLANE_BYTES
        return max(PLANE_BYTES, int(torch.cuda.mem_get_info(self._device)[0]) // 4)

    def _graph(self, precision: Precision) -> Graph:
        if precision not in self._graphs:
            self._graphs[precision] = trace(self._generator, self._device, DTYPES[precision])
        return self._graphs[precision]
