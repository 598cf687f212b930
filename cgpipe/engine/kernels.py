"""GPU kernels in Triton for everything between two convolutions, in one or two passes over memory.

Maps are (N, C, H, W) in channels_last. Imported only if Triton is installed. Places in a map are the first dimension of
a grid: the others end at 65,535.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
import triton
import triton.language as tl

P = ParamSpec("P")
R = TypeVar("R")

TILE = 4096
"""Values that a program applies a norm to at a time."""
SUMMED = 8192
"""Values that a program sums at a time: with 256 threads, enough reads are under way to fill the memory's pipes."""
MAX_CHANNELS = 64
"""Channels of a tile, at most."""
PROGRAMS = 264
"""Programs that keep a large GPU busy with sums: two per multiprocessor of an H100."""
MAX_CHUNKS = 32
"""Parts of a map that are summed in parallel: a power of two."""
ENOUGH_PROGRAMS = 2112
"""Programs up to which each applies a norm to one tile only."""
MOST_TILES = 8
"""Tiles to which a program applies a norm at most, for which it gathers the sums once."""


@triton.jit(do_not_specialize=["pixels", "chunk_pixels", "chunks"])
def _sum_chunks(
    x, sums, pixels, channels, chunk_pixels, chunks, block: tl.constexpr, lanes: tl.constexpr, whole: tl.constexpr
):
    """Sums and squares of each channel over a chunk of a map, minus the channel's first value, for accuracy.

    If ``whole``, no tile hangs over.
    """
    n, chunk = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * lanes + tl.arange(0, lanes)
    known = c < channels
    base = x + n.to(tl.int64) * pixels * channels
    first = tl.load(base + c, mask=known, other=0.0).to(tl.float32)
    # Values are added up place by place: reductions across threads in the loop would take longer than the memory does.
    total = tl.zeros((block, lanes), tl.float32)
    squares = tl.zeros((block, lanes), tl.float32)
    for start in range(0, chunk_pixels, block):
        p = chunk * chunk_pixels + start + tl.arange(0, block)
        places = base + p[:, None] * channels + c[None, :]
        if whole:
            values = tl.load(places).to(tl.float32) - first[None, :]
        else:
            inside = (p < pixels)[:, None] & known[None, :]
            values = tl.load(places, mask=inside, other=0.0).to(tl.float32)
            values = tl.where(inside, values - first[None, :], 0.0)
        total += values
        squares += values * values
    place = sums + (n * chunks + chunk) * 2 * channels + c
    tl.store(place, tl.sum(total, 0), mask=known)
    tl.store(place + channels, tl.sum(squares, 0), mask=known)


@triton.jit
def _reflected(index, size):
    """``index``, from less than ``size`` outside, reflected at the edges."""
    return size - 1 - tl.abs(size - 1 - tl.abs(index))


