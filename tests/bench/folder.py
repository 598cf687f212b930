"""A folder of pictures: the whole command against the test loop of the CycleGAN repositories."""

from __future__ import annotations

import math
import shutil
from functools import partial
from pathlib import Path

import commands
import cv2
import numpy as np
from material import make_pictures
from measure import Done, Runs, Way, in_turn
from results import Aim, Row, Table
from settings import Settings
from subjects import Subject, resnet, shipped

from cgpipe.media.pictures.read import read_picture
from cgpipe.media.pictures.write import write_picture

SCRIPT = Path(__file__).with_name("reference_loop.py")
REFERENCE = "reference loop, ResNet-9"
STANDARD = "cgpipe translate, ResNet-9"
SHIPPED = "cgpipe translate, shipped model"
EMPTY = "decoding and encoding alone"
COMPARED = 8

COLUMNS = {
    "way": "",
    "pictures a second": ".2f",
    "lowest": ".2f",
    "highest": ".2f",
    "times the reference": ".2f",
    "PSNR to fp32, dB": ".1f",
}


def measure_folder(settings: Settings) -> list[Table]:
    """Pictures a second of each, start and end of the process included."""
    made = 3 if settings.tiny else 40 if settings.brief else 120
    source = settings.dataset or make_pictures(settings.folder / "in", made)
    count = sum(path.is_file() for path in source.iterdir())
    standard, small = (make(settings.folder, tiny=settings.tiny) for make in (resnet, shipped))
    target = settings.folder / "out"
    ways: dict[str, Way] = {
        REFERENCE: partial(_reference, standard, source, target, settings),
        STANDARD: partial(_command, standard, source, target, settings),
        SHIPPED: partial(_command, small, source, target, settings),
        EMPTY: partial(_recode, source, target),
    }
    # The first run of a model chooses its precision and the like, and remembers it; so this comes before the clock.
    likeness = _likeness(standard, small, source, settings)
    measured = in_turn(ways, settings.times(3))
    table = Table(
        title=f"A folder of {count} pictures",
        columns=COLUMNS,
        rows=[_row(name, measured, likeness.get(name)) for name in ways],
        notes=[
            "Whole processes, from their start to their end, JPEG in and out at quality 95.",
            "The reference loop opens and saves with Pillow, resizes bicubically, and runs one by one in fp32.",
            f"PSNR over {COMPARED} pictures written as PNG: to the reference loop, else to --precision fp32.",
            "Decoding and encoding alone is cgpipe's own, in one thread, without a start.",
        ],
    )
    if not (settings.tiny or settings.brief):
        table.aims = [
            Aim("ResNet-9, times the reference loop", _ratio(measured, STANDARD), 2.5),
            Aim("shipped model, times the reference loop running ResNet-9", _ratio(measured, SHIPPED), 25),
        ]
    return [table]


def _likeness(standard: Subject, small: Subject, source: Path, settings: Settings) -> dict[str, float]:
    """PSNR of what each way makes of the first pictures to the same network in fp32."""
    few = settings.folder / "few"
    few.mkdir()
    for path in sorted(path for path in source.iterdir() if path.is_file())[:COMPARED]:
        shutil.copy(path, few)
    out = {name: settings.folder / f"few {name}" for name in ("ours", "reference", "small", "exact")}
    png = ("--format", "png")
    _reference(standard, few, out["reference"], settings, ".png")
    _command(standard, few, out["ours"], settings, *png)
    _command(small, few, out["exact"], settings, *png, "--precision", "fp32")
    _command(small, few, out["small"], settings, *png)
    return {STANDARD: mean_psnr(out["ours"], out["reference"]), SHIPPED: mean_psnr(out["small"], out["exact"])}


def _reference(subject: Subject, source: Path, target: Path, settings: Settings, suffix: str = ".jpg") -> Done:
    ngf = next(subject.plain.parameters()).shape[0]
    shutil.rmtree(target, ignore_errors=True)
    commands.run(SCRIPT, subject.file, ngf, source, target, suffix, settings.device)
    return Done(count=len(list(target.iterdir())))


def _command(subject: Subject, source: Path, target: Path, settings: Settings, *options: str) -> Done:
    shutil.rmtree(target, ignore_errors=True)
    words = ("translate", source, "-o", target, "--model", subject.file, "--device", settings.device, *options)
    return Done(count=commands.cgpipe(*words, report=settings.folder / "report.json")["translated"])


def _recode(source: Path, target: Path) -> Done:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    paths = sorted(source.iterdir())
    for path in paths:
        frame = read_picture(path)
        write_picture(target / path.name, frame.pixels, frame.origin)
    return Done(count=len(paths))


def mean_psnr(folder: Path, other: Path) -> float:
    """Over all pictures of two folders; infinite where they are the same."""
    squares = [
        np.mean((cv2.imread(str(path)).astype(float) - cv2.imread(str(other / path.name))) ** 2)
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".")
    ]
    mean = float(np.mean(squares))
    return 10 * math.log10(255**2 / mean) if mean else math.inf


def _ratio(measured: dict[str, Runs], name: str) -> float:
    return measured[name].rate.median / measured[REFERENCE].rate.median


def _row(name: str, measured: dict[str, Runs], likeness: float | None) -> Row:
    rate = measured[name].rate
    return {
        "way": name,
        "pictures a second": rate.median,
        "lowest": rate.lowest,
        "highest": rate.highest,
        "times the reference": _ratio(measured, name),
        "PSNR to fp32, dB": likeness,
    }
