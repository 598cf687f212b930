"""Jobs on folders and videos that are killed at random moments and started again: they must end in the same bytes.

``run(count, seed)`` gives the counts; all but rounds and kills must be zero.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np

PICTURES = 40
FRAMES = 96
KILLS = 3
"""Most kills of one job; then it is left in peace."""
SECONDS = 120
"""After which a job that is left in peace counts as a hang."""
TEMPORARY = re.compile(r"\.cgpipe-[0-9a-f]{8}-[0-9a-f]{8}(\..*)?")


@dataclass
class Job:
    """A command, where its output goes, and what it makes when nobody kills it."""

    inputs: Path
    output: str
    options: tuple[str, ...]
    seconds: float = 0.0
    expected: dict[str, bytes] = field(default_factory=dict)

    def command(self, folder: Path) -> list[str]:
        verb, *rest = self.options
        target = [str(folder / self.output)] if verb == "video" else ["-o", str(folder / self.output)]
        return [sys.executable, "-m", "cgpipe", verb, str(self.inputs), *target, *rest]

    def start(self, folder: Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.command(folder), env=environment, text=True, start_new_session=True, **pipes)

    def made(self, folder: Path) -> dict[str, bytes]:
        """Every file of the output, but what cgpipe keeps there for itself."""
        root = folder / self.output
        files = root.rglob("*") if root.is_dir() else root.parent.glob(root.name)
        shown = [path for path in files if path.is_file() and not path.name.startswith(".")]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in shown}


def run(count: int, seed: int) -> dict[str, int]:
    """Starts, kills and resumes ``count`` jobs; names every one that does not end as if nothing had been."""
    counts = dict.fromkeys(("rounds", "kills", "different", "leftovers", "tracebacks", "hangs"), 0)
    with tempfile.TemporaryDirectory(prefix="cgpipe-kills-") as folder:
        jobs = _jobs(Path(folder))[:count]
        for number, job in enumerate(jobs):
            _measure(job, Path(folder) / f"undisturbed-{number}")
        for index in range(count):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                _round(jobs[index % len(jobs)], Path(place), f"{seed} {index}", counts)
    return counts


def _jobs(folder: Path) -> list[Job]:
    pictures, clip = folder / "pictures", folder / "clip.mp4"
    pictures.mkdir()
    noise = np.random.default_rng(0)
    for number in range(PICTURES):
        suffix = (".jpg", ".png", ".webp", ".tif")[number % 4]
        (pictures / f"part {number % 3}").mkdir(exist_ok=True)
        picture = cv2.resize(noise.integers(0, 256, (9, 12, 3), np.uint8), (160, 120))
        cv2.imwrite(str(pictures / f"part {number % 3}" / f"{number}{suffix}"), picture)
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=24, width=96, height=64, pix_fmt="yuv420p")
        for number in range(FRAMES):
            pixels = np.full((64, 96, 3), number * 2, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    same = ("--to", "zebra", "--size", "64", "--precision", "fp32")
    return [
        Job(pictures, "out", ("translate", *same, "--workers", "0")),
        Job(clip, "out.mp4", ("video", *same)),
        Job(pictures, "out", ("translate", *same, "--workers", "2", "--format", "png")),
    ]


def _measure(job: Job, folder: Path) -> None:
    folder.mkdir()
    began = time.monotonic()
    process = job.start(folder)
    said = process.communicate(timeout=SECONDS)[1]
    if process.returncode != 0:
        raise RuntimeError(f"{job.command(folder)} failed without being killed: {said}")
    job.seconds, job.expected = time.monotonic() - began, job.made(folder)


def _round(job: Job, folder: Path, name: str, counts: dict[str, int]) -> None:
    draw = random.Random(name)
    counts["rounds"] += 1
    said = ""
    for _ in range(draw.randint(1, KILLS)):
        with job.start(folder) as process:
            began = time.monotonic()
            time.sleep(draw.uniform(0.2, 1) * job.seconds)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                counts["kills"] += 1
            else:  # it was faster than the first time, when nothing was in the caches
                job.seconds = min(job.seconds, 0.8 * (time.monotonic() - began))
            said += process.communicate()[1]
    with job.start(folder) as process:
        try:
            said += process.communicate(timeout=SECONDS)[1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return _note("hangs", counts, name, job)
    if "Traceback" in said:
        _note("tracebacks", counts, name, job)
    if job.made(folder) != job.expected:
        _note("different", counts, name, job)
    if any(TEMPORARY.fullmatch(path.name) for path in folder.rglob("*")):
        _note("leftovers", counts, name, job)
    return None


def _note(outcome: str, counts: dict[str, int], name: str, job: Job) -> None:
    counts[outcome] += 1
    print(f"{outcome}: round {name}, {' '.join(job.options)}", file=sys.stderr)


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])))
