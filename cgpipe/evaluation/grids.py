"""Grids that show how a run is going: real, generated and reconstructed pictures side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision.utils import make_grid

from cgpipe.data.loading import RGB, Form, load_8_bits, resize, to_network_range
from cgpipe.data.pairs import Pairs
from cgpipe.data.pictures import Place
from cgpipe.errors import DataError, MediaError
from cgpipe.evaluation.evaluator import pictures_of
from cgpipe.networks import Generator
from cgpipe.networks.channels import as_rgb
from cgpipe.storage import atomic_write

ROW = 8
"""Pictures in a row of a grid."""

OnGrid = Callable[[Path], None]
Levels = npt.NDArray[np.uint8]


def load_samples(pictures: Sequence[Place], count: int, side: int = 256, form: Form = RGB) -> torch.Tensor:
    """``count`` pictures spread evenly over ``pictures``, as (count, channels, side, side) in [-1, 1].

    In the place of one that cannot be read stands the next that can.

    Raises:
        DataError: none can be read.
    """
    return load_alike([pictures], count, side, forms=[form])[0]


def load_alike(
    sets: Sequence[Sequence[Place]],
    count: int,
    side: int = 256,
    *,
    forms: Sequence[Form],
) -> list[torch.Tensor]:
    """The same for several sets in which pictures with the same number belong together, as pairs do."""
    rows = list(zip(*sets, strict=True))
    count = min(count, len(rows))
    starts = [index * len(rows) // count for index in range(count)]
    samples = [_first_readable([*rows[start:], *rows[:start]], side, forms) for start in starts]
    return [torch.stack(column) for column in zip(*samples, strict=True)]


def _first_readable(rows: Sequence[tuple[Place, ...]], side: int, forms: Sequence[Form]) -> list[torch.Tensor]:
    for row in rows:
        try:
            squares = [load_square(path, side, form) for path, form in zip(row, forms, strict=True)]
            return [to_network_range(square) for square in squares]
        except MediaError as error:
            reason = str(error)
    raise DataError(f"None of {len(rows)} pictures can be read: {reason}")


def load_square(path: Place, side: int, form: Form = RGB) -> Levels:
    """The middle square of a picture at ``side`` pixels, (side, side, channels), uint8.

    Raises:
        MediaError: it cannot be read; the message names it.
    """
    pixels = load_8_bits(path, form.values, form.channels)
    height, width = pixels.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = resize(pixels[top : top + edge, left : left + edge], side, side)
    return np.ascontiguousarray(square, np.uint8)


def sample_grid(real: torch.Tensor, forward: Generator, backward: Generator | None) -> torch.Tensor:
    """Rows of real, generated and, with a way back, reconstructed pictures, as one picture (3, H', W').

    ``real`` is (N, C, H, W) in [-1, 1].
    """
    return grid_of(sample_rows(real, forward, backward))


@torch.inference_mode()
def sample_rows(real: torch.Tensor, forward: Generator, backward: Generator | None) -> list[torch.Tensor]:
    """Real, generated and, with a way back, reconstructed pictures, each (N, C, H, W) in [-1, 1]."""
    generated = forward(real)
    return [real, generated, *([] if backward is None else [backward(generated)])]


def grid_of(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows of pictures, each (N, C, H, W) in [-1, 1], one below the other as one picture (3, H', W')."""
    pictures = torch.cat([as_rgb(row.float().cpu()) for row in rows])
    grid: torch.Tensor = make_grid(pictures, nrow=len(rows[0]), padding=4, pad_value=1.0)
    return grid


def save_grid(path: Path, grid: torch.Tensor) -> None:
    """Writes a grid (3, H, W) in [-1, 1] as JPEG or PNG, by the name's suffix.

    Raises:
        MediaError: the file cannot be written.
    """
    pixels = grid.add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert ok
    try:
        with atomic_write(path) as partial:
            partial.write_bytes(data.tobytes())
    except OSError as error:
        raise MediaError(f"{path} cannot be written: {error.strerror}.") from error


def write_grids(
    folder: Path,
    name: str,
    inputs: Sequence[Place],
    there: Generator,
    back: Generator | None,
    size: int,
    on_grid: OnGrid | None = None,
    form: Form = RGB,
) -> list[Path]:
    """Real, generated and, with a way back, reconstructed, one below the other, for every picture; the files."""
    pictures = pictures_of(inputs)
    parts = (pictures[first : first + ROW] for first in range(0, len(pictures), ROW))
    grids = (sample_grid(_squares(part, size, form), there, back) for part in parts)
    return _saved(folder, name, grids, on_grid)


def write_pair_grids(
    folder: Path,
    name: str,
    pairs: Pairs,
    there: Generator,
    size: int,
    on_grid: OnGrid | None = None,
    forms: tuple[Form, Form] = (RGB, RGB),
) -> list[Path]:
    """Real, generated and, below, what should have been generated, for every pair (``a`` goes in); the files."""
    parts = (slice(first, first + ROW) for first in range(0, len(pairs.a), ROW))
    grids = (
        grid_of(
            [
                *sample_rows(_squares(pairs.a[part], size, forms[0]), there, None),
                _squares(pairs.b[part], size, forms[1]),
            ]
        )
        for part in parts
    )
    return _saved(folder, name, grids, on_grid)


def _squares(pictures: Sequence[Place], size: int, form: Form) -> torch.Tensor:
    return torch.stack([to_network_range(load_square(path, size, form)) for path in pictures])


def _saved(folder: Path, name: str, grids: Iterable[torch.Tensor], on_grid: OnGrid | None) -> list[Path]:
    paths = []
    for index, grid in enumerate(grids):
        paths.append(folder / f"{name}-{index * ROW + 1:04d}.jpg")
        save_grid(paths[-1], grid)
        if on_grid:
            on_grid(paths[-1])
    return paths
