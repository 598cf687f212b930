"""A job on a bucket of a real S3 server whose answers fail, killed on its way and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs import bytes_of, make_photos
from stores import Faults, bucket_behind

import cgpipe
from cgpipe import storage

JOB = "import sys, cgpipe; cgpipe.translate_folder(*sys.argv[1:3], model=sys.argv[3], workers=0)"
FEW = 200
"""Pictures by which rates are measured."""

SERVER = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Outcome:
    """What a trial showed.

    Args:
        objects: whole and right ones among the outputs.
        other: objects that are neither outputs nor journals.
        most_puts: how often the object that was put most often was put.
        busy, broken: answers 503, and connections that were broken off.
        kills: how often the job was killed.
        made_by_last: outputs that the last run made; it found the others.
        temporaries: files that were left on this machine.
        local, remote: pictures a second from folder to folder, and from bucket to bucket without faults; 0: not tried.
    """

    objects: int
    other: int
    most_puts: int
    busy: int
    broken: int
    kills: int
    made_by_last: int
    temporaries: int
    local: float
    remote: float


def trial(
    folder: Path,
    pictures: int,
    server: tuple[str, int],
    *,
    side: int = 64,
    model: str = "horse2zebra-fast",
    kills: int = 2,
    rates: bool = True,
) -> Outcome:
    """Translates pictures from bucket to bucket with one answer of 25 failing, and kills the job on its way."""
    import fsspec

    photos, plain = make_photos(folder / "photos", pictures, side), folder / "plain"
    tempfile.tempdir = os.environ["TMPDIR"] = os.fspath(folder / "temporary")
    (folder / "temporary").mkdir(exist_ok=True)
    faults = Faults()
    with bucket_behind(faults, *server) as address:
        os.environ.update(SERVER | {"AWS_ENDPOINT_URL": address})
        direct = f"http://{server[0]}:{server[1]}"
        bucket: Any = fsspec.filesystem("s3", key="AKIATEST", secret="secret", endpoint_url=direct)
        for name, content in bytes_of(photos).items():
            bucket.pipe_file(f"photos/in/{name}", content)

        def job(one: Path | str, other: Path | str) -> cgpipe.FolderReport:
            return cgpipe.translate_folder(one, other, model=model, workers=0)

        def made(place: str) -> list[str]:
            bucket.invalidate_cache()
            return [name for name in bucket.find(place) if ".cgpipe-" not in name]

        job(photos, plain)
        few = make_photos(folder / "few", min(FEW, pictures), side)
        for name, content in bytes_of(few).items() if rates else ():
            bucket.pipe_file(f"photos/few/{name}", content)
        local = job(few, folder / "few-zebra") if rates else None
        remote = job("s3://photos/few", "s3://photos/few-zebra") if rates else None
        faults.puts.clear()
        faults.busy = faults.broken = 0.02
        for number in range(kills):
            running = subprocess.Popen([sys.executable, "-c", JOB, "s3://photos/in", "s3://photos/out", model])
            while len(made("photos/out")) < pictures * (number + 1) // (kills + 1) and running.poll() is None:
                time.sleep(0.002 * pictures)  # a listing of many is work for the server
            running.send_signal(signal.SIGKILL)
            running.wait()
        storage._swept = False  # as in a new process, which finds what the killed ones left
        last = job("s3://photos/in", "s3://photos/out")
        faults.busy = faults.broken = 0
        expected = bytes_of(plain)
        found = {name.removeprefix("photos/out/"): bucket.cat_file(name) for name in made("photos/out")}
    return Outcome(
        objects=sum(expected[name] == content for name, content in found.items() if name in expected),
        other=len(found.keys() - expected.keys()),
        most_puts=max(count for name, count in faults.puts.items() if ".cgpipe-" not in name),
        busy=faults.counts["busy"],
        broken=faults.counts["broken"],
        kills=kills,
        made_by_last=last.translated,
        temporaries=sum(path.is_file() for path in (folder / "temporary").rglob("*")),
        local=local.translated / local.seconds["total"] if local else 0.0,
        remote=remote.translated / remote.seconds["total"] if remote else 0.0,
    )
