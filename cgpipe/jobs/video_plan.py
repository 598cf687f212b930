"""Which videos go in, and where each one comes out."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from cgpipe.errors import UsageError
from cgpipe.jobs.journal import FolderJournal
from cgpipe.jobs.video_job import STANDARD
from cgpipe.storage import PathLike, require_local

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
            raise UsageError(f"{one} would overwrite itself: use another output.")
        if place in read:
            raise UsageError(f"{one} would overwrite the input {read[place]}: use another output.")
        if taken.setdefault(place, one) != one:
            raise UsageError(f"{taken[place]} and {one} would both be written to {target}: rename one of them.")
    return pairs


def _pair_without_folder(inputs: Sequence[str], domain: str) -> tuple[str, str]:
    if len(inputs) > 2:
        raise UsageError("Several videos need an output folder: give one with -o.")
    if len(inputs) == 2:
        return inputs[0], inputs[1]
    path = Path(inputs[0])
    if not path.is_file():
        raise UsageError(f"{path} is not a file, so there is no default output: give one.")
    return str(path), str(path.with_name(f"{path.stem}-{domain}{written_suffix(path)}"))


def _pairs_into(inputs: Sequence[str], output: str) -> list[tuple[str, str]]:
    if (
        len(inputs) == 1
        and not Path(inputs[0]).is_dir()
        and (output in ("-", *STANDARD_OUTPUTS) or Path(output).suffix in WRITTEN_SUFFIXES)
    ):
        return [(inputs[0], output)]
    pairs = []
    for path, relative in _expanded(inputs):
        pairs.append((str(path), str(Path(output) / relative.with_suffix(written_suffix(path)))))
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


def written_suffix(path: Path) -> str:
    return path.suffix if path.suffix.lower() in WRITTEN_SUFFIXES else ".mp4"
