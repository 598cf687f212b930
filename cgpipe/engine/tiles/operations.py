"""Layers as operations on regions: the input region that each needs, and the output region that it computes.

A plane is the whole (C, H, W) output of a layer for a picture; a region is a rectangle of it. Padding is added only at
the border of the plane, so that the result of all regions equals that of the whole plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch.nn import functional as F


class Span(NamedTuple):
    """Lines or columns from ``start`` to ``stop``, exclusive."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def joined(self, other: Span) -> Span:
        """The shortest span that contains both."""
        return Span(min(self.start, other.start), max(self.stop, other.stop))

    def within(self, outer: Span) -> slice:
        """Its slice of ``outer``, which contains it."""
        return slice(self.start - outer.start, self.stop - outer.start)


class Region(NamedTuple):
    """A rectangle of a plane."""

    rows: Span
    columns: Span

    def joined(self, other: Region) -> Region:
        """The smallest region that contains both."""
        return Region(self.rows.joined(other.rows), self.columns.joined(other.columns))


class Size(NamedTuple):
    """Height and width of a plane."""

    height: int
    width: int

    @property
    def whole(self) -> Region:
        return Region(Span(0, self.height), Span(0, self.width))


class Piece(NamedTuple):
    """A region of a plane with its values, (1, C, h, w)."""

    values: torch.Tensor
    region: Region
    size: Size

    def part(self, region: Region) -> torch.Tensor:
        """The values of a smaller region."""
        return self.values[..., region.rows.within(self.region.rows), region.columns.within(self.region.columns)]


class Operation(Protocol):
    """A layer, along one axis (0 for lines, 1 for columns) and as a whole."""

    def length(self, axis: int, length: int) -> int:
        """The length of the output for an input of ``length``."""

    def needs(self, axis: int, wanted: Span, length: int) -> Span:
        """The span of an input of ``length`` that is needed for ``wanted`` of the output."""

    def run(self, pieces: Sequence[Piece], wanted: Region) -> torch.Tensor:
        """The ``wanted`` region of the output, from pieces of the inputs that contain what is needed."""


Pair = tuple[int, int]


def needed_for(operation: Operation, wanted: Region, size: Size) -> Region:
    """The region of an input of ``size`` that an operation needs for ``wanted`` of its output."""
    return Region(*(operation.needs(axis, span, size[axis]) for axis, span in enumerate(wanted)))


def unchanged(x: torch.Tensor) -> torch.Tensor:
    """The identity."""
    return x


@dataclass(frozen=True, kw_only=True)
class Pointwise:
    """Pointwise operations: activations, sums, concatenated channels."""

    function: Callable[..., torch.Tensor]

    def length(self, axis: int, length: int) -> int:
        return length

    def needs(self, axis: int, wanted: Span, length: int) -> Span:
        return wanted

    def run(self, pieces: Sequence[Piece], wanted: Region) -> torch.Tensor:
        return self.function(*(piece.part(wanted) for piece in pieces))


@dataclass(frozen=True, kw_only=True)
class Window:
    """A sliding window over a padded plane: convolutions and pooling; padding alone is a window of one.

    Args:
        function: applied to a region with everything that is needed, including padding.
        before, after: padding, by axis; less than 0 crops.
        mode: of the padding, as :func:`torch.nn.functional.pad` names it.
        value: of constant padding.
    """

    function: Callable[[torch.Tensor], torch.Tensor] = unchanged
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    before: Pair = (0, 0)
    after: Pair = (0, 0)
    mode: str = "constant"
    value: float = 0.0

    def length(self, axis: int, length: int) -> int:
        padded = length + self.before[axis] + self.after[axis]
        return (padded - self._reach(axis)) // self.stride[axis] + 1

    def needs(self, axis: int, wanted: Span, length: int) -> Span:
        start, stop = self._seen(axis, wanted)
        first, last = min(max(start, 0), length - 1), max(min(stop, length), 1)
        if self.mode == "reflect":  # what is reflected lies inside
            last = max(last, 1 - start) if start < 0 else last
            first = min(first, 2 * length - 1 - stop) if stop > length else first
        return Span(first, last)

    def run(self, pieces: Sequence[Piece], wanted: Region) -> torch.Tensor:
        (piece,) = pieces
        needed = needed_for(self, wanted, piece.size)
        seen = [self._seen(axis, span) for axis, span in enumerate(wanted)]
        rows, columns = (_margins(*each) for each in zip(seen, needed, piece.size, strict=True))
        x = self._padded(piece.part(needed), (*columns, *rows))
        starts = (needed.rows.start - rows[0], needed.columns.start - columns[0])
        places = [slice(span.start - start, span.stop - start) for span, start in zip(seen, starts, strict=True)]
        return self.function(x[..., places[0], places[1]])

    def _padded(self, x: torch.Tensor, margins: tuple[int, ...]) -> torch.Tensor:
        if not any(margins):
            return x
        return F.pad(x, margins, self.mode, self.value if self.mode == "constant" else None)

    def _reach(self, axis: int) -> int:
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    def _seen(self, axis: int, wanted: Span) -> Span:
        """The span that the kernel covers, in coordinates of the input; outside of it is padding."""
        start = wanted.start * self.stride[axis] - self.before[axis]
        return Span(start, start + (wanted.length - 1) * self.stride[axis] + self._reach(axis))


