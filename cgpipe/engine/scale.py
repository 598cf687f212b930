"""The working size of a generator, and how its result returns to the picture's own size.

A generator knows its subject at the size of its training pictures. A larger picture is reduced for the generator; the
*change* (translated minus original, at the working size) is upsampled to the picture's size and added to the original,
which so keeps its detail, except detail that the generator removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Literal

import torch
from torch.nn import functional as F

from cgpipe.engine.between import can_fuse, upsampling
from cgpipe.engine.worker_pool import worker_pool
from cgpipe.models.card import ModelCard
from cgpipe.networks.fixed import fill_up
from cgpipe.scratch import is_scratch, release, room_for

Size = int | Literal["auto", "full", "output"]

AT_ONCE_PIXELS = 1 << 25
"""Pixels of a batch up to which a GPU adds the change to all of it at once, at about 60 bytes per pixel."""
BAND_PIXELS = 1 << 22
"""Pixels of a large picture that are reduced at a time, to bound memory."""
BAND_LINES = 24
"""Lines of a large picture to which the change is added at a time: for 12 megapixels they fit in a cache."""
BAND_COLUMNS = 96
"""Columns that are resampled at a time: with fewer the matrices are too small to be fast, with more mostly zeros."""

DETAIL_REACH = 3
"""Radius in pixels, at the working size, within which detail before and after is compared."""
FAINT = 6 / 255
"""Detail, as a fraction of white, whose loss is ignored: noise and grain, which every generator smooths."""
SOFTENED = 0.2
"""Fraction of stronger detail whose loss is ignored: the softness of every generator."""

MOST_ENLARGED = 4
"""Largest factor by which a small picture is enlarged for the generator, so that a thin strip does not become huge."""


MOST_PIXELS = 1 << 21
"""Most pixels of the working size for ``auto``, a little more than Full HD: beyond, a network of another project may
exceed memory, and a long thin picture would be enlarged into a huge one."""

MOST_REDUCED = 3
"""Factor by which a style reduces large pictures: a stroke of one pixel, brought up by more, would be a blot."""

MIDDLE_SCALE = 256
"""Short side, in pixels, of training and of published metrics; the working size of larger pictures."""


def working_size(
    height: int, width: int, size: Size, scales: tuple[int, int] | None, large_side: int | None = None
) -> tuple[int, int]:
    """Height and width at which the generator sees a picture of ``height`` x ``width``.

    Args:
        size: the short side in pixels; ``full`` (or ``output``) for the picture's own; ``auto`` for its own if that is
            within ``scales``. A smaller picture is enlarged to the lower bound; a larger one is reduced to the scale
            nearest to :data:`MIDDLE_SCALE`, since more pixels cost time and show no more of the subject, or, up to
            ``large_side``, to a third (:data:`MOST_REDUCED`). ``auto`` never exceeds :data:`MOST_PIXELS`.
        scales: the smallest and the largest short side, in pixels, at which the model works well; ``None`` if unknown:
            ``auto`` then takes the picture's own size, within :data:`MOST_PIXELS`.
        large_side: the largest short side for larger pictures; ``None``: :data:`MIDDLE_SCALE`.
    """
    if size == "full" or size == "output":
        return height, width
    short = min(height, width)
    target = min(_auto_side(height, width, scales, large_side) if size == "auto" else size, MOST_ENLARGED * short)
    return max(1, round(height * target / short)), max(1, round(width * target / short))


def fitting_size(height: int, width: int, fixed: tuple[int, int]) -> tuple[int, int]:
    """The size of a picture scaled to fit a network's fixed input size."""
    scale = min(fixed[0] / height, fixed[1] / width)
    return min(fixed[0], max(1, round(height * scale))), min(fixed[1], max(1, round(width * scale)))


