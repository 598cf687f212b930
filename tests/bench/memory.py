"""Long jobs: whether memory grows, and whether the last pictures come as fast as the first."""

from __future__ import annotations

from pathlib import Path

import commands
from material import make_clip, make_pictures
from measure import tell
from results import Aim, Row, Table
from settings import CannotMeasureError, Settings

TOLD = 1000
"""Pictures over which the rate is taken, at the beginning and at the end."""

JOB = """
import resource, sys, time, cgpipe
kind, source, target, device, told = *sys.argv[1:5], int(sys.argv[5])
times = []
if kind == "pictures":
    report = cgpipe.translate_folder(
        source, target, to="zebra", device=device, on_result=lambda result: times.append(time.perf_counter())
    )
    assert not report.failures, report.failures[0]
else:
    cgpipe.translate_video(
        source, target, to="zebra", device=device, preset="ultrafast",
        on_frames=lambda count: times.extend([time.perf_counter()] * count),
    )
first, last = (told / (times[end] - times[end - told]) for end in (told, -1))
print(len(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, first, last)
"""

COLUMNS = {
    "job": "",
    "short": ",d",
    "peak MiB": ".0f",
    "long": ",d",
    "peak MiB of it": ".0f",
    "growth": "+.1%",
    "first 1,000, a second": ".1f",
    "last 1,000, a second": ".1f",
    "last to first": ".3f",
}


def measure_memory(settings: Settings) -> list[Table]:
    """A row for each kind of job."""
    counts = (12, 24) if settings.tiny else (2_000, 10_000)
    told = 5 if settings.tiny else TOLD
    rows = [_row(kind, counts, told, settings) for kind in ("pictures", "frames")]
    table = Table(
        title="Long jobs: memory and rate",
        columns=COLUMNS,
        rows=rows,
        notes=[
            "Pictures and frames of 64x64, shipped model; peak memory of the main process, as the system counts it."
        ],
    )
    if not settings.tiny:
        for row in rows:
            kind, ratio, growth = row["job"], row["last to first"], row["growth"]
            table.aims.append(Aim(f"{kind}: rate of the last {TOLD:,}, of the first", ratio, 0.97, ".3f"))
            table.aims.append(Aim(f"{kind}: growth of memory", growth, 0.02, ".1%", at_most=True))
    return [table]


def _row(kind: str, counts: tuple[int, int], told: int, settings: Settings) -> Row:
    peaks: list[float] = []
    ratios: list[tuple[float, float]] = []
    for count in counts:
        tell(f"  {count:,} {kind}")
        place = settings.folder / f"{count} {kind}"
        source = make_pictures(place, count, 64) if kind == "pictures" else make_clip(_mp4(place), count, 64, 64)
        target = source.with_name(f"out {source.name}")
        done, peak, first, last = commands.run("-c", JOB, kind, source, target, settings.device, told).split()
        if int(done) != count:
            raise CannotMeasureError(f"{done} of {count} {kind} were translated")
        peaks.append(int(peak) / 1024)
        ratios.append((float(first), float(last)))
    first_rate, last_rate = ratios[-1]
    return {
        "job": kind,
        "short": counts[0],
        "peak MiB": peaks[0],
        "long": counts[1],
        "peak MiB of it": peaks[1],
        "growth": peaks[1] / peaks[0] - 1,
        "first 1,000, a second": first_rate,
        "last 1,000, a second": last_rate,
        "last to first": last_rate / first_rate,
    }


def _mp4(path: Path) -> Path:
    return path.with_suffix(".mp4")