def _margins(seen: Span, have: Span, length: int) -> Pair:
    """Padding needed before and after a region."""
    before = max(0, -seen.start) if have.start == 0 else 0
    after = max(0, seen.stop - length) if have.stop == length else 0
    return before, after


@dataclass(frozen=True, kw_only=True)
class Transposed:
    """A transposed convolution.

    Args:
        function: the convolution without padding, called with the output padding per axis.
        padding: cropped from the output on all sides.
        behind: output padding.
    """

    function: Callable[[torch.Tensor, Pair], torch.Tensor]
    kernel: Pair
    stride: Pair
    dilation: Pair
    padding: Pair
    behind: Pair

    def length(self, axis: int, length: int) -> int:
        spread = (length - 1) * self.stride[axis] + self._reach(axis)
        return spread - 2 * self.padding[axis] + self.behind[axis]

    def needs(self, axis: int, wanted: Span, length: int) -> Span:
        stride, padding = self.stride[axis], self.padding[axis]
        first = -((self._reach(axis) - 1 - wanted.start - padding) // stride)
        last = (wanted.stop - 1 + padding) // stride + 1
        first = min(max(first, 0), length - 1)
        return Span(first, max(min(last, length), first + 1))

    def run(self, pieces: Sequence[Piece], wanted: Region) -> torch.Tensor:
        (piece,) = pieces
        needed = needed_for(self, wanted, piece.size)
        places, missing = [], []
        for axis, (span, have) in enumerate(zip(wanted, needed, strict=True)):
            start = span.start + self.padding[axis] - have.start * self.stride[axis]
            made = (have.length - 1) * self.stride[axis] + self._reach(axis)
            places.append(slice(start, start + span.length))
            missing.append(max(0, start + span.length - made))
        return self.function(piece.part(needed), (missing[0], missing[1]))[..., places[0], places[1]]

    def _reach(self, axis: int) -> int:
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1


@dataclass(frozen=True)
class Shuffle:
    """Pixel shuffle: sides are multiplied by ``factor``."""

    factor: int

    def length(self, axis: int, length: int) -> int:
        return length * self.factor

    def needs(self, axis: int, wanted: Span, length: int) -> Span:
        return Span(wanted.start // self.factor, -(-wanted.stop // self.factor))

    def run(self, pieces: Sequence[Piece], wanted: Region) -> torch.Tensor:
        (piece,) = pieces
        needed = needed_for(self, wanted, piece.size)
        places = [
            slice(span.start - have.start * self.factor, span.stop - have.start * self.factor)
            for span, have in zip(wanted, needed, strict=True)
        ]
        return F.pixel_shuffle(piece.part(needed), self.factor)[..., places[0], places[1]]


@dataclass(frozen=True)
class Unshuffle:
    """Pixel unshuffle: sides are divided by ``factor``."""

    factor: int

    def length(self, axis: int, length: int) -> int:
        return length // self.factor

    def needs(self, axis: int, wanted: Span, length: int) -> Span:
        return Span(wanted.start * self.factor, wanted.stop * self.factor)

    def run(self, pieces: Sequence[Piece], wanted: Region) -> torch.Tensor:
        (piece,) = pieces
        needed = needed_for(self, wanted, piece.size)
        return F.pixel_unshuffle(piece.part(needed), self.factor)


@dataclass(frozen=True, kw_only=True)
class Enlarge:
    """Upsampling by an integer factor, nearest or bilinear.

    Args:
        align_corners: see :func:`torch.nn.functional.interpolate`: the step between pixels then depends on the length
            of the plane.
    """

    factor: int
    bilinear: bool = False
    align_corners: bool = False

    def length(self, axis: int, length: int) -> int:
        return length * self.factor

    def needs(self, axis: int, wanted: Span, length: int) -> Span:
        first, last = (self._place(place, length) for place in (wanted.start, wanted.stop - 1))
        return Span(min(max(math.floor(first), 0), length - 1), min(math.floor(last) + 1 + self.bilinear, length))

    def run(self, pieces: Sequence[Piece], wanted: Region) -> torch.Tensor:
        (piece,) = pieces
        x = piece.part(needed_for(self, wanted, piece.size))
        for axis, span in enumerate(wanted):
            first = self.needs(axis, span, piece.size[axis]).start
            x = self._along(axis, x, span, first, piece.size[axis])
        return x

    def _place(self, place: int, length: int) -> float:
        """The position in the input of a line of the output."""
        if not self.bilinear:
            return place // self.factor
        if self.align_corners:
            return place * (length - 1) / max(1, length * self.factor - 1)
        return max(0.0, (place + 0.5) / self.factor - 0.5)

    def _along(self, axis: int, x: torch.Tensor, wanted: Span, first: int, length: int) -> torch.Tensor:
        places = [self._place(place, length) for place in range(*wanted)]
        low = [math.floor(place) for place in places]
        dim = axis + 2
        lower = x.index_select(dim, torch.tensor(low, device=x.device) - first)
        if not self.bilinear:
            return lower
        high = torch.tensor([min(line + 1, length - 1) for line in low], device=x.device) - first
        shape = (-1, 1) if axis == 0 else (-1,)
        share = torch.tensor(
            [place - line for place, line in zip(places, low, strict=True)], device=x.device, dtype=x.dtype
        )
        return torch.lerp(lower, x.index_select(dim, high), share.view(shape))
