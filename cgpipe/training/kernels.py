"""GPU kernels in Triton for instance norm and reflection padding, forward and backward.

Maps are (N, C, H, W) in channels_last. Imported only if Triton is installed.
"""

import torch
import triton
import triton.language as tl

TILE = 4096
"""Values that a program works on at a time."""
MAX_LANES = 64
"""Channels of a tile, at most."""
PROGRAMS = 264
"""Programs that keep a large GPU busy: two per multiprocessor of an H100."""
MAX_CHUNKS = 128
"""Parts of a map that are summed in parallel."""
MAX_VALUES = 2**30
"""Most values of a map: offsets within one, and within one that is padded, have 32 bits."""


@triton.jit(do_not_specialize=["pixels", "chunk_pixels", "chunks"])
def _sum_chunks(
    x, grad, stats, sums, pixels, channels, chunk_pixels, chunks,
    backward: tl.constexpr, block: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """Two sums of each channel over a chunk of a map.

    Forward: of the values, minus the channel's first one for accuracy, and of their squares. Backward: of the
    gradients, and of their products with the normalised values.
    """
    n, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * lanes + tl.arange(0, lanes)
    known = c < channels
    base = n * pixels * channels
    scale = tl.full((lanes,), 1.0, tl.float32)
    if backward:
        middle = tl.load(stats + 2 * n * channels + c, mask=known, other=0.0)
        scale = tl.load(stats + (2 * n + 1) * channels + c, mask=known, other=0.0)
    else:
        middle = tl.load(x + base + c, mask=known, other=0.0).to(tl.float32)
    first = tl.zeros((lanes,), tl.float32)
    second = tl.zeros((lanes,), tl.float32)
    for start in range(0, chunk_pixels, block):
        p = chunk * chunk_pixels + start + tl.arange(0, block)
        inside = (p < pixels)[:, None] & known[None, :]
        place = base + p[:, None] * channels + c[None, :]
        values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        values = tl.where(inside, (values - middle[None, :]) * scale[None, :], 0.0)
        factors = values
        if backward:
            factors = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        first += tl.sum(factors, 0)
        second += tl.sum(factors * values, 0)
    place = sums + (n * chunks + chunk) * 2 * channels + c
    tl.store(place, first, mask=known)
    tl.store(place + channels, second, mask=known)


@triton.jit(do_not_specialize=["pixels", "chunk_pixels", "chunks", "eps"])
def _apply(
    x, grad, out, stats, sums, pixels, channels, chunk_pixels, chunks, eps,
    backward: tl.constexpr, block: tl.constexpr, lanes: tl.constexpr, most_chunks: tl.constexpr,
):  # fmt: skip
    """Normalises a chunk, and stores the mean and the scale of its map; backward: the gradient of the values."""
    n, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * lanes + tl.arange(0, lanes)
    known = c < channels
    base = n * pixels * channels
    k = tl.arange(0, most_chunks)
    made = (k < chunks)[:, None] & known[None, :]
    summed = sums + (n * chunks + k)[:, None] * 2 * channels + c[None, :]
    first = tl.sum(tl.load(summed, mask=made, other=0.0), 0) / pixels
    second = tl.sum(tl.load(summed + channels, mask=made, other=0.0), 0) / pixels
    of_mean = stats + 2 * n * channels + c
    if backward:
        mean = tl.load(of_mean, mask=known, other=0.0)
        scale = tl.load(of_mean + channels, mask=known, other=0.0)
    else:
        mean = tl.load(x + base + c, mask=known, other=0.0).to(tl.float32) + first
        scale = 1.0 / tl.sqrt(tl.maximum(second - first * first, 0.0) + eps)
        if chunk == 0:
            tl.store(of_mean, mean, mask=known)
            tl.store(of_mean + channels, scale, mask=known)
    for start in range(0, chunk_pixels, block):
        p = chunk * chunk_pixels + start + tl.arange(0, block)
        inside = (p < pixels)[:, None] & known[None, :]
        place = base + p[:, None] * channels + c[None, :]
        values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        values = (values - mean[None, :]) * scale[None, :]
        if backward:
            slopes = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
            values = (slopes - first[None, :] - values * second[None, :]) * scale[None, :]
        tl.store(out + place, values.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["height", "width"])
def _reflect(
    x, out, height, width, channels,
    padding: tl.constexpr, block: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """Pads by reflection: out is (N, height + 2 * padding, width + 2 * padding, C)."""
    n = tl.program_id(1).to(tl.int64)
    q = tl.program_id(0) * block + tl.arange(0, block)
    c = tl.program_id(2) * lanes + tl.arange(0, lanes)
    wide = width + 2 * padding
    area = (height + 2 * padding) * wide
    inside = (q < area)[:, None] & (c < channels)[None, :]
    row = height - 1 - tl.abs(height - 1 - tl.abs(q // wide - padding))
    column = width - 1 - tl.abs(width - 1 - tl.abs(q % wide - padding))
    place = n * height * width * channels + (row * width + column)[:, None] * channels + c[None, :]
    values = tl.load(x + place, mask=inside, other=0.0)
    tl.store(out + n * area * channels + q[:, None] * channels + c[None, :], values, mask=inside)


@triton.jit(do_not_specialize=["height", "width"])
def _gather(
    grad, out, height, width, channels,
    padding: tl.constexpr, block: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    """The gradient of padding: each pixel's own, and those of its up to three mirror images."""
    n = tl.program_id(1).to(tl.int64)
    q = tl.program_id(0) * block + tl.arange(0, block)
    c = tl.program_id(2) * lanes + tl.arange(0, lanes)
    inside = (q < height * width)[:, None] & (c < channels)[None, :]
    row, column = q // width, q % width
    wide = width + 2 * padding
    base = grad + n * (height + 2 * padding) * wide * channels
    total = tl.zeros((block, lanes), tl.float32)
    for i in tl.static_range(3):
        r, in_rows = _image(row, height, padding, i)
        for j in tl.static_range(3):
            s, in_columns = _image(column, width, padding, j)
            there = inside & (in_rows & in_columns)[:, None]
            place = base + (r * wide + s)[:, None] * channels + c[None, :]
            total += tl.load(place, mask=there, other=0.0).to(tl.float32)
    place = out + n * height * width * channels + q[:, None] * channels + c[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _image(at, side, padding: tl.constexpr, which: tl.constexpr):
    """Where a row or column is in the padded map: itself, mirrored at the start, or mirrored at the end."""
    if which == 0:
        place = at + padding
        there = at >= 0
    elif which == 1:
        place = padding - at
        there = (at >= 1) & (at <= padding)
    else:
        place = 2 * (side - 1) - at + padding
        there = (at <= side - 2) & (at >= side - 1 - padding)
    return place, there


def normalise(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Instance norm of (N, C, H, W) in channels_last, and the (N, 2, C) means and scales in float32."""
    stats = torch.empty((x.shape[0], 2, x.shape[1]), dtype=torch.float32, device=x.device)
    return _in_two_passes(x, x, stats, eps, backward=False), stats


def normalise_backward(grad: torch.Tensor, x: torch.Tensor, stats: torch.Tensor) -> torch.Tensor:
    """The gradient of ``x`` by that of its norm, both in channels_last."""
    return _in_two_passes(x, grad, stats, 0.0, backward=True)


def _in_two_passes(
    x: torch.Tensor, grad: torch.Tensor, stats: torch.Tensor, eps: float, *, backward: bool
) -> torch.Tensor:
    count, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    block, lanes, columns = _tile(channels)
    most = min(MAX_CHUNKS, triton.cdiv(pixels, block), max(1, PROGRAMS // (count * columns)))
    chunk_pixels = block * triton.cdiv(triton.cdiv(pixels, most), block)
    chunks = triton.cdiv(pixels, chunk_pixels)
    sums = torch.empty((count, chunks, 2, channels), dtype=torch.float32, device=x.device)
    out = torch.empty_like(x)
    grid, sizes = (count, chunks, columns), (pixels, channels, chunk_pixels, chunks)
    ways = {"backward": backward, "block": block, "lanes": lanes, "num_warps": 8}
    _sum_chunks[grid](x, grad, stats, sums, *sizes, **ways)
    _apply[grid](x, grad, out, stats, sums, *sizes, eps, most_chunks=triton.next_power_of_2(chunks), **ways)
    return out


def reflect(x: torch.Tensor, padding: int) -> torch.Tensor:
    """Pads (N, C, H, W) in channels_last by reflection on every side."""
    count, channels, height, width = x.shape
    shape = (count, channels, height + 2 * padding, width + 2 * padding)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    _over_pixels(_reflect, x, out, (height, width, channels), padding)
    return out


def reflect_backward(grad: torch.Tensor, padding: int) -> torch.Tensor:
    """The gradient of :func:`reflect`'s input by that of its output, in channels_last."""
    count, channels, tall, wide = grad.shape
    shape = (count, channels, tall - 2 * padding, wide - 2 * padding)
    out = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    _over_pixels(_gather, grad, out, (*shape[2:], channels), padding)
    return out


def _over_pixels(kernel, source, out, sizes, padding):
    block, lanes, columns = _tile(out.shape[1])
    grid = (triton.cdiv(out.shape[2] * out.shape[3], block), len(out), columns)  # only the first may be large
    kernel[grid](source, out, *sizes, padding=padding, block=block, lanes=lanes, num_warps=8)


def _tile(channels: int) -> tuple[int, int, int]:
    """Pixels and channels of a tile, and the tiles that all channels need."""
    lanes = min(MAX_LANES, triton.next_power_of_2(channels))
    while lanes > 16 and channels % lanes:
        lanes //= 2
    return TILE // lanes, lanes, triton.cdiv(channels, lanes)
