"""Peak memory on short and on long jobs."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

FOLDER = """
import resource, sys, cgpipe
report = cgpipe.translate_folder(sys.argv[1], sys.argv[2], to="zebra", device="cpu")
assert not report.failures, report.failures[0]
print(report.translated, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

VIDEO = """
import resource, sys, cgpipe
report = cgpipe.translate_video(sys.argv[1], sys.argv[2], to="zebra", device="cpu", video={"preset": "ultrafast"})
print(report.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure_memory(folder: Path) -> list[tuple[str, ...]]:
    """A header, and a row for each kind of job, with the growth from the short one to the long one."""
    rows: list[tuple[str, ...]] = [("job", "short", "peak MiB", "long", "peak MiB", "growth")]
    for name, script, make, counts in (
        ("pictures 16x16", FOLDER, make_pictures, (2_000, 20_000)),
        ("frames 96x64", VIDEO, make_clip, (500, 10_000)),
    ):
        peaks = []
        for count in counts:
            source = make(folder / f"{name} {count}", count)
            target = source.with_name(f"out {source.name}")
            ran = subprocess.run([sys.executable, "-c", script, source, target], capture_output=True, text=True)
            assert ran.returncode == 0, ran.stderr
            done, peak = ran.stdout.split()
            assert int(done) == count
            peaks.append(int(peak) / 1024)
        growth = f"{peaks[1] / peaks[0] - 1:+.1%}"
        rows.append((name, f"{counts[0]:,}", f"{peaks[0]:.0f}", f"{counts[1]:,}", f"{peaks[1]:.0f}", growth))
    return rows


def make_pictures(folder: Path, count: int) -> Path:
    """A folder of ``count`` small pictures."""
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.bmp"), np.full((16, 16, 3), index % 256, np.uint8))
    return folder


def make_clip(path: Path, count: int, width: int = 96, height: int = 64) -> Path:
    """A clip of ``count`` frames in slowly changing colours."""
    path = path.with_suffix(".mp4")
    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for index in range(count):
            pixels = np.stack([(x + index) % 256, (y + index) % 256, (x + y) % 256], -1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
