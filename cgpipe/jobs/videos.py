"""Several videos in one job: which goes where, and one that fails never stops the others."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Unpack

from cgpipe.engine.translator import TranslatorOptions
from cgpipe.errors import CgpipeError, UsageError
from cgpipe.jobs.common import domain_of, load_translator
from cgpipe.jobs.startup import StartUp
from cgpipe.jobs.video import OnFrames, OnStart, PathLike, VideoJob, VideoOptions, VideoReport
from cgpipe.models import find_model
from cgpipe.models.foreign import Direction
from cgpipe.storage import atomic_write, require_local

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts"),
    *(".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".gif"),
)
"""Files that are taken for videos when a folder is named."""

WRITTEN_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif", ".webp"))
"""Containers that are written; what came in another one goes out as mp4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFailure:
    """A video of which nothing could be made, and why."""

    input: str
    reason: str


@dataclass(kw_only=True)
class VideosReport:
    """What :func:`translate_videos` did: a report for each video that was translated, and those that failed."""

    videos: list[VideoReport] = field(default_factory=list)
    failures: list[VideoFailure] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 when all is well, 1 when nothing could be done, 3 when something failed or was damaged."""
        if self.failures:
            return 3 if self.videos else 1
        return max((video.exit_code for video in self.videos), default=0)

    def write(self, path: Path) -> None:
        """The report as a JSON file.

        Raises:
            UsageError: the file cannot be written.
        """
        report = {
            "videos": [video.to_json() for video in self.videos],
            "failures": [asdict(failure) for failure in self.failures],
        }
        try:
            with atomic_write(path) as partial:
                partial.write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"The report cannot be written to {path}: {error.strerror}.") from error


def translate_videos(
    inputs: Sequence[PathLike],
    output: PathLike | None = None,
    *,
    to: str | None = None,
    source: str | None = None,
    model: PathLike | None = None,
    direction: Direction | None = None,
    batch_statistics: bool = False,
    video: VideoOptions | None = None,
    on_start: OnStart | None = None,
    on_frames: OnFrames | None = None,
    on_failure: Callable[[str], None] | None = None,
    **options: Unpack[TranslatorOptions],
) -> VideosReport:
    """Translates one or several videos with one model.

    Args:
        inputs: files, patterns, and folders (with all videos below them), or the other inputs of
            :func:`cgpipe.translate_video`; without ``output``, the second of two is where the first goes, and one
            alone goes to ``<name>-<domain>`` beside it.
        output: a folder, in which each result has the name of its input; or a file for one input.
        on_failure: told in a line of each video that failed.
        to, source, model, direction, batch_statistics, video, on_start, on_frames, options: as in
            :func:`cgpipe.translate_video`.

    Raises:
        UsageError: an input is missing, or two would become the same file; nothing has been written.
        ModelError: the model cannot be found or read.
        CgpipeError: there is one input alone, and it failed.
    """
    start = StartUp()
    found = find_model(to, source=source, file=model)
    pairs = plan_videos([os.fspath(path) for path in inputs], output, domain_of(found, to))
    translator = load_translator(
        found, to=to, source=source, direction=direction, batch_statistics=batch_statistics, start=start, **options
    )
    job = VideoJob(found, translator, video or {}, start, on_start, on_frames)
    report = VideosReport()
    for one, target in pairs:
        try:
            report.videos.append(job.run(one, target))
        except CgpipeError as error:
            if len(pairs) == 1:
                raise
            report.failures.append(VideoFailure(input=one, reason=str(error)))
            if on_failure:
                on_failure(f"Failed: {error}")
    return report


def plan_videos(inputs: Sequence[str], output: PathLike | None, domain: str) -> list[tuple[str, str]]:
    """Which input becomes which output; see :func:`translate_videos`.

    Raises:
        UsageError: an input is missing, or two would become the same file, or one its own input.
    """
    pairs = [_pair_without_folder(inputs, domain)] if output is None else _pairs_into(inputs, os.fspath(output))
    taken: dict[str, str] = {}
    for one, target in pairs:
        require_local(target)
        place = os.path.realpath(target)
        if place == os.path.realpath(one):
            raise UsageError(f"{one} would be written over itself: choose another output.")
        if taken.setdefault(place, one) != one:
            raise UsageError(f"{taken[place]} and {one} would both be written to {target}: rename one of them.")
    return pairs


def _pair_without_folder(inputs: Sequence[str], domain: str) -> tuple[str, str]:
    if len(inputs) > 2:
        raise UsageError("For several videos, name a folder for the results with -o.")
    if len(inputs) == 2:
        return inputs[0], inputs[1]
    path = Path(inputs[0])
    if not path.is_file():
        raise UsageError(f"{path} is no file, so its result has no place of its own: name an output.")
    return str(path), str(path.with_name(f"{path.stem}-{domain}{_written_suffix(path)}"))


def _pairs_into(inputs: Sequence[str], output: str) -> list[tuple[str, str]]:
    if len(inputs) == 1 and not Path(inputs[0]).is_dir() and (output == "-" or Path(output).suffix in WRITTEN_SUFFIXES):
        return [(inputs[0], output)]
    pairs = []
    for path, relative in _expanded(inputs):
        pairs.append((str(path), str(Path(output) / relative.with_suffix(_written_suffix(path)))))
    return pairs


def _expanded(inputs: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Every video that is named, with its place below the output folder."""
    for name in inputs:
        path = Path(name)
        matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))] if not path.exists() else [path]
        if not matches:
            raise UsageError(f"{name} does not exist: check the spelling.")
        for match in matches:
            if not match.is_dir():
                yield match, Path(match.name)
                continue
            videos = sorted(p for p in match.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
            if not videos:
                raise UsageError(f"{match} holds no videos ({' '.join(VIDEO_SUFFIXES)}).")
            base = match if len(inputs) == 1 else match.parent
            yield from ((video, video.relative_to(base)) for video in videos)


def _written_suffix(path: Path) -> str:
    return path.suffix if path.suffix.lower() in WRITTEN_SUFFIXES else ".mp4"
