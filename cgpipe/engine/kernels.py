"""GPU kernels in Triton for everything between two convolutions, in one or two passes over memory.

Maps are (N, C, H, W) in channels_last. Imported only if Triton is installed.
"""

import torch
import triton
import triton.language as tl

TILE = 4096
"""Values that a program works on at a time."""
MAX_CHANNELS = 64
"""Channels of a tile, at most."""
PROGRAMS = 264
"""Programs that keep a large GPU busy: two per multiprocessor of an H100."""
MAX_CHUNKS = 32
"""Parts of a map that are summed in parallel."""
MAX_VALUES = 2**31
"""Most values of a map: offsets have 32 bits."""


@triton.jit(do_not_specialize=["pixels", "chunk_pixels", "chunks"])
def _sum_chunks(x, sums, pixels, channels, chunk_pixels, chunks, block: tl.constexpr, lanes: tl.constexpr):
    """Sums and squares of each channel over a chunk of a map, minus the channel's first value, for accuracy."""
    n, chunk = tl.program_id(0), tl.program_id(1)
    c = tl.program_id(2) * lanes + tl.arange(0, lanes)
    known = c < channels
    base = x + n.to(tl.int64) * pixels * channels
    first = tl.load(base + c, mask=known, other=0.0).to(tl.float32)
    total = tl.zeros((lanes,), tl.float32)
    squares = tl.zeros((lanes,), tl.float32)
    for start in range(0, chunk_pixels, block):
        p = chunk * chunk_pixels + start + tl.arange(0, block)
        inside = (p < pixels)[:, None] & known[None, :]
        values = tl.load(base + p[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
        values = tl.where(inside, values - first[None, :], 0.0)
        total += tl.sum(values, 0)
        squares += tl.sum(values * values, 0)
    place = sums + (n * chunks + chunk) * 2 * channels + c
    tl.store(place, total, mask=known)
    tl.store(place + channels, squares, mask=known)


@triton.jit(do_not_specialize=["height", "width", "chunks", "eps", "slope"])
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
    eps,
    slope,
    stride_n,
    stride_h,
    stride_w,
    padding: tl.constexpr,
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
    n = tl.program_id(0).to(tl.int64)
    q = tl.program_id(1) * block + tl.arange(0, block)
    c = tl.program_id(2) * lanes + tl.arange(0, lanes)
    known = c < channels
    wide = width + 2 * padding
    area = (height + 2 * padding) * wide
    inside = (q < area)[:, None] & known[None, :]
    row, column = q // wide - padding, q % wide - padding
    if padding > 0:
        row = height - 1 - tl.abs(height - 1 - tl.abs(row))
        column = width - 1 - tl.abs(width - 1 - tl.abs(column))
    pixels = height * width
    base = x + n * pixels * channels
    values = tl.load(base + (row * width + column)[:, None] * channels + c[None, :], mask=inside, other=0.0)
    values = values.to(tl.float32)
    if normalised:
        k = tl.arange(0, most_chunks)
        made = (k < chunks)[:, None] & known[None, :]
        place = sums + (n * chunks + k)[:, None] * 2 * channels + c[None, :]
        total = tl.sum(tl.load(place, mask=made, other=0.0), 0) / pixels
        squares = tl.sum(tl.load(place + channels, mask=made, other=0.0), 0) / pixels
        first = tl.load(base + c, mask=known, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.maximum(squares - total * total, 0.0) + eps)
        values = (values - (first + total)[None, :]) * scale[None, :]
    if scaled:
        values = values * tl.load(weight + c, mask=known, other=0.0).to(tl.float32)[None, :]
    if shifted:
        values = values + tl.load(bias + c, mask=known, other=0.0).to(tl.float32)[None, :]
    if activated:
        values = tl.where(values > 0, values, values * slope)
    if added:
        place = residual + n * stride_n + (row * stride_h + column * stride_w)[:, None] + c[None, :]
        values = values + tl.load(place, mask=inside, other=0.0).to(tl.float32)
    place = out + n * area * channels + q[:, None] * channels + c[None, :]
    tl.store(place, values.to(out.dtype.element_ty), mask=inside)


def between_convolutions(
    x: torch.Tensor,
    *,
    eps: float | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    slope: float | None,
    residual: torch.Tensor | None,
    pad: int,
) -> torch.Tensor:
    """Instance norm, scale, bias, (leaky) ReLU, addition and reflection padding of (N, C, H, W), each optional.

    Args:
        eps: of the norm; None for no norm.
        weight, bias: (C,), after the norm.
        slope: of the activation below 0; None for no activation.
        residual: (N, C, H, W), added after the activation.
        pad: pixels on every side.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    count, channels, height, width = x.shape
    if residual is not None and residual.stride(1) != 1:
        residual = residual.contiguous(memory_format=torch.channels_last)
    shape = (count, channels, height + 2 * pad, width + 2 * pad)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    lanes = min(MAX_CHANNELS, triton.next_power_of_2(channels))
    while lanes > 16 and channels % lanes:
        lanes //= 2
    block, columns = TILE // lanes, triton.cdiv(channels, lanes)
    pixels = height * width
    sums, chunks = x, 1
    if eps is not None:
        chunks = max(1, min(MAX_CHUNKS, triton.cdiv(pixels, block), PROGRAMS // (count * columns)))
        chunk_pixels = block * triton.cdiv(triton.cdiv(pixels, chunks), block)
        chunks = triton.cdiv(pixels, chunk_pixels)
        sums = torch.empty((count, chunks, 2, channels), dtype=torch.float32, device=x.device)
        _sum_chunks[(count, chunks, columns)](x, sums, pixels, channels, chunk_pixels, chunks, block=block, lanes=lanes)
    _apply[(count, triton.cdiv(shape[2] * shape[3], block), columns)](
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
        eps or 0.0,
        slope or 0.0,
        *((0, 0, 0) if residual is None else (residual.stride(0), residual.stride(2), residual.stride(3))),
        padding=pad,
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
