"""How long it takes from the start of the command to the first picture written, and where the time goes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import commands
from material import make_pictures
from measure import Done, Runs, Way, in_turn
from results import Aim, Row, Table
from settings import CannotMeasureError, Settings
from subjects import Subject, resnet, shipped

SCRIPT = Path(__file__).with_name("reference_loop.py")
COMMAND, REFERENCE, FLOOR = "cgpipe translate, shipped model", "reference loop, ResNet-9", "importing torch alone"
COLUMNS = {"until the first picture": "", "seconds": ".2f", "lowest": ".2f", "highest": ".2f"}


def measure_start(settings: Settings) -> list[Table]:
    """Warm starts: the files are in the system's cache, and what is tried once has been tried."""
    pictures = make_pictures(settings.folder / "in", 4)
    subject = shipped(settings.folder, tiny=settings.tiny)
    steps: list[dict[str, float]] = []
    ways: dict[str, Way] = {
        COMMAND: partial(_first_of_command, subject, pictures, settings, steps),
        REFERENCE: partial(_first_of_reference, resnet(settings.folder, tiny=settings.tiny), pictures, settings),
        FLOOR: _import_torch,
    }
    for way in ways.values():
        way()
    steps.clear()
    measured = in_turn(ways, settings.times(7))
    total = measured[COMMAND].time.median
    parts = {step: statistics.median(one[step] for one in steps) for step in steps[0] if step != "total"}
    rows = [
        _row(COMMAND, measured),
        *({"until the first picture": f"- {name}", "seconds": parts[name]} for name in parts),
    ]
    rows += [_row(name, measured) for name in (REFERENCE, FLOOR)]
    table = Table(
        title="From the start of the process to the first picture written",
        columns=COLUMNS,
        rows=rows,
        notes=["The steps are those of --json, imports with the start of Python; 256x256 JPEG, everything warm."],
    )
    if not (settings.tiny or settings.brief):
        table.aims = [Aim("cgpipe translate, seconds", total, 4, ".2f", at_most=True)]
    return [table]


def _first_of_command(subject: Subject, source: Path, settings: Settings, steps: list[dict[str, float]]) -> Done:
    target, report = settings.folder / "out", settings.folder / "report.json"
    words = ("-m", "cgpipe", "translate", source, "-o", target, "--model", subject.file)
    words += ("--device", settings.device, "--overwrite", "--json", report)
    seconds = _until_written(target, *words)
    steps.append(json.loads(report.read_text(encoding="utf-8"))["first"])
    return Done(count=1, seconds=seconds)


def _first_of_reference(subject: Subject, source: Path, settings: Settings) -> Done:
    ngf = next(subject.plain.parameters()).shape[0]
    target = settings.folder / "out"
    return Done(
        count=1,
        seconds=_until_written(target, SCRIPT, subject.file, ngf, source, target, ".jpg", settings.device),
    )


def _until_written(target: Path, *words: object) -> float:
    """Seconds until something whole lies in ``target``; then waits for the end."""
    for old in target.glob("*"):
        if old.is_file():
            old.unlink()
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and not any(path.suffix == ".jpg" for path in target.glob("[!.]*")):
        time.sleep(0.005)
    seconds = time.perf_counter() - started
    _, errors = process.communicate()
    if process.returncode:
        raise CannotMeasureError(f"{' '.join(map(str, words))}: {errors.decode(errors='replace').strip()}")
    return seconds


def _import_torch() -> Done:
    commands.run("-c", "import torch")
    return Done(count=1)


def _row(name: str, measured: dict[str, Runs]) -> Row:
    time = measured[name].time
    return {"until the first picture": name, "seconds": time.median, "lowest": time.lowest, "highest": time.highest}
