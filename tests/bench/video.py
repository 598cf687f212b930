"""Where the time of a video goes: each stage alone, and the whole command."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from memory import make_clip

import cgpipe
from cgpipe.media.frames import batched

RUNS = 5


def measure_video(folder: Path, clip: Path | None) -> list[tuple[str, ...]]:
    """Frames a second of each stage, measured in turn; the median of five runs and its spread."""
    clip = clip or make_clip(folder / "clip", 250, 456, 256)
    frames = list(cgpipe.VideoSource(clip))
    translate = cgpipe.Translator.find("zebra")
    stages: dict[str, Callable[[], object]] = {
        "decode alone": lambda: list(cgpipe.VideoSource(clip)),
        "generator alone": lambda: list(translate.stream(batched(frames, 1))),
        "encode alone": lambda: encode(folder / "encoded.mp4", clip, frames),
    }
    rates: dict[str, list[float]] = {name: [] for name in [*stages, "whole job", "whole command"]}
    for _ in range(RUNS):
        for name, stage in stages.items():
            started = time.perf_counter()
            stage()
            rates[name].append(len(frames) / (time.perf_counter() - started))
        job, command = whole_command(folder, clip)
        rates["whole job"].append(len(frames) / job)
        rates["whole command"].append(len(frames) / command)
    generator = statistics.median(rates["generator alone"])
    rows: list[tuple[str, ...]] = [
        ("stage", "frames a second (median)", "lowest", "highest", "of the generator's rate")
    ]
    for name, values in rates.items():
        middle = statistics.median(values)
        rows.append(
            (name, *(f"{value:.1f}" for value in (middle, min(values), max(values))), f"{middle / generator:.0%}")
        )
    height, width = frames[0].pixels.shape[:2]
    change = np.abs(translate(frames[0].pixels).astype(int) - frames[0].pixels).mean()
    rows.append((f"{len(frames)} frames of {width}x{height}, mean change {change:.1f} of 255", "", "", "", ""))
    return rows


def encode(path: Path, clip: Path, frames: list[cgpipe.Frame]) -> None:
    """Writes the decoded frames as they are."""
    with cgpipe.VideoSink(path, like=cgpipe.VideoSource(clip).info) as sink:
        for frame in frames:
            sink.write(frame)


def whole_command(folder: Path, clip: Path) -> tuple[float, float]:
    """Seconds of the job by its own report, and of the process from start to end."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "cgpipe", "video", str(clip), str(folder / "out.mp4"), "--to", "zebra"]
    command += ["--overwrite", "--json", str(report)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    return json.loads(report.read_text())["videos"][0]["seconds"]["total"], seconds
