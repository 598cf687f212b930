"""Several videos in one job: which goes where, and one that fails never stops the others."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

from cgpipe.errors import MissingDependencyError, ModelError, UsageError, reason_of
from cgpipe.jobs.journal import FolderJournal
from cgpipe.jobs.report import VideoReport, write_report
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.jobs.video import STANDARD, OnFrames, OnStart, VideoJob
from cgpipe.models.choose import choose_model
from cgpipe.notebook import html_table
from cgpipe.options import Options, takes_options
from cgpipe.storage import PathLike, require_local

FATAL = (UsageError, MissingDependencyError, ModelError)
"""What no video is to blame for: every other would fail alike."""

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts"),
    *(".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".gif"),
)
"""Files that are taken for videos when a folder is named."""

WRITTEN_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif", ".webp", ".apng"))
"""Containers that are written; what came in another one goes out as mp4."""


STANDARD_INPUTS = frozenset(("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"))
STANDARD_OUTPUTS = frozenset(("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"))
"""Other names of standard input and output."""


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

    def _repr_html_(self) -> str:
        failed = html_table("Failed", [(failure.input, failure.reason) for failure in self.failures])
        return "".join(video._repr_html_() for video in self.videos) + (failed if self.failures else "")

    def write(self, path: Path) -> None:
        """The report as a JSON file.

        Raises:
            CgpipeError: the file cannot be written.
        """
        write_report(
            path,
            {
                "videos": [video.to_json() for video in self.videos],
                "failures": [asdict(failure) for failure in self.failures],
            },
        )


@takes_options("video")
def translate_videos(
    inputs: Sequence[PathLike],
    output: PathLike | None = None,
    *,
    options: Options,
    progress: bool | None = None,
    on_start: OnStart | None = None,
    on_frames: OnFrames | None = None,
    on_failure: Callable[[str], None] | None = None,
) -> VideosReport:
    """Translates one or several videos with one model; one that fails never stops the others.

    Args:
        inputs: files, patterns, and folders (with all videos below them), or the other inputs of
            :func:`cgpipe.translate_video`; without ``output``, the second of two is where the first goes, and one
            alone goes to ``<name>-<domain>`` beside it.
        output: a folder, in which each result has the name of its input; or a file for one input.
        progress, on_start, on_frames: as in :func:`cgpipe.translate_video`, and so are all other options.
        on_failure: told in a line of each video that failed.

    Raises:
        UsageError: an input is missing, or two would become the same file; nothing has been written.
        ModelError: the model cannot be found or read.
        CgpipeError: there is one input alone, and it failed.
    """
    watch = Stopwatch()
    chosen = choose_model(options.choice)
    pairs = plan_videos([os.fspath(path) for path in inputs], output, chosen.domain)
    report = VideosReport()
    with VideoJob(chosen, options, watch, on_start, on_frames, progress) as job:
        for one, target in pairs:
            try:
                report.videos.append(job.run(one, target))
            except Exception as error:
                if len(pairs) == 1 or isinstance(error, FATAL):
                    raise
                report.failures.append(VideoFailure(input=one, reason=reason_of(error)))
                if on_failure:
                    on_failure(f"Failed: {reason_of(error)}")
    return report


def plan_videos(inputs: Sequence[str], output: PathLike | None, domain: str) -> list[tuple[str, str]]:
    """Which input becomes which output; see :func:`translate_videos`.

    Raises:
        UsageError: an input is missing, or two would become the same file, or one its own input.
    """
    inputs = [STANDARD if name in STANDARD_INPUTS else name for name in inputs]
    pairs = [_pair_without_folder(inputs, domain)] if output is None else _pairs_into(inputs, os.fspath(output))
    pairs = [(one, STANDARD if target in STANDARD_OUTPUTS else target) for one, target in pairs]
    taken: dict[str, str] = {}
    read = {os.path.realpath(one): one for one, _ in pairs}
    for one, target in pairs:
        if target == STANDARD:
            continue
        require_local(target)
        place = os.path.realpath(target)
        if place == os.path.realpath(one):
            raise UsageError(f"{one} would be written over itself: choose another output.")
        if place in read:
            raise UsageError(f"{one} would be written over the input {read[place]}: choose another output.")
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
    if (
        len(inputs) == 1
        and not Path(inputs[0]).is_dir()
        and (output in ("-", *STANDARD_OUTPUTS) or Path(output).suffix in WRITTEN_SUFFIXES)
    ):
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
            videos = sorted(_videos_below(match))
            if not videos:
                raise UsageError(f"{match} holds no videos ({' '.join(VIDEO_SUFFIXES)}).")
            base = match if len(inputs) == 1 else match.parent
            yield from ((video, video.relative_to(base)) for video in videos)


def _videos_below(folder: Path) -> Iterator[Path]:
    """The videos in a folder and those below, but what an earlier run made of one of them."""
    base = os.path.join(os.path.realpath(folder), "")
    journals = lru_cache(maxsize=4)(FolderJournal)
    for path in folder.rglob("*"):
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith("."):
            source = journals(str(path.parent)).source_of(path.name)
            if not (source or "").startswith(base):
                yield path


def _written_suffix(path: Path) -> str:
    return path.suffix if path.suffix.lower() in WRITTEN_SUFFIXES else ".mp4"
