"""Convolutions of stride 1 with fewer multiplications, in fp32 on a CPU.

Winograd's F(4x4, 3x3) and F(3x3, 4x4) (arXiv 1509.09308): an output tile of 4x4, or of 3x3, pixels takes 36
multiplications a pair of channels in place of 144. The ways into that space and out of it are small matrix products,
so all of it is torch's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import torch
from torch.nn import functional as F

WINDOW = 6
"""Side of what a tile of the output sees of the input; larger ones multiply still less, and round worse."""
KERNELS = (3, 4)
"""Sides of kernels; the tile's is what a window leaves, 4 and 3."""
BAND = 256
"""Tiles that are worked on at a time, about: what comes between then lies in the cache."""

INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
KERNEL: Mapping[int, Sequence[Sequence[float]]] = {
    3: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    4: [
        [1 / 4, 0, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6, 1 / 6],
        [1 / 24, 1 / 12, 1 / 6, 1 / 3],
        [1 / 24, -1 / 12, 1 / 6, -1 / 3],
        [0, 0, 0, 1],
    ],
}
OUTPUT = {
    3: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 1]],
}
"""B^T, G and A^T of the paper's section 4.3 with the points 0, 1, -1, 2, -2 and infinity; two by the kernel's side."""


def convolve(
    x: torch.Tensor, kernel: torch.Tensor, side: int, padding: int = 0, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Convolves (N, C, H, W), with ``padding`` zeros around it, with a :func:`transform_kernel` of ``side``.

    Args:
        bias: (D,), added to every pixel.

    Returns:
        (N, D, H + 2 * padding + 1 - side, W + 2 * padding + 1 - side), channels_last.
    """
    count, outputs, tile, seam = len(x), kernel.shape[2], WINDOW + 1 - side, side - 1
    height, width = (length + 2 * padding - seam for length in x.shape[2:])
    padded = _of_whole_tiles(x, tile, padding, height, width)
    columns = (padded.shape[3] - seam) // tile
    result = padded.new_empty(count, padded.shape[2] - seam, columns, tile, outputs)
    for top, bottom in _bands(count, padded.shape[2] - seam, columns, tile):
        product = torch.bmm(_transform_input(padded[:, :, top : bottom + seam], tile), kernel)
        tiles = _both_ways(_output(side, padded.dtype), product).view(tile, tile, count, -1, columns, outputs)
        pixels, place = tiles.permute(2, 3, 0, 4, 1, 5), result[:, top:bottom].unflatten(1, (-1, tile))
        if bias is None:
            place.copy_(pixels)
        else:
            torch.add(pixels, bias, out=place)
    return result.flatten(2, 3)[:, :height, :width].permute(0, 3, 1, 2)


def transform_kernel(weight: torch.Tensor) -> torch.Tensor:
    """(D, C, side, side) to (36, C, D)."""
    outputs, inputs, side, _ = weight.shape
    taps = weight.permute(2, 3, 1, 0).reshape(side * side, -1)
    return (_kernel(side, weight.dtype) @ taps).view(-1, inputs, outputs)


def gradients(
    gradient: torch.Tensor, x: torch.Tensor, kernel: torch.Tensor, padding: int, *, of_input: bool, of_weight: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Of the result of :func:`convolve`, back to what it took: each of its steps, transposed.

    Returns:
        (N, C, H, W) and (D, C, side, side); None for one that is not asked for.
    """
    count, outputs, height, width = gradient.shape
    side = x.shape[2] + 2 * padding + 1 - height
    tile, seam = WINDOW + 1 - side, side - 1
    padded, whole = _of_whole_tiles(x, tile, padding, height, width), _of_whole_tiles(gradient, tile, 0, height, width)
    inputs, rows, columns = x.shape[1], whole.shape[2] // tile, whole.shape[3] // tile
    way_out, way_in = _output(side, x.dtype).T, _input(x.dtype).T
    pixels = x.new_zeros(count, rows + 1, tile, columns + 1, tile, inputs) if of_input else None
    taps = None
    for top, bottom in _bands(count, whole.shape[2], columns, tile):
        product = _both_ways(way_out, _windows(whole[:, :, top:bottom], tile, tile)).view(WINDOW**2, -1, outputs)
        if of_weight:
            seen = _transform_input(padded[:, :, top : bottom + seam], tile).transpose(1, 2)
            taps = torch.bmm(seen, product) if taps is None else taps.baddbmm_(seen, product)
        if pixels is not None:
            windows = _both_ways(way_in, torch.bmm(product, kernel.transpose(1, 2)))
            windows = windows.view(WINDOW, WINDOW, count, -1, columns, inputs)
            _overlap_add(pixels[:, top // tile : bottom // tile + 1], windows.permute(2, 3, 0, 4, 1, 5))
    return (
        None if pixels is None else _cut_out(pixels.flatten(3, 4).flatten(1, 2), padding, x.shape),
        None if taps is None else _inverse_kernel_transform(taps, side),
    )


def _cut_out(pixels: torch.Tensor, margin: int, shape: torch.Size) -> torch.Tensor:
    """(N, H, W, C) without its margins, as (N, C, H, W) of ``shape``."""
    height, width = shape[2:]
    return pixels[:, margin : margin + height, margin : margin + width].permute(0, 3, 1, 2)


def _inverse_kernel_transform(taps: torch.Tensor, side: int) -> torch.Tensor:
    """:func:`transform_kernel`, transposed: (36, C, D) to (D, C, side, side)."""
    inputs, outputs = taps.shape[1:]
    kernels = _kernel(side, taps.dtype).T @ taps.flatten(1)
    return kernels.view(side, side, inputs, outputs).permute(3, 2, 0, 1)


def _overlap_add(pixels: torch.Tensor, windows: torch.Tensor) -> None:
    """Adds windows (N, rows, 6, columns, 6, C) to pixels (N, rows + 1, tile, columns + 1, tile, C)."""
    tile = pixels.shape[2]
    seam = WINDOW - tile
    pixels[:, :-1, :, :-1] += windows[:, :, :tile, :, :tile]
    pixels[:, 1:, :seam, :-1] += windows[:, :, tile:, :, :tile]
    pixels[:, :-1, :, 1:, :seam] += windows[:, :, :tile, :, tile:]
    pixels[:, 1:, :seam, 1:, :seam] += windows[:, :, tile:, :, tile:]


def _bands(count: int, height: int, columns: int, tile: int) -> Iterator[tuple[int, int]]:
    """First and last rows, of the output, of bands of whole tiles."""
    rows = tile * max(1, round(BAND / (count * columns)))
    for top in range(0, height, rows):
        yield top, min(height, top + rows)


def _of_whole_tiles(x: torch.Tensor, tile: int, padding: int, height: int, width: int) -> torch.Tensor:
    """``x`` with zeros around it, and with more of them below and to the right until the result's tiles are whole."""
    down, right = -height % tile, -width % tile
    return F.pad(x, (padding, padding + right, padding, padding + down)) if padding or down or right else x


def _transform_input(padded: torch.Tensor, tile: int) -> torch.Tensor:
    """(N, C, H, W), seen in whole windows a tile apart, to (36, tiles of all pictures, C)."""
    transformed = _both_ways(_input(padded.dtype), _windows(padded, WINDOW, tile))
    return transformed.view(WINDOW * WINDOW, -1, padded.shape[1])


def _windows(x: torch.Tensor, side: int, step: int) -> torch.Tensor:
    """(N, C, H, W) as (side, side, N, rows, columns, C)."""
    return x.permute(0, 2, 3, 1).unfold(1, side, step).unfold(2, side, step).permute(4, 5, 0, 1, 2, 3)


def _both_ways(matrix: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """``matrix`` times windows times its transpose, each window lying along the first two dimensions."""
    outputs, inputs = matrix.shape
    rows = (matrix @ windows.reshape(inputs, -1)).view(outputs, inputs, -1)
    return torch.matmul(matrix, rows)


@lru_cache
def _input(dtype: torch.dtype) -> torch.Tensor:
    return _kept(INPUT, dtype)


@lru_cache
def _output(side: int, dtype: torch.dtype) -> torch.Tensor:
    return _kept(OUTPUT[side], dtype)


@lru_cache
def _kernel(side: int, dtype: torch.dtype) -> torch.Tensor:
    """For both ways at once, as kernels are small: (36, side * side)."""
    with torch.inference_mode(False):
        one_way = _kept(KERNEL[side], dtype)
        return torch.kron(one_way, one_way)


def _kept(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> torch.Tensor:
    with torch.inference_mode(False):  # for the next caller, with gradients or without
        return torch.tensor(rows, dtype=dtype)
