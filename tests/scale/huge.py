"""A picture larger than memory, at full size: peak memory of the process that translates it, its time, and seams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from bench.material import photo

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


def measure_huge(side: int, model: str, mode: str, tile: int, folder: Path) -> None:
    """Translates a TIFF of ``side`` x ``side`` and prints what that took, and whether tiles can be seen."""
    source = make_picture(folder / "scan.tif", side)
    asked = {"model": model, "tile": tile, "tile_mode": mode}
    command = [sys.executable, "-c", JOB, str(source), str(folder / "out"), json.dumps(asked)]
    took = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    print(f"{side:,} x {side:,}, {model}, {mode} tiles of {tile}: peak {took['peak']:,.0f} MB,")
    print(f"{took['seconds']:,.0f} s, {took['processor']:,.0f} s of processor time,")
    print(f"{took['processor'] / side**2 * 1e6:.2f} a megapixel", end="")
    print(f" (read {took['decode']:.0f} s, translate {took['inference']:.0f}, write {took['encode']:.0f})")
    borders = len(range(tile, side, tile))
    across, others = steps_across(folder / "out" / source.name, tile)
    rank = int((others > across).sum()) + 1
    print(f"{2 * borders} lines of {2 * borders * (borders + 1)} borders: mean step across them {across:.3f},")
    print(f"across lines as far apart elsewhere {others.mean():.3f} ({others.min():.3f} to {others.max():.3f});")
    print(f"theirs is number {rank} of {len(others) + 1} from the largest")


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
