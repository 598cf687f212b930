"""Where the time of a video goes: each stage alone, the whole command, and a plain OpenCV loop."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import commands
import numpy as np
from material import make_clip
from measure import Done, Runs, Way, in_turn
from results import Aim, Row, Table
from settings import Settings
from subjects import SUBJECTS, Subject

import cgpipe
from cgpipe.engine.scale import working_size
from cgpipe.media.frames import batched
from cgpipe.models import load_any

SCRIPT = Path(__file__).with_name("opencv_loop.py")
HELD = 128
"""Frames kept in memory for the stages alone."""

DECODE, GENERATOR, ENCODE = "decoding alone", "generator alone", "encoding alone"
JOB, COMMAND, BRIEF, PEER = "whole job", "whole command", "whole command, short clip", "OpenCV loop"

COLUMNS = {
    "stage": "",
    "frames": "d",
    "frames a second": ".1f",
    "lowest": ".1f",
    "highest": ".1f",
    "of the generator's rate": ".0%",
    "processor ms a frame": ".1f",
    "PSNR to fp32, dB": ".1f",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A size of video: the model, the frames of the long clip and of the short one, and what is to be reached.

    ``rate`` is in frames a second of the whole command, ``share`` of the generator's own rate.
    """

    subject: str
    width: int
    height: int
    frames: int
    brief: int
    rate: float
    share: float | None = None


CASES = {
    "256": Case(subject="shipped", width=256, height=256, frames=1500, brief=150, rate=60, share=0.85),
    "480p": Case(subject="fast", width=854, height=480, frames=600, brief=75, rate=24),
    "1080p": Case(subject="shipped", width=1920, height=1080, frames=300, brief=50, rate=12),
}
BRIEF_CASE = Case(subject="shipped", width=256, height=256, frames=250, brief=50, rate=0)
TINY = Case(subject="shipped", width=64, height=48, frames=12, brief=4, rate=0)


def measure_video(which: str, settings: Settings) -> list[Table]:
    """One size of video, or the user's own clip."""
    case = TINY if settings.tiny else BRIEF_CASE if settings.brief else CASES[which]
    subject = SUBJECTS[case.subject](settings.folder, tiny=settings.tiny)
    clip = settings.clip or make_clip(settings.folder / "clip.mp4", case.frames, case.width, case.height)
    brief = make_clip(settings.folder / "brief.mp4", case.brief, case.width, case.height)
    with cgpipe.VideoSource(clip) as source:
        frames = list(itertools.islice(source, HELD))
    translate = cgpipe.Translator(load_any(subject.file), device=str(settings.device))
    scales = translate.model.card.working_scales
    height, width = frames[0].pixels.shape[:2]
    seen = working_size(height, width, "auto", scales)
    multiple = translate.model.generator.multiple
    seen_by_peer = tuple(math.ceil(side / multiple) * multiple for side in seen)
    ours, theirs = settings.folder / "ours.mp4", settings.folder / "theirs.mp4"
    ways: dict[str, Way] = {
        DECODE: partial(_decode, clip),
        GENERATOR: partial(_generate, translate, frames),
        ENCODE: partial(_encode, settings.folder / "encoded.mp4", clip, frames),
        COMMAND: partial(_command, subject, clip, ours, settings),
        PEER: partial(_loop, subject, clip if settings.clip else brief, theirs, seen_by_peer, settings),
    }
    if not settings.clip:
        ways[BRIEF] = partial(_command, subject, brief, settings.folder / "short.mp4", settings, whole_job=False)
    _command(subject, brief, settings.folder / "first.mp4", settings)  # chooses the precision, and remembers it
    measured = in_turn(ways, settings.times(3))
    exact = cgpipe.Translator(load_any(subject.file), device=str(settings.device), precision="fp32")
    likeness = {COMMAND: _psnr(ours, clip, exact), PEER: _psnr(theirs, clip if settings.clip else brief, exact)}
    order = [DECODE, GENERATOR, ENCODE, JOB, COMMAND, BRIEF, PEER]
    table = Table(
        title=f"Video of {width}x{height}: {subject.title}",
        columns=COLUMNS,
        rows=[_row(name, measured, likeness.get(name)) for name in order if name in measured],
        notes=[
            f"The network works at {seen[1]}x{seen[0]}, in {translate.precision}.",
            f"Generator and encoding alone: {len(frames)} frames that are in memory, with cgpipe's own parts.",
            "The whole command counts from the start of the process to its end, the whole job by its own report.",
            "Processor time is that of all cores and processes, the start of a command included.",
            "The OpenCV loop runs the same network at the same size in fp32, and is timed without its start.",
            "PSNR of the written video to the decoded frames translated in fp32: the encoder's loss is in it.",
        ],
    )
    if not (settings.tiny or settings.brief or settings.clip):
        rate = measured[COMMAND].rate.median
        table.aims = [Aim("whole command, frames a second", rate, case.rate, ".1f")]
        if case.share:
            share = rate / measured[GENERATOR].rate.median
            table.aims.append(Aim("whole command, of the generator's rate", share, case.share, ".0%"))
    return [table]


def _decode(clip: Path) -> Done:
    with cgpipe.VideoSource(clip) as source:
        return Done(count=sum(1 for _ in source))


def _generate(translate: cgpipe.Translator, frames: list[Any]) -> Done:
    batch_size = 8 if translate.device.type == "cuda" else 1
    return Done(count=sum(len(batch) for batch in translate.stream(batched(frames, batch_size))))


def _encode(path: Path, clip: Path, frames: list[Any]) -> Done:
    with (
        cgpipe.VideoSource(clip) as source,
        cgpipe.VideoSink(path, like=source.info) as sink,
    ):
        for frame in frames:
            sink.write(frame)
    return Done(count=len(frames))


def _command(subject: Subject, clip: Path, target: Path, settings: Settings, *, whole_job: bool = True) -> Done:
    words = ("video", clip, target, "--model", subject.file, "--device", settings.device, "--overwrite")
    video = commands.cgpipe(*words, report=settings.folder / "report.json")["videos"][0]
    return Done(count=video["frames"], also={JOB: video["seconds"]["total"]} if whole_job else {})


def _loop(subject: Subject, clip: Path, target: Path, size: tuple[int, ...], settings: Settings) -> Done:
    count, seconds = commands.run(SCRIPT, subject.file, clip, target, *size, settings.device).split()
    return Done(count=int(count), seconds=float(seconds))


def _psnr(video: Path, clip: Path, exact: cgpipe.Translator, count: int = 16) -> float:
    """Over the first frames of a translated clip."""
    squares = []
    with cgpipe.VideoSource(video) as written, cgpipe.VideoSource(clip) as source:
        for one, other in itertools.islice(zip(written, source, strict=False), count):
            squares.append(np.mean((one.pixels.astype(float) - exact(other.pixels)) ** 2))
    return 10 * math.log10(255**2 / float(np.mean(squares)))


def _row(name: str, measured: dict[str, Runs], likeness: float | None) -> Row:
    rate, processor = measured[name].rate, measured[name].processor_each
    return {
        "stage": name,
        "frames": measured[name].counts[0],
        "frames a second": rate.median,
        "lowest": rate.lowest,
        "highest": rate.highest,
        "of the generator's rate": rate.median / measured[GENERATOR].rate.median,
        "processor ms a frame": 1000 * processor if processor else None,
        "PSNR to fp32, dB": likeness,
    }