def _auto_side(height: int, width: int, scales: tuple[int, int] | None, large_side: int | None) -> float:
    """The short side for ``auto``."""
    short = min(height, width)
    smallest, largest = scales or (short, short)
    reduced = min(max(MIDDLE_SCALE, smallest), largest)
    if large_side:
        reduced = max(reduced, min(short // MOST_REDUCED, large_side))
    target = min(max(short, smallest) if short <= largest else reduced, MOST_ENLARGED * short)
    most = short * math.sqrt(MOST_PIXELS / (height * width))
    return min(target, most)


def pad_to_multiple(x: torch.Tensor, multiple: int, least: int = 1) -> torch.Tensor:
    """Pads (N, C, H, W) by reflection at the bottom and right edges, repeatedly if it is small.

    Args:
        multiple: the sides become multiples of this.
        least: the sides become at least this, itself a multiple.
    """
    height, width = (max(-(-side // multiple) * multiple, least) for side in x.shape[2:])
    return fill_up(x, (height, width))


def resize(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Antialiased resizing of integer pixels (N, H, W, C) to float (N, C, *size), in the same value range."""
    planes = pixels.permute(0, 3, 1, 2)
    if pixels.dtype == torch.uint8 and pixels.device.type == "cpu" and not is_scratch(pixels):
        return F.interpolate(planes, size, mode="bilinear", antialias=True).float()
    factor = min(planes.shape[2] // size[0], planes.shape[3] // size[1]) // 2
    if factor > 1:
        planes = _averaged(planes, factor, pixels)
    return F.interpolate(planes.float(), size, mode="bilinear", antialias=True)


def _averaged(planes: torch.Tensor, factor: int, pixels: torch.Tensor) -> torch.Tensor:
    """Box averages; pixels that lie on disk are released from memory again.

    All bands go through one buffer: the allocator keeps what is freed, and bands of their own would add up to the
    picture.
    """
    bands = _bands(planes, factor)
    height, width = (-(-side // factor) for side in planes.shape[2:])
    means = torch.empty((*planes.shape[:2], height, width), device=planes.device, memory_format=torch.channels_last)
    buffer = torch.empty(bands[0].shape, device=planes.device, memory_format=torch.channels_last)
    for band, rows in zip(bands, means.split(-(-bands[0].shape[2] // factor), dim=2), strict=True):
        rows.copy_(F.avg_pool2d(buffer[:, :, : band.shape[2]].copy_(band), factor, ceil_mode=True))
        release(pixels)
    return means


def _bands(planes: torch.Tensor, multiple: int) -> tuple[torch.Tensor, ...]:
    rows = max(1, BAND_PIXELS // planes.shape[3] // multiple) * multiple
    bands: tuple[torch.Tensor, ...] = planes.split(rows, dim=2)
    return bands


def add_change(
    pixels: torch.Tensor,
    seen: torch.Tensor,
    translated: torch.Tensor,
    strength: float = 1.0,
    mask: torch.Tensor | None = None,
    on_band: Callable[[float], None] | None = None,
) -> torch.Tensor:
    """Adds the change at the working size to the full-size picture, and removes detail that the generator removed.

    The result is ``pixels + change - lost * (pixels - seen)``, with everything but ``pixels`` upsampled bicubically.
    Areas that the generator left unchanged keep all their detail.

    Args:
        pixels: the original, (N, H, W, C), uint8 or uint16.
        seen: the generator's input, (N, C, h, w), float, in units of the pixels.
        translated: its output, likewise.
        strength: blend strength: 0 = original, 1 = full translation.
        mask: (N, H, W), of the pixels' dtype: white lets the whole change through, black none of it.
        on_band: called after each band of lines with the share of the work that is done; an exception ends the work.

    Returns:
        The sum, rounded and clamped to the pixels' range, in their shape and dtype.
    """
    height, width, channels = pixels.shape[1:]
    white = highest(pixels.dtype)
    if pixels.device.type != "cpu" and len(pixels) * height * width <= AT_ONCE_PIXELS:
        return add_at_once(pixels, seen, translated, strength, mask)
    result = room_for(tuple(pixels.shape), pixels)
    bands = resampling(seen.shape[2], height, pixels.device)

    @torch.inference_mode()  # It holds for one thread alone.
    def bring_up(index: int) -> _Change:
        return _Change.seen_in(seen[index : index + 1], translated[index : index + 1], strength, white, width)

    @torch.inference_mode()
    def add(index: int, band: Band) -> None:
        rows = pixels[index, band.outputs].flatten(1).float()
        added = changes[index].of(rows, band)
        if mask is not None:
            added.mul_(mask[index, band.outputs].float().div_(white).repeat_interleave(channels, 1))
        result[index, band.outputs] = to_integer(rows.add_(added), pixels.dtype).view(-1, width, channels)
        release(pixels, result)
        if on_band is not None:
            on_band((index + band.outputs.stop / height) / len(pixels))

    with _tasks(pixels.device) as side_by_side:
        changes = list(side_by_side(bring_up, range(len(pixels))))
        list(side_by_side(add, *zip(*product(range(len(pixels)), bands), strict=True)))
    return result


def add_at_once(
    pixels: torch.Tensor, seen: torch.Tensor, translated: torch.Tensor, strength: float, mask: torch.Tensor | None
) -> torch.Tensor:
    """:func:`add_change` in a few operations on whole batches, which suits a GPU."""
    white = highest(pixels.dtype)
    change, lost = change_of(seen, translated, strength, white)
    size = pixels.shape[1:3]
    reduces = size[0] < seen.shape[2]
    plain = pixels.dtype == torch.uint8 and pixels.shape[3] == 3 and mask is None and not reduces
    if plain and can_fuse(pixels.device):
        added_up: torch.Tensor = upsampling().add_change_up(pixels, change, lost)
        return added_up
    both = F.interpolate(torch.cat([change, lost], 1), size, mode="bicubic", antialias=reduces)
    rows = pixels.permute(0, 3, 1, 2).float()
    added = torch.addcmul(both[:, :-1], both[:, -1:], rows, value=-1)
    if mask is not None:
        added.mul_(mask[:, None].float().div_(white))
    return to_integer(rows.add_(added), pixels.dtype).permute(0, 2, 3, 1).contiguous()


def change_of(
    seen: torch.Tensor, translated: torch.Tensor, strength: float, white: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added to pictures, (N, C, h, w), and the fraction of them that is taken away, (N, 1, h, w)."""
    lost = detail_lost(seen / white, translated / white).mul_(strength).clamp_(max=1)
    return (translated - seen).mul_(strength).addcmul_(lost, seen), lost


def brought_up(pixels: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """The output of a network for pictures of other channels than it took, at the size and in the type of ``pixels``.

    Args:
        pixels: the original, (N, H, W, C), uint8 or uint16.
        made: (N, C', h, w), float, in the units of the pixels.
    """
    size = pixels.shape[1:3]
    if made.shape[2:] != size:
        made = F.interpolate(made, size, mode="bicubic", antialias=size[0] < made.shape[2])
    return to_integer(made, pixels.dtype).permute(0, 2, 3, 1).contiguous()


def enlarged(
    pixels: torch.Tensor, made: torch.Tensor, strength: float = 1.0, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """What an upscaler made of pictures, as pixels; with a strength or a mask, between it and bicubic enlargement.

    Args:
        pixels: the original, (N, H, W, 3), uint8 or uint16.
        made: (N, 3, k * H, k * W), float, in the units of the pixels.
        strength: multiplies what it does beyond bicubic enlargement.
        mask: (N, H, W), of the pixels' type: where it is let through.

    Returns:
        (N, k * H, k * W, 3), rounded and limited to the range of the pixels' type.
    """
    if strength != 1 or mask is not None:
        size = made.shape[2:]
        plain = F.interpolate(pixels.permute(0, 3, 1, 2).float(), size, mode="bicubic").clamp_(0, highest(pixels.dtype))
        change = (made - plain).mul_(strength)
        if mask is not None:
            through = F.interpolate(mask[:, None].float().div_(highest(pixels.dtype)), size, mode="bilinear")
            change.mul_(through)
        made = plain.add_(change)
    return to_integer(made, pixels.dtype).permute(0, 2, 3, 1).contiguous()


@contextmanager
def _tasks(device: torch.device) -> Generator[Callable[..., Iterable[Any]], None, None]:
    """``map``, on a CPU in as many threads as torch may use here."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads == 1:
        yield map
    else:
        with worker_pool(threads) as pool:
            yield pool.map


@dataclass(frozen=True, slots=True)
class _Change:
    """The change of one picture and its lost fraction of detail, upsampled horizontally only: (h, W * C)."""

    change: torch.Tensor
    lost: torch.Tensor | None
    lossy: Sequence[bool]
    """The lines of which any detail is lost."""

    @classmethod
    def seen_in(cls, seen: torch.Tensor, translated: torch.Tensor, strength: float, white: int, width: int) -> _Change:
        """From the generator's input and output, (1, C, h, w)."""
        change = (translated - seen) * strength
        lost = detail_lost(seen / white, translated / white).mul_(strength).clamp_(max=1)
        # On a GPU, finding out would force a synchronisation.
        lossy = lost[0, 0].any(1).tolist() if lost.device.type == "cpu" else [True] * lost.shape[2]
        if not any(lossy):
            return cls(widened(change, width), None, lossy)
        return cls(widened(change.addcmul_(lost, seen), width), widened(lost.expand_as(change), width), lossy)

    def of(self, rows: torch.Tensor, band: Band) -> torch.Tensor:
        """What to add to the rows of a band, (lines, W * C)."""
        added = band.weights @ self.change[band.inputs]
        if self.lost is not None and any(self.lossy[band.inputs]):
            added.addcmul_(rows, band.weights @ self.lost[band.inputs], value=-1)
        return added


def widened(planes: torch.Tensor, width: int) -> torch.Tensor:
    """Planes (1, C, h, w) resampled horizontally, while there are few lines, and interleaved: (h, width * C)."""
    lines = planes[0].transpose(0, 1)
    wide = planes.new_empty((lines.shape[0], width, planes.shape[1]))
    for band in resampling(planes.shape[3], width, planes.device, BAND_COLUMNS):
        product = lines[:, :, band.inputs].flatten(0, 1) @ band.weights.T
        wide[:, band.outputs] = product.unflatten(0, lines.shape[:2]).transpose(1, 2)
    return wide.flatten(1)


def detail_lost(seen: torch.Tensor, translated: torch.Tensor) -> torch.Tensor:
    """The fraction, 0 to 1, of the original's finest detail that the translation has lost; (N, 1, h, w).

    Stripes that the generator removed are also in the original's detail, which must not bring them back. The kept
    fraction of (gray) detail is the slope of translated against original detail around each pixel: the local linear
    model of the guided filter (arXiv 1505.00996), measured at the working size and applied above it. The estimate is
    generous, so that detail that was only softened stays.

    Args:
        seen, translated: (N, C, h, w), float, 1 for white.
    """
    grey = torch.stack([seen.mean(1), translated.mean(1)], 1)
    before, after = (grey - mean_around(grey, 1)).split(1, 1)
    common, own = mean_around(torch.cat([before * after, before * before], 1), DETAIL_REACH).split(1, 1)
    taken_away: torch.Tensor = 1 - ((common + FAINT**2) / ((1 - SOFTENED) * own)).clamp_(0, 1)
    return taken_away


def mean_around(planes: torch.Tensor, reach: int) -> torch.Tensor:
    """The mean within a radius of ``reach`` pixels, with borders repeated."""
    side = 2 * reach + 1
    padded = F.pad(planes, (reach,) * 4, mode="replicate")
    return padded.unfold(2, side, 1).mean(-1).unfold(3, side, 1).mean(-1)


@dataclass(frozen=True, slots=True)
class Band:
    """Adjacent lines of a resampled picture, the input lines that they come from, and the weights."""

    outputs: slice
    inputs: slice
    weights: torch.Tensor


@lru_cache(maxsize=16)
def resampling(inputs: int, outputs: int, device: torch.device, together: int = BAND_LINES) -> tuple[Band, ...]:
    """Bicubic resampling of ``inputs`` lines to ``outputs``, as products with small matrices, a band at a time.

    Resizing is separable and linear, and each line depends on a few neighbours. So bands can be computed one at a time:
    a large picture is never held in floating point as a whole, and the working set stays in the cache.
    """
    weights, starts = _taps(inputs, outputs)
    bands = []
    for rows in torch.arange(outputs).split(together):
        top, bottom = int(starts[rows[0]]), int(starts[rows[-1]]) + weights.shape[1]
        dense = torch.zeros(len(rows), bottom - top)
        dense.scatter_(1, (starts[rows] - top)[:, None] + torch.arange(weights.shape[1]), weights[rows])
        used = dense.any(0).nonzero()
        first, last = int(used.min()), int(used.max()) + 1
        outlines = slice(int(rows[0]), int(rows[-1]) + 1)
        bands.append(Band(outlines, slice(top + first, top + last), dense[:, first:last].to(device)))
    return tuple(bands)


def _taps(inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of input lines for each output line, (outputs, taps), and the first input line of each.

    They are measured by resizing combs, in which every n-th line is 1 and n exceeds the filter's support: each result
    is then the weight of a single line, and memory is linear in the number of lines.
    """
    step = inputs / outputs
    taps = min(inputs, 2 * math.ceil(2 * max(1.0, step)) + 2)
    combs = torch.eye(taps).repeat(1, -(-inputs // taps))[:, :inputs]
    answers = F.interpolate(combs[None, :, None, :], (1, outputs), mode="bicubic", antialias=step > 1)[0, :, 0, :].T
    middles = ((torch.arange(outputs, dtype=torch.float64) + 0.5) * step - 0.5).floor().long()
    starts = (middles - taps // 2 + 1).clamp_(0, inputs - taps)
    return answers.gather(1, (starts[:, None] + torch.arange(taps)) % taps), starts


def to_integer(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rounds and clamps to the range of ``dtype`` (uint8 or uint16); works in place."""
    # Straight from float to 8 bits takes torch three times as long on a CPU.
    return values.round_().clamp_(0, highest(dtype)).to(torch.int32).to(dtype)


def highest(dtype: torch.dtype) -> int:
    """The value of white in pixels of this dtype."""
    return {torch.uint8: 255, torch.uint16: 65535}[dtype]


def levels(card: ModelCard, domain: str, dtype: torch.dtype) -> tuple[int, int]:
    """Black and white of a domain's pixels: in 16 bits those of training, such as 0 and 4095, else the dtype's."""
    known = card.value_range(domain) if dtype == torch.uint16 else None
    return known or (0, highest(dtype))
