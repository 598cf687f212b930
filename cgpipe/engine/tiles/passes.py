"""Runs a network on a picture of any size, tile by tile.

A normalisation needs the mean and deviation of its whole plane before any of its output is known. So there is one pass
over the picture per norm, in order, which computes the norm's input tile by tile and accumulates its moments. The
starting point of the next pass is kept (:mod:`cgpipe.engine.tiles.planes`) if there is room; otherwise that pass starts
further up, at the latest at the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from cgpipe.engine.tiles.graph import Graph, Normalisation
from cgpipe.engine.tiles.operations import Piece, Region, Size, Span, needed_for
from cgpipe.engine.tiles.planes import Plane, Planes


@dataclass
class Moments:
    """Mean and squared deviations of a plane's channels, in fp64, accumulated tile by tile.

    It uses the pairwise update of Chan, Golub and LeVeque (1983): with plain sums of squares of 400 million values the
    deviation would be lost to rounding.
    """

    count: int = 0
    mean: torch.Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: torch.Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, values: torch.Tensor) -> None:
        """Adds (1, C, h, w)."""
        count = values.shape[2] * values.shape[3]
        variance, mean = torch.var_mean(values.float(), (0, 2, 3), correction=0)
        squares, mean = variance.double() * count, mean.double()
        if not self.count:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        apart = mean - self.mean
        self.squares = self.squares + squares + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def affine(self, norm: Normalisation) -> Affine:
        """The norm as a factor and an offset per channel."""
        channels = len(self.mean)
        by_group = self.mean.view(norm.groups, -1)
        mean = by_group.mean(1, keepdim=True)
        spread = self.squares.view(norm.groups, -1) / self.count + (by_group - mean).square()
        factor = (spread.mean(1, keepdim=True) + norm.eps).rsqrt().expand_as(by_group).reshape(channels)
        mean = mean.expand_as(by_group).reshape(channels)
        weight = factor if norm.weight is None else factor * norm.weight.double()
        offset = -mean * weight if norm.bias is None else norm.bias.double() - mean * weight
        return Affine(weight.float()[:, None, None], offset.float()[:, None, None])


@dataclass(frozen=True)
class Affine:
    """A normalisation with known moments: ``x * factor + offset``, (C, 1, 1) each."""

    factor: torch.Tensor
    offset: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.offset, x, self.factor).to(x.dtype)


Statistics = dict[int, Affine]
"""Known norms, by the index of their step."""


@dataclass(kw_only=True)
class Passes:
    """A network on one picture.

    Args:
        graph: of the network.
        picture: returns regions of the picture, (1, 3, h, w) in [-1, 1], as network input.
        size: of the picture, with sides that the network accepts.
        tile: side of a tile in pixels.
        planes: the planes kept between passes.
        room: most bytes to keep.
        statistics: of norms that are already known and need no pass.
        on_tile: called after each tile with the fraction of all tiles of all passes; an exception ends the work.
    """

    graph: Graph
    picture: Plane
    size: Size
    tile: int
    planes: Planes
    room: int
    statistics: Statistics = field(default_factory=dict)
    on_tile: Callable[[float], None] | None = None

    def __post_init__(self) -> None:
        self._sizes = sizes(self.graph, self.size)
        passes = 1 + len({*self.graph.norms} - {*self.statistics})
        self._total = passes * sum(1 for _ in self._regions())
        self._done = 0

    def learn(self) -> Statistics:
        """Makes one pass for each norm whose moments are unknown; returns all statistics."""
        for norm in self.graph.norms:
            if norm not in self.statistics:
                self._learn(norm)
        return self.statistics

    def result(self, write: Callable[[Region, torch.Tensor], None]) -> None:
        """Makes the last pass, and writes each region of the result as soon as it is computed.

        Regions come from top to bottom, and from left to right.
        """
        last = len(self.graph.steps) - 1
        for tile in self._tiles():
            wanted = self._scaled(tile, last)
            write(wanted, self.compute({last: wanted})[last])

    def compute(self, wanted: Mapping[int, Region]) -> dict[int, torch.Tensor]:
        """Regions of some steps' planes, from kept planes and the picture."""
        needed = self._needed(wanted)
        uses = self._uses(needed)
        pieces: dict[int, Piece] = {}
        found: dict[int, torch.Tensor] = {}
        for index in sorted(needed):
            region = needed[index]
            pieces[index] = Piece(self._values(index, region, pieces), region, self._sizes[index])
            if index in wanted:
                found[index] = pieces[index].part(wanted[index])
            for other in () if self._is_given(index) else self.graph.steps[index].inputs:
                uses[other] -= 1
                if not uses[other]:
                    del pieces[other]
        return found

    def _learn(self, norm: int) -> None:
        """One pass: the moments of a norm's input, and the planes that later passes start from."""
        (source,) = self.graph.steps[norm].inputs
        kept = self._needed_behind(norm)
        new: Sequence[int] | None = None
        moments = Moments()
        for tile in self._tiles():
            wanted = {step: self._scaled(tile, step) for step in {source, *(kept if new is None else new)}}
            found = self.compute(wanted)
            moments.add(found[source])
            if new is None:
                new = self._to_keep(kept, found)
            for step in new:
                self.planes.fill(step, wanted[step], found[step], self._sizes[step])
        self.statistics[norm] = moments.affine(self._norm(norm))
        if new is not None and {*kept} <= {*new} | {step for step in kept if step in self.planes}:
            self.planes.settle(kept)

    def _to_keep(self, steps: Sequence[int], found: Mapping[int, torch.Tensor]) -> Sequence[int]:
        """The steps whose planes are not kept yet, if there is room for all of them."""
        new = [step for step in steps if step not in self.planes]
        pixels = {step: self._sizes[step].height * self._sizes[step].width for step in new}
        wanted = sum(pixels[step] * found[step].shape[1] * found[step].element_size() for step in new)
        return new if wanted + self.planes.bytes <= self.room else ()

    def _norm(self, index: int) -> Normalisation:
        norm = self.graph.steps[index].norm
        assert norm is not None
        return norm

    def _needed_behind(self, norm: int) -> Sequence[int]:
        """The steps before a norm that it or a later step uses: their planes suffice for everything after."""
        steps = self.graph.steps
        later = {other for step in steps[norm:] for other in step.inputs if other < norm}
        return sorted(index for index in later if steps[index].inputs)

    def _is_given(self, index: int) -> bool:
        return index in self.planes or not self.graph.steps[index].inputs

    def _values(self, index: int, region: Region, pieces: Mapping[int, Piece]) -> torch.Tensor:
        if index in self.planes:
            return self.planes[index].read(region)
        step = self.graph.steps[index]
        if not step.inputs:
            return self.picture.read(region)
        values = step.operation.run([pieces[other] for other in step.inputs], region)
        return values if step.norm is None else self.statistics[index](values)

    def _needed(self, wanted: Mapping[int, Region]) -> dict[int, Region]:
        """The region of each step's plane that is needed."""
        needed = dict(wanted)
        for index in range(max(wanted), -1, -1):
            if index not in needed or self._is_given(index):
                continue
            step, region = self.graph.steps[index], needed[index]
            for other in step.inputs:
                part = needed_for(step.operation, region, self._sizes[other])
                needed[other] = needed[other].joined(part) if other in needed else part
        return needed

    def _uses(self, needed: Mapping[int, Region]) -> dict[int, int]:
        uses: dict[int, int] = {}
        for index in needed:
            for other in () if self._is_given(index) else self.graph.steps[index].inputs:
                uses[other] = uses.get(other, 0) + 1
        return uses

    def _tiles(self) -> Iterator[Region]:
        """The tiles of one pass; each is told of when the next is asked for."""
        for tile in self._regions():
            yield tile
            self._done += 1
            if self.on_tile is not None:
                self.on_tile(self._done / self._total)

    def _regions(self) -> Iterator[Region]:
        """Tiles of the picture, without gaps and without overlap."""
        for rows in spans(self.size.height, self.tile):
            for columns in spans(self.size.width, self.tile):
                yield Region(rows, columns)

    def _scaled(self, tile: Region, step: int) -> Region:
        """The corresponding region of another plane."""
        size = self._sizes[step]
        parts = (
            Span(span.start * own // whole, span.stop * own // whole)
            for span, own, whole in zip(tile, size, self.size, strict=True)
        )
        return Region(*parts)


def spans(length: int, step: int) -> Iterator[Span]:
    """Consecutive spans of length ``step``; the last may be shorter."""
    for start in range(0, length, step):
        yield Span(start, min(start + step, length))


def sizes(graph: Graph, picture: Size) -> list[Size]:
    """Height and width of each step's plane."""
    found: list[Size] = []
    for step in graph.steps:
        if not step.inputs:
            found.append(picture)
        else:
            before = found[step.inputs[0]]
            found.append(Size(*(step.operation.length(axis, side) for axis, side in enumerate(before))))
    return found


def reach(graph: Graph, multiple: int) -> int:
    """Radius of the receptive field in pixels, without norms."""
    side = 1 << 20
    last = len(graph.steps) - 1
    plane = sizes(graph, Size(side, side))
    needed: dict[int, Span] = {last: Span(plane[last].height // 2, plane[last].height // 2 + multiple)}
    for index in range(last, -1, -1):
        for other in graph.steps[index].inputs if index in needed else ():
            part = graph.steps[index].operation.needs(0, needed[index], plane[other].height)
            needed[other] = needed[other].joined(part) if other in needed else part
    return max(side // 2 - needed[0].start, needed[0].stop - side // 2 - multiple)
