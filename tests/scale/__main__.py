"""What large jobs cost on this design: measures the parts that grow with their number, and computes the rest.

bin/scale measure --entries 1000000     # listing, plan, journal: on fake files in a temporary folder
bin/scale simulate --workers 1000       # the real chunks and journal on a simulated clock
bin/scale buckets --pictures 2000       # a job on an S3 server that fails at times, killed and started again
bin/scale rate                          # pictures a second of processor time, files in and out
bin/scale huge --side 20000             # a picture larger than memory at full size: memory, time, seams
bin/scale cost                          # the tables of docs/many-machines.md, from the figures in this file
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from scale.buckets import trial
from scale.simulation import Simulation
from stores import s3_server

from cgpipe.jobs.journal import NAME, Entry, FolderJournal, Journal, Standing
from cgpipe.jobs.plan import plan_files
from cgpipe.options import Shard
from cgpipe.storage import HOST, Stamp

FOLDER_FILES = 1000
"""Files of a folder."""

CORE_RATE = 8.6
"""JPEGs of a megapixel a second of one core's time, files in and out, by `rate` on a Zen 3 that other work shared."""
GPU_RATE = 1575.0
"""JPEGs of a megapixel a second on an H200 with 16 cores, files in and out (docs/speed.md)."""
GPU_FRAMES = 103.8
"""Frames of 1080p a second on the same machine (docs/speed.md)."""
GPU_DECODING = 191.9
"""Frames of 1080p a second that its cores only decode (docs/speed.md)."""
PLAN_SECONDS = 86e-6
"""Processor seconds a picture to list, plan and look up in a journal, by `measure` of a million; those of a job's one
driver."""
JOURNAL_BYTES = 142
"""Bytes a picture in a journal, by `measure`."""
PICTURE_BYTES = 400_000
"""Bytes of a JPEG of a megapixel."""
S3_REQUESTS = 5000.0
"""Requests a second that an object store takes under one prefix."""
REQUESTS = 5
"""Requests a picture there: HEAD and GET in, PUT and HEAD out, and its share of listings and journal."""


def timed(what: str, count: int, do: Callable[[], object]) -> float:
    """Runs and prints seconds of processor time, microseconds of it for each of some entries, and seconds in all."""
    began, whole = time.process_time(), time.perf_counter()
    do()
    seconds, whole = time.process_time() - began, time.perf_counter() - whole
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    each = 1e6 * seconds / count
    print(f"{what:45} {seconds:8.2f} s  {each:7.2f} us each  ({whole:.1f} s in all)  peak {peak:,.0f} MB", flush=True)
    return seconds


def measure(entries: int, folder: Path) -> None:
    """Lists, plans and looks up ``entries`` empty files, in folders of a thousand."""
    pictures, out = folder / "in", folder / "out"

    def make() -> None:
        for number in range(entries):
            if number % FOLDER_FILES == 0:
                (pictures / f"{number // FOLDER_FILES:05d}").mkdir(parents=True)
                (out / f"{number // FOLDER_FILES:05d}").mkdir(parents=True)
            for parent in (pictures, out):
                os.close(os.open(f"{parent}/{number // FOLDER_FILES:05d}/{number:08d}.jpg", os.O_CREAT))

    def record() -> None:
        for parent in sorted(out.iterdir()):
            with (parent / f"{NAME}{HOST}-00000000").open("wb") as file:
                for path in sorted(parent.glob("*.jpg")):
                    source = f"../../in/{parent.name}/{path.name}"
                    stamps = (Stamp.of(pictures / parent.name / path.name),)
                    file.write(Entry(source, "0" * 16, stamps, Stamp.of(path), "0" * 16).line(path.name))

    timed("fake files made", entries, make)
    timed("listed and planned", entries, lambda: plan_files([pictures], out, domain="zebra"))
    timed(
        "the same for one of 1,000 shards",
        entries,
        lambda: plan_files([pictures], out, domain="zebra", shard=Shard(1, 1000)),
    )
    timed("journals written", entries, record)
    size = sum(path.stat().st_size for path in out.rglob(f"{NAME}*"))
    print(f"{'journals':45} {size / 1e6:8.1f} MB, {size / entries:.0f} bytes each")
    plan = plan_files([pictures], out, domain="zebra")

    def look_up() -> None:
        with Journal("0" * 16, looks_made=lambda one, other: False) as journal:
            current = sum(journal.standing(o, [i]) is Standing.CURRENT for i, o, _ in plan.names())
        assert current == entries, current

    timed("looked up: all current", entries, look_up)
    one = folder / "one"
    one.mkdir()
    line = Entry("../in/a.jpg", "0" * 16, (Stamp(1, 1),), Stamp(1, 1), "0" * 16)
    with (one / f"{NAME}{HOST}-00000000").open("wb") as file:
        file.writelines(line.line(f"{number:08d}.jpg") for number in range(entries))
    timed("the journal of one folder of all read", entries, lambda: FolderJournal(str(one)))


