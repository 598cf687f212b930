"""Plans a video job: the input videos, and the output of each."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from cgpipe.errors import UsageError
from cgpipe.jobs.journal import FolderJournal
from cgpipe.jobs.plan import files_below, matching, split_pattern
from cgpipe.jobs.video_job import STANDARD
from cgpipe.remote import VIDEO_SUFFIXES, located_output, located_video
from cgpipe.storage import LOCAL, PathLike, shown, store_of

WRITTEN_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif", ".webp", ".apng"))
"""Containers that are written; videos in others become mp4."""

STANDARD_INPUTS = frozenset(("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"))
STANDARD_OUTPUTS = frozenset(("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"))
"""Other names of standard input and output."""


def plan_videos(inputs: Sequence[str], output: PathLike | None, domain: str) -> list[tuple[str, str]]:
    """Pairs of input and output; see :func:`translate_videos`.

    Raises:
        UsageError: an input is missing, two would write the same file, or one would overwrite its own input.
    """
    if output is None:
        pairs = [_pair_without_folder(inputs, domain)]
    else:
        pairs = _pairs_into([input_place(name) for name in inputs], output_place(output))
    taken: dict[str, str] = {}
    read = {_real(one): one for one, _ in pairs}
    for one, target in pairs:
        if target == STANDARD:
            continue
        place = _real(target)
        if place == _real(one) or _is_among(target, one):
            raise UsageError(f"{shown(one)} would overwrite itself: use another output.")
        if place in read:
            raise UsageError(f"{shown(one)} would overwrite the input {shown(read[place])}: use another output.")
        if taken.setdefault(place, one) != one:
            raise UsageError(
                f"{shown(taken[place])} and {shown(one)} would both be written to {shown(target)}: rename one of them."
            )
    return pairs


def _is_among(output: str, source: str) -> bool:
    """Whether the pictures of an output lie among those of its source."""
    if not (store_of(source).is_folder(source) or "%" in Path(source).name):
        return False
    from cgpipe.media.video.sequences import would_read_itself  # with it comes all that videos need

    return would_read_itself(source, output)


def _pair_without_folder(inputs: Sequence[str], domain: str) -> tuple[str, str]:
    if len(inputs) > 2:
        raise UsageError("Several videos need an output folder: give one with -o.")
    if len(inputs) == 2:
        return input_place(inputs[0]), output_place(inputs[1])
    path = Path(input_place(inputs[0]))
    if not store_of(path).is_file(os.fspath(path)):
        raise UsageError(f"{shown(path)} is not a file, so there is no default output: give one.")
    return str(path), str(path.with_name(f"{path.stem}-{domain}{written_suffix(path)}"))


def _pairs_into(inputs: Sequence[str], output: str) -> list[tuple[str, str]]:
    if (
        len(inputs) == 1
        and not store_of(inputs[0]).is_folder(inputs[0])
        and (output == STANDARD or Path(output).suffix.lower() in WRITTEN_SUFFIXES.union(VIDEO_SUFFIXES))
    ):
        return [(inputs[0], output)]
    pairs = []
    for path, relative in _expanded(inputs):
        pairs.append((str(path), str(Path(output) / relative.with_suffix(written_suffix(path)))))
    return pairs


def input_place(name: str) -> str:
    """The path of an input video, without secrets; the name of a stream is unchanged."""
    return STANDARD if name in STANDARD_INPUTS else located_video(name)


def output_place(name: PathLike) -> str:
    """The path of an output video.

    Raises:
        UsageError: the place is read-only.
    """
    return STANDARD if os.fspath(name) in STANDARD_OUTPUTS else os.fspath(located_output(name))


def _real(place: str) -> str:
    return store_of(place).real(place)


def _expanded(inputs: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Every named video, with its path relative to the output folder."""
    for name in inputs:
        store = store_of(name)
        matches = [Path(name)] if store.exists(name) else _matching(name)
        if not matches:
            raise UsageError(f"{shown(name)} does not exist: check the spelling.")
        for match in matches:
            if not store.is_folder(os.fspath(match)):
                yield match, Path(match.name)
                continue
            videos = sorted(_videos_below(match))
            if not videos:
                raise UsageError(f"{shown(match)} holds no videos ({' '.join(VIDEO_SUFFIXES)}).")
            base = match if len(inputs) == 1 else match.parent
            yield from ((video, video.relative_to(base)) for video in videos)


def _matching(pattern: str) -> list[Path]:
    if store_of(pattern) is LOCAL:
        base, parts = split_pattern(Path(pattern))
        found = glob.glob(os.path.join(*parts), root_dir=base, recursive=True) if parts else ()
        return [base / match for match in sorted(found)]
    return sorted(matching(Path(pattern)))


def _videos_below(folder: Path) -> Iterator[Path]:
    """The videos in a folder and below, without those that an earlier run made from others."""
    base = os.path.join(_real(os.fspath(folder)), "")
    journals = lru_cache(maxsize=4)(FolderJournal)
    for path in files_below(folder):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            source = journals(str(path.parent)).source_of(path.name)
            if not (source or "").startswith(base):
                yield path


def written_suffix(path: Path) -> str:
    return path.suffix if path.suffix.lower() in WRITTEN_SUFFIXES else ".mp4"