@triton.jit(do_not_specialize=["height", "width", "chunks", "tiles", "eps", "slope"])
def _apply(
    x,
    out,
    sums,
    weight,
    bias,
    residual,
    height,
    width,
    channels,
    chunks,
    tiles,
    eps,
    slope,
    stride_n,
    stride_h,
    stride_w,
    padding: tl.constexpr,
    folded: tl.constexpr,
    normalised: tl.constexpr,
    scaled: tl.constexpr,
    shifted: tl.constexpr,
    activated: tl.constexpr,
    added: tl.constexpr,
    block: tl.constexpr,
    lanes: tl.constexpr,
    most_chunks: tl.constexpr,
):
    """Normalises, activates, adds and pads by reflection: out is (N, height + 2 * padding, width + 2 * padding, C)."""
    n = tl.program_id(1).to(tl.int64)
    c = tl.program_id(2) * lanes + tl.arange(0, lanes)
    known = c < channels
    wide = width + 2 * padding
    area = (height + 2 * padding) * wide
    pixels = height * width
    base = x + n * pixels * channels
    factor = tl.full((lanes,), 1.0, tl.float32)
    summand = tl.zeros((lanes,), tl.float32)
    if scaled:
        factor = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
    if shifted:
        summand = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
    if normalised:
        k = tl.arange(0, most_chunks)
        made = (k < chunks)[:, None] & known[None, :]
        made_at = sums + (n * chunks + k)[:, None] * 2 * channels + c[None, :]
        mean = tl.sum(tl.load(made_at, mask=made, other=0.0), 0) / pixels
        squares = tl.sum(tl.load(made_at + channels, mask=made, other=0.0), 0) / pixels
        factor = factor / tl.sqrt(tl.maximum(squares - mean * mean, 0.0) + eps)
        mean += tl.load(base + c, mask=known, other=0.0).to(tl.float32)
    for tile in range(0, tiles):
        q = (tl.program_id(0) * tiles + tile) * block + tl.arange(0, block)
        inside = (q < area)[:, None] & known[None, :]
        row, column = q // wide, q % wide
        if padding > 0:
            row, column = _reflected(row - padding, height), _reflected(column - padding, width)
        pixel = row * width + column
        if folded > 1:
            square = (row // folded) * (width // folded) + column // folded
            pixel = square * (folded * folded) + (row % folded) * folded + column % folded
        values = tl.load(base + pixel[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        if normalised:
            values = values - mean[None, :]
        if normalised or scaled:
            values = values * factor[None, :]
        if shifted:
            values = values + summand[None, :]
        if activated:
            values = tl.where(values > 0, values, values * slope)
        if added:
            other = residual + n * stride_n + (row * stride_h + column * stride_w)[:, None] + c[None, :]
            values = values + tl.load(other, mask=inside, other=0.0).to(tl.float32)
        place = out + n * area * channels + q[:, None] * channels + c[None, :]
        tl.store(place, values.to(out.dtype.element_ty), mask=inside)


def on_its_device(launch: Callable[P, R]) -> Callable[P, R]:
    """Launches kernels on the device of the first argument: Triton's own choice is the current one."""

    @wraps(launch)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = args[0].device  # type: ignore[attr-defined]
        if device.type != "cuda":  # Triton's interpreter
            return launch(*args, **kwargs)
        with torch.cuda.device(device):
            return launch(*args, **kwargs)

    return run


@on_its_device
def between_convolutions(
    x: torch.Tensor,
    *,
    eps: float | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    slope: float | None,
    residual: torch.Tensor | None,
    pad: int,
    folded: int = 1,
) -> torch.Tensor:
    """Instance norm, scale, bias, (leaky) ReLU, addition and reflection padding of (N, C, H, W), each optional.

    Args:
        eps: of the norm; None for no norm.
        weight, bias: (C,), after the norm.
        slope: of the activation below 0; None for no activation.
        residual: (N, C, H, W), added after the activation.
        pad: pixels on every side.
        folded: side k of the squares of pixels that stand as one in ``x``, then (N, k * k * C, H / k, W / k) with the
            channels in the order row, column, channel.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = x.shape[0], x.shape[1] // folded**2, x.shape[2] * folded, x.shape[3] * folded
    if residual is not None and residual.stride(1) != 1:
        residual = residual.contiguous(memory_format=torch.channels_last)
    shape = (count, channels, height + 2 * pad, width + 2 * pad)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    lanes = min(MAX_CHANNELS, triton.next_power_of_2(channels))
    while lanes > 16 and channels % lanes:
        lanes //= 2
    columns = triton.cdiv(channels, lanes)
    pixels = height * width
    sums, chunks = x, 1
    if eps is not None:
        block = SUMMED // lanes
        # A power of two: maps of usual sizes are divided without a rest.
        most = max(1, min(MAX_CHUNKS, PROGRAMS // (count * columns), triton.cdiv(pixels, block)))
        chunk_pixels = block * triton.cdiv(triton.cdiv(pixels, 1 << most.bit_length() - 1), block)
        chunks = triton.cdiv(pixels, chunk_pixels)
        whole = chunks * chunk_pixels == pixels and columns * lanes == channels
        sums = torch.empty((count, chunks, 2, channels), dtype=torch.float32, device=x.device)
        _sum_chunks[(count, chunks, columns)](
            x, sums, pixels, channels, chunk_pixels, chunks, block=block, lanes=lanes, whole=whole, num_warps=8
        )
    block = TILE // lanes
    blocks = triton.cdiv(shape[2] * shape[3], block)
    tiles = max(1, min(MOST_TILES, blocks * count * columns // ENOUGH_PROGRAMS))
    _apply[(triton.cdiv(blocks, tiles), count, columns)](
        x,
        out,
        sums,
        x if weight is None else weight,
        x if bias is None else bias,
        x if residual is None else residual,
        height,
        width,
        channels,
        chunks,
        tiles,
        eps or 0.0,
        slope or 0.0,
        *((0, 0, 0) if residual is None else (residual.stride(0), residual.stride(2), residual.stride(3))),
        padding=pad,
        folded=folded,
        normalised=eps is not None,
        scaled=weight is not None,
        shifted=bias is not None,
        activated=slope is not None,
        added=residual is not None,
        block=block,
        lanes=lanes,
        most_chunks=MAX_CHUNKS,
    )
    return out


@triton.jit(do_not_specialize=["height", "width"])
def _fold(
    x,
    out,
    height,
    width,
    channels: tl.constexpr,
    places: tl.constexpr,
    padding: tl.constexpr,
    factor: tl.constexpr,
    block: tl.constexpr,
):
    n = tl.program_id(1).to(tl.int64)
    high, wide = (height + 2 * padding) // factor, (width + 2 * padding) // factor
    q = tl.program_id(0) * block + tl.arange(0, block)
    lanes = factor * factor * places
    k, p = q % lanes, q // lanes
    c, square = k % places, k // places
    row = _reflected((p // wide) * factor + square // factor - padding, height)
    column = _reflected((p % wide) * factor + square % factor - padding, width)
    inside = q < high * wide * lanes
    place = x + n * height * width * channels + (row * width + column) * channels + c
    values = tl.load(place, mask=inside & (c < channels), other=0.0)
    tl.store(out + n * high * wide * lanes + q, values, mask=inside)


@on_its_device
def fold(x: torch.Tensor, *, pad: int, factor: int, places: int) -> torch.Tensor:
    """Pads (N, C, H, W) by reflection and folds squares of pixels into one.

    Returns:
        (N, factor * factor * places, (H + 2 * pad) / factor, (W + 2 * pad) / factor), channels in the order row,
        column, channel; places beyond C are 0.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = x.shape
    shape = (count, factor**2 * places, (height + 2 * pad) // factor, (width + 2 * pad) // factor)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    blocks = triton.cdiv(out[0].numel(), 1024)
    _fold[(blocks, count)](
        x, out, height, width, channels=channels, places=places, padding=pad, factor=factor, block=1024
    )
    return out


@triton.jit(do_not_specialize=["height", "width"])
def _unfold(
    x,
    out,
    bias,
    height,
    width,
    channels: tl.constexpr,
    factor: tl.constexpr,
    shifted: tl.constexpr,
    squashed: tl.constexpr,
    block: tl.constexpr,
):
    n = tl.program_id(1).to(tl.int64)
    q = tl.program_id(0) * block + tl.arange(0, block)
    inside = q < height * width * channels
    c, p = q % channels, q // channels
    row, column = p // width, p % width
    k = (c * factor + row % factor) * factor + column % factor
    square = (row // factor) * (width // factor) + column // factor
    place = x + n * height * width * channels + square * (channels * factor * factor) + k
    values = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    if shifted:
        values += tl.load(bias + k, mask=inside, other=0.0).to(tl.float32)
    if squashed:
        values = 2 * tl.sigmoid(2 * values) - 1
    tl.store(out + n * height * width * channels + q, values.to(out.dtype.element_ty), mask=inside)


@on_its_device
def unfold(x: torch.Tensor, *, factor: int, bias: torch.Tensor | None, tanh: bool) -> torch.Tensor:
    """``F.pixel_shuffle`` of (N, C, H, W), after adding a bias, (C,), and before tanh, each optional."""
    x = x.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = x.shape[0], x.shape[1] // factor**2, x.shape[2] * factor, x.shape[3] * factor
    shape = (count, channels, height, width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    blocks = triton.cdiv(out[0].numel(), 1024)
    _unfold[(blocks, count)](
        x,
        out,
        x if bias is None else bias,
        height,
        width,
        channels=channels,
        factor=factor,
        shifted=bias is not None,
        squashed=tanh,
        block=1024,
    )
    return out


@triton.jit(do_not_specialize=["size", "black", "half"])
def _from_pixels(pixels, out, size, black, half, block: tl.constexpr):
    q = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    values = tl.load(pixels + q, mask=q < size, other=0).to(tl.float32)
    values = (values - black) / half - 1.0
    values = tl.minimum(tl.maximum(values, -1.0), 1.0)
    tl.store(out + q, values.to(out.dtype.element_ty), mask=q < size)


@on_its_device
def from_pixels(pixels: torch.Tensor, *, black: float, white: float, dtype: torch.dtype) -> torch.Tensor:
    """Integers (N, H, W, C) as (N, C, H, W) in [-1, 1]."""
    out = torch.empty(pixels.shape, dtype=dtype, device=pixels.device)
    size = out.numel()
    _from_pixels[(triton.cdiv(size, 1024),)](pixels.contiguous(), out, size, black, (white - black) / 2, block=1024)
    return out.permute(0, 3, 1, 2)


@triton.jit(do_not_specialize=["size", "width", "black", "half", "most", "stride_n", "stride_h"])
def _to_pixels(
    x, pixels, sums, size, width, black, half, most, stride_n, stride_h, channels: tl.constexpr, block: tl.constexpr
):
    n = tl.program_id(1).to(tl.int64)
    q = tl.program_id(0) * block + tl.arange(0, block)
    inside = q < size
    row, place = q // (width * channels), q % (width * channels)
    values = tl.load(x + n * stride_n + row * stride_h + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(sums + n * tl.num_programs(0) + tl.program_id(0), tl.sum(values, 0))
    values = (values + 1.0) * half + black
    values = tl.minimum(tl.maximum(values, 0.0), most)
    # Above 2^23 floats are integers: this rounds to the nearest, halves to even.
    values = (values + 12582912.0) - 12582912.0
    tl.store(pixels + n * size + q, values.to(tl.int32).to(pixels.dtype.element_ty), mask=inside)


@on_its_device
def to_pixels(
    x: torch.Tensor, *, black: float, white: float, most: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, C, H, W) in [-1, 1] as integers (N, H, W, C), limited to 0 to ``most``, and the sum of each picture."""
    count, channels, height, width = x.shape
    if x.stride(1) != 1 or x.stride(3) != channels:
        x = x.contiguous(memory_format=torch.channels_last)
    pixels = torch.empty((count, height, width, channels), dtype=dtype, device=x.device)
    size = pixels[0].numel()
    blocks = triton.cdiv(size, 1024)
    sums = torch.empty((count, blocks), dtype=torch.float32, device=x.device)
    _to_pixels[(blocks, count)](
        x,
        pixels,
        sums,
        size,
        width,
        black,
        (white - black) / 2,
        most,
        x.stride(0),
        x.stride(2),
        channels=channels,
        block=1024,
    )
    return pixels, sums.sum(1)
