"""Damages files and gives them to a command, many at a time, in a process that is watched."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

MEMORY = 3 * 2**30
"""Bytes that a job may take; it needs a fifth of them for whole files of this size."""

Results = Callable[[Mapping[str, Any]], Mapping[str, int]]
"""Of a job's report, how many files came to which end."""


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """The bytes of a file with some of them changed, lost, repeated or replaced by extremes."""
    data = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        place = draw.randrange(len(data)) if draw.random() < 0.5 else draw.randrange(min(len(data), 200))
        length = draw.choice((1, 2, 4, 8, 64))
        kind = draw.randrange(6)
        if kind == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place : place + length] = draw.randbytes(len(data[place : place + length]))
        elif kind == 2:
            data[place : place + length] = draw.choice((b"\0", b"\xff", b"\x7f")) * len(data[place : place + length])
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length]
        elif len(data) > 40:
            del data[draw.randrange(20, len(data)) :]
    return bytes(data)


def run(
    seeds: Sequence[Path],
    count: int,
    seed: int,
    *,
    batch: int,
    command: Callable[[Path, Path, int], Sequence[str]],
    results: Results,
    seconds: float,
) -> dict[str, int]:
    """Damages ``count`` files and gives them to jobs of ``batch`` files; counts how they ended, and what went wrong.

    Args:
        command: of a folder of files, one to write, and the job's number: the words behind ``cgpipe``.
        seconds: that a file may take.
    """
    counts = dict.fromkeys(("tracebacks", "hangs", "memory", "lost", "leftovers"), 0)
    for job, first in enumerate(range(0, count, batch)):
        with tempfile.TemporaryDirectory(prefix="cgpipe-fuzz-") as place:
            folder, report = Path(place, "in"), Path(place, "report.json")
            folder.mkdir()
            for index in range(first, min(first + batch, count)):
                draw = random.Random(f"{seed} {index}")
                source = seeds[index % len(seeds)]
                (folder / f"{index}{source.suffix}").write_bytes(damaged(source.read_bytes(), draw))
            given = len(list(folder.iterdir()))
            words = [*command(folder, Path(place, "out"), job), "--json", str(report)]
            wrong = _watched(words, seconds * given + 60)
            ended = results(json.loads(report.read_text(encoding="utf-8"))) if report.exists() else {}
            wrong["lost"] = 0 if wrong["hangs"] else given - sum(ended.values())
            wrong["leftovers"] = sum(
                name.name.startswith(".cgpipe-") and name.suffix != "" for name in folder.iterdir()
            )
            for outcome, number in [*ended.items(), *wrong.items()]:
                counts[outcome] = counts.get(outcome, 0) + number
            if any(wrong.values()):
                shown = ", ".join(f"{number} {outcome}" for outcome, number in wrong.items() if number)
                print(f"{shown}: files {first} to {first + given - 1} of seed {seed}, {words[0]}", file=sys.stderr)
    return counts


def _watched(words: Sequence[str], seconds: float) -> dict[str, int]:
    """Runs a command in a process of its own; 1 for each thing that went wrong."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "cgpipe", *words], stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        end, hung = time.monotonic() + seconds, False
        while True:
            found, _, usage = os.wait4(process.pid, os.WNOHANG)
            if found:
                break
            if time.monotonic() > end and not hung:
                hung = True
                process.kill()
            time.sleep(0.05)
        process.returncode = 0  # waited for above
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    if "Traceback" in text:
        print(text[-3000:], file=sys.stderr)
    return {"tracebacks": "Traceback" in text, "hangs": hung, "memory": usage.ru_maxrss * 1024 > MEMORY}
