"""A picture larger than memory, at full size: peak memory of the process that translates it, its time, and seams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyvips
import torch
from bench.material import photo
from PIL import Image

from cgpipe.engine.memory import available_memory
from cgpipe.engine.tiles.tiled import TiledNetwork
from cgpipe.models.choose import choose_model
from cgpipe.options import ModelChoice

Image.MAX_IMAGE_PIXELS = None

BLOCK = 1000
"""Side of the photo that, mirrored again and again, makes the picture."""

LINES = 500
"""Lines that are looked at together."""

JOB = """
import json, re, sys, time, torch, cgpipe
from cgpipe.media.pictures import huge
huge.READ_WHOLE = 1  # by lines, whatever its size
source, out, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
began = time.perf_counter()
report = cgpipe.translate_folder(source, out, device="cpu", size="full", precision="fp32", **asked)
assert report.translated == 1, report.failures
seconds = {"seconds": time.perf_counter() - began, "processor": time.process_time()} | report.seconds
# The peak that getrusage knows includes that of the process which started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e6
print(json.dumps(seconds | {"peak": peak}))
"""


@dataclass(frozen=True, kw_only=True)
class Huge:
    """What to measure.

    Args:
        side: of the picture, in pixels.
        model: its name, or its file.
        mode: exact or fast.
        tile: side of the tiles; 0: what ``--tile auto`` takes.
        whole: whether the picture is also translated whole, for comparison.
    """

    side: int
    model: str
    mode: Literal["exact", "fast"]
    tile: int
    whole: bool


def measure_huge(asked: Huge, folder: Path) -> None:
    """Translates a TIFF and prints what that took, and whether tiles can be seen."""
    side, tile = asked.side, asked.tile or auto_tile(asked)
    source = make_picture(folder / "scan.tif", side)
    print(f"{side:,} x {side:,}, {asked.model}, {asked.mode} tiles of {tile}:")
    tiled = _translate(source, folder / "out", model=asked.model, tile=tile, tile_mode=asked.mode)
    _print_seams(folder / "out" / source.name, tile)
    if asked.whole:
        print("the whole picture:")
        whole = _translate(source, folder / "whole", model=asked.model, tile="off")
        largest, mean = difference(folder / "out" / source.name, folder / "whole" / source.name)
        print(f"by tiles {tiled / whole:.2f} times that; they differ by {largest} at most, {mean:.4f} on average")


def auto_tile(asked: Huge) -> int:
    """The side of the tiles that ``--tile auto`` takes now, if it takes any."""
    network = choose_model(ModelChoice(model=asked.model)).load().generator
    return TiledNetwork(network, torch.device("cpu")).side(available_memory(), fast=asked.mode == "fast")


def _translate(source: Path, out: Path, **asked: object) -> float:
    """Runs the job in a process of its own, prints what it took, and returns its processor time in seconds."""
    command = [sys.executable, "-c", JOB, str(source), str(out), json.dumps(asked)]
    took = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    processor = float(took["processor"])
    with Image.open(source) as image:
        megapixels = image.width * image.height / 1e6
    print(f"peak {took['peak']:,.0f} MB, {took['seconds']:,.0f} s, {processor:,.0f} s of processor time,", end=" ")
    print(f"{processor / megapixels:.2f} a megapixel", end=" ")
    print(f"(read {took['decode']:.0f} s, translate {took['inference']:.0f}, write {took['encode']:.0f})")
    return processor


def _print_seams(path: Path, tile: int) -> None:
    across, others = steps_across(path, tile)
    with Image.open(path) as image:
        borders = len(range(tile, image.width, tile))
    rank = int((others > across).sum()) + 1
    print(f"{2 * borders} lines of {2 * borders * (borders + 1)} borders: mean step across them {across:.3f},")
    print(f"across lines as far apart elsewhere {others.mean():.3f} ({others.min():.3f} to {others.max():.3f});")
    print(f"theirs is number {rank} of {len(others) + 1} from the largest")


def difference(one: Path, other: Path) -> tuple[int, float]:
    """The largest and the mean difference of two pictures, in levels of 255."""
    largest, total, count = 0, 0, 0
    for a, b in zip(_parts(one), _parts(other), strict=True):
        apart = np.abs(a - b)
        largest, total, count = max(largest, int(apart.max())), total + int(apart.sum()), count + apart.size
    return largest, total / count


def make_picture(path: Path, side: int) -> Path:
    """A photo and its mirrored self over and over, so that there is no edge but its own; a tiled TIFF."""
    one: Any = pyvips.Image.new_from_array(photo(0, BLOCK, BLOCK))
    row = one.join(one.fliphor(), "horizontal")
    block = row.join(row.flipver(), "vertical").copy_memory()
    count = -(-side // (2 * BLOCK))
    block.replicate(count, count).crop(0, 0, side, side).tiffsave(str(path), tile=True)
    return path


def steps_across(path: Path, tile: int, fold: int = 8) -> tuple[float, Any]:
    """The mean step between neighbours across the borders of tiles, and across grids of lines that are moved.

    Args:
        fold: multiple by which they are moved: what a network's own layers leave repeats with it.
    """
    rows, columns = _steps(path)

    def across(shift: int) -> float:
        places = np.arange(tile - 1 + shift, len(rows), tile)
        return float(np.concatenate([rows[places], columns[places]]).mean())

    return across(0), np.array([across(shift) for shift in range(fold - tile, 0, fold)])


def _steps(path: Path) -> tuple[Any, Any]:
    """The mean step from each line, and each column, to the next, 0 to 255."""
    rows: list[Any] = []
    columns, count = 0.0, 0
    for part in _parts(path):
        steps = np.abs(np.diff(part, axis=1)).mean(2)
        columns, count = columns + steps[-LINES:].sum(0), count + len(steps[-LINES:])
        rows.append(np.abs(np.diff(part, axis=0)).mean((1, 2)))
    return np.concatenate(rows), columns / count


def _parts(path: Path) -> Iterator[Any]:
    """Some lines at a time, each lot with the last line of the one before."""
    image: Any = pyvips.Image.new_from_file(str(path))
    for top in range(0, image.height, LINES):
        first = max(0, top - 1)
        yield image.crop(0, first, image.width, min(LINES, image.height - top) + top - first).numpy().astype(np.int16)
