"""A GPU kernel in Triton that brings a change up to the size of the picture, and adds it, in one pass over memory."""

import torch
import triton
import triton.language as tl

from cgpipe.engine.kernels import on_its_device

BLOCK = 256
"""Pixels of a program."""


@triton.jit
def _far(distance):
    """The weight of bicubic interpolation between one and two places away."""
    return ((-0.75 * distance + 3.75) * distance - 6.0) * distance + 3.0


@triton.jit
def _near(distance):
    """The weight up to one place away."""
    return (1.25 * distance - 2.25) * distance * distance + 1.0


@triton.jit
def _weight(part, tap: tl.constexpr):
    """The weight of one of four places around a point, ``part`` of the way from the second to the third."""
    if tap == 0:
        weight = _far(part + 1.0)
    elif tap == 1:
        weight = _near(part)
    elif tap == 2:
        weight = _near(1.0 - part)
    else:
        weight = _far(2.0 - part)
    return weight


@triton.jit
def _added(value, change, lost):
    """What becomes of a value: a level of 8 bits."""
    return tl.minimum(tl.maximum(tl.floor(value + change - lost * value + 0.5), 0.0), 255.0)


@triton.jit(do_not_specialize=["area", "width", "rows", "columns", "step_y", "step_x"])
def _add_change(pixels, both, out, area, width, rows, columns, step_y, step_x, block: tl.constexpr):
    n = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * block + tl.arange(0, block)
    inside = p < area
    place_y = ((p // width).to(tl.float32) + 0.5) * step_y - 0.5
    place_x = ((p % width).to(tl.float32) + 0.5) * step_x - 0.5
    floor_y, floor_x = tl.floor(place_y), tl.floor(place_x)
    part_y, part_x = place_y - floor_y, place_x - floor_x
    first_y, first_x = floor_y.to(tl.int32) - 1, floor_x.to(tl.int32) - 1
    red = tl.zeros((block,), tl.float32)
    green, blue, lost = red, red, red
    for i in tl.static_range(4):
        row = tl.minimum(tl.maximum(first_y + i, 0), rows - 1)
        down = _weight(part_y, i)
        for j in tl.static_range(4):
            column = tl.minimum(tl.maximum(first_x + j, 0), columns - 1)
            weight = down * _weight(part_x, j)
            there = both + (n * rows + row) * (columns * 4) + column * 4
            red += weight * tl.load(there)
            green += weight * tl.load(there + 1)
            blue += weight * tl.load(there + 2)
            lost += weight * tl.load(there + 3)
    here = (n * area + p) * 3
    for channel in tl.static_range(3):
        change = red if channel == 0 else (green if channel == 1 else blue)
        value = tl.load(pixels + here + channel, mask=inside, other=0).to(tl.float32)
        tl.store(out + here + channel, _added(value, change, lost).to(tl.uint8), mask=inside)


@on_its_device
def add_change_up(pixels: torch.Tensor, change: torch.Tensor, lost: torch.Tensor) -> torch.Tensor:
    """``pixels + change - lost * pixels``, with change and lost upsampled bicubically, as torch does it.

    Args:
        pixels: (N, H, W, 3), uint8.
        change: (N, 3, h, w), float32, no higher or wider than the pixels.
        lost: (N, 1, h, w), float32.

    Returns:
        Rounded and clamped, as the pixels.
    """
    pixels = pixels.contiguous()
    both = torch.cat([change, lost], 1).permute(0, 2, 3, 1).contiguous()
    out = torch.empty_like(pixels)
    (count, height, width), (rows, columns) = pixels.shape[:3], both.shape[1:3]
    grid = (triton.cdiv(height * width, BLOCK), count)
    steps = (rows / height, columns / width)
    _add_change[grid](pixels, both, out, height * width, width, rows, columns, *steps, block=BLOCK)
    return out