def simulate(items: int, workers: int, loss: float, folder: Path) -> None:
    """Prints what becomes of a job of which workers are lost."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * workers)), hard))
    outcome = Simulation(folder, items=items, workers=workers, loss=loss).run()
    again = sum(outcome.begun.values()) - len(outcome.begun)
    print(f"{items:,} items, {workers:,} workers, {outcome.lost_workers} of them lost: {len(outcome.reported):,} done,")
    print(f"{len(outcome.given_up)} given up, {again} begun again, none more than {max(outcome.begun.values())} times,")
    print(f"files put {max(outcome.made.values())} time at most; largest chunk {outcome.largest};")
    print(f"{outcome.seconds:.0f} s on the simulated clock, {outcome.ideal:.0f} without losses and waiting")


def rate(count: int, folder: Path) -> None:
    """Translates JPEGs of two sizes by one thread of this process, and prints the rate by processor time."""
    import torch
    from bench.material import make_pictures

    from cgpipe import translate_folder

    torch.set_num_threads(1)
    for side, number in ((256, count), (1024, count // 4)):
        pictures = make_pictures(folder / str(side), number, side)
        translate_folder(pictures, folder / "first", to="zebra", device="cpu", workers=0, overwrite=True)
        began = time.process_time()
        report = translate_folder(pictures, folder / "out", to="zebra", device="cpu", workers=0, overwrite=True)
        assert report.translated == number, report.failures
        print(f"{side} x {side}: {number / (time.process_time() - began):.1f} pictures a second of one core")


def shared_gain(workers: int) -> float:
    """How many times as fast a clip is done that workers share: the last one decodes all that comes before its part."""
    alone = 1 / GPU_FRAMES
    return alone / ((workers - 1) / workers / GPU_DECODING + alone / workers)


def cost() -> None:
    """Prints the tables of the page."""
    print("| pictures | core hours | H200 hours | list and look up | journals | read and written | store at 5,000/s |")
    print("|---|---|---|---|---|---|---|")
    for count in (1e6, 1e8):
        print(
            f"| {count:,.0f} | {count / CORE_RATE / 3600:,.1f} | {count / GPU_RATE / 3600:,.1f} | "
            f"{count * PLAN_SECONDS / 60:,.1f} min | {count * JOURNAL_BYTES / 1e9:,.2f} GB | "
            f"{2 * count * PICTURE_BYTES / 1e12:,.1f} TB | {count * REQUESTS / S3_REQUESTS / 3600:,.1f} h |"
        )
    hours, rate = 1000.0, 25.0
    print(f"\n{hours:,.0f} hours of 1080p at {rate:.0f} frames/s: {hours * rate / GPU_FRAMES:,.0f} H200 hours.")
    gains = ", ".join(f"{shared_gain(count):.1f} times with {count}" for count in (2, 4, 8))
    print(f"One clip shared by such machines: {gains}, never more than {GPU_DECODING / GPU_FRAMES:.1f}.")
    fed = 1 / PLAN_SECONDS / GPU_RATE
    print(
        f"A prefix of an object store feeds {S3_REQUESTS / REQUESTS / GPU_RATE:.1f} such machines; a driver {fed:.0f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("measure", "simulate", "buckets", "rate", "huge", "cost"))
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--loss", type=float, default=0.005)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--model", default="photo2monet")
    parser.add_argument("--mode", choices=("exact", "fast"), default="exact")
    parser.add_argument("--tile", type=int, default=0, help="side of the tiles; 0: what --tile auto takes")
    parser.add_argument("--whole", action="store_true", help="also translate the picture whole, and compare")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cgpipe-scale-") as folder:
        if asked.part == "measure":
            measure(asked.entries, Path(folder))
        elif asked.part == "simulate":
            simulate(asked.items, asked.workers, asked.loss, Path(folder))
        elif asked.part == "buckets":
            with s3_server() as server:
                outcome = trial(Path(folder), asked.pictures, server)
            for name, value in asdict(outcome).items():
                print(f"{name:15} {value:,.1f}" if isinstance(value, float) else f"{name:15} {value:,}")
        elif asked.part == "rate":
            rate(asked.pictures, Path(folder))
        elif asked.part == "huge":
            from scale.huge import Huge, measure_huge

            huge = Huge(side=asked.side, model=asked.model, mode=asked.mode, tile=asked.tile, whole=asked.whole)
            measure_huge(huge, Path(folder))
        else:
            cost()


if __name__ == "__main__":
    main()
