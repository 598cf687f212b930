"""Which files go in, and where each one comes out."""

from __future__ import annotations

import os
import unicodedata
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cgpipe.errors import UsageError
from cgpipe.media.pictures.formats import PICTURE_SUFFIXES, named_format, picture_format
from cgpipe.storage import is_own, remove_stale


class FilePair(NamedTuple):
    """An input, the file that it becomes, and its place below the input that was named.

    Of several inputs each folder counts as a part of the place, as it does in an output folder.
    """

    input: Path
    output: Path
    place: Path


@dataclass(frozen=True, slots=True)
class _Tree:
    """The files below ``base`` whose path matches ``pattern``; ``**`` stands for any number of folders."""

    base: Path
    pattern: tuple[str, ...]
    target: Path | None  # the folder that mirrors the base; None: each output lies beside its input
    place: Path  # that of the base among the inputs


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes in and where it comes out, as :func:`plan_files` found it.

    It holds no list of files: :meth:`pairs` walks the folders anew each time, with one folder's names in memory.

    Args:
        sources: what was named.
        domain: what the outputs show.
        format: the format of every output; None: that of its input.
        count: pictures found when the plan was made.
        ignored: files in the folders whose name is not a picture's.
    """

    sources: tuple[_Tree | FilePair, ...]
    domain: str
    format: str | None
    count: int = 0
    ignored: int = 0

    def pairs(self, part: int = 0, parts: int = 1) -> Iterator[FilePair]:
        """The pairs one by one, in a fixed order; or, of ``parts`` shares of them, share number ``part``.

        A file's name alone decides on its share. So workers that walk a changing folder at different moments neither
        miss a file nor both take it, as they would if they counted.
        """
        for pair in self._entries():
            if pair is not None and (parts == 1 or zlib.crc32(os.fsencode(pair.input)) % parts == part):
                yield pair

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders below which the outputs lie, in the order of the inputs."""
        roots = (s.output.parent if isinstance(s, FilePair) else s.target or s.base for s in self.sources)
        return tuple(dict.fromkeys(roots))

    def remove_stale(self) -> int:
        """Removes what killed runs left in the output folders (see :func:`remove_stale`) and counts it."""
        removed, last = 0, None
        for pair in self.pairs():
            if pair.output.parent != last:
                last = pair.output.parent
                removed += remove_stale(last)
        return removed

    def _trees(self) -> list[_Tree]:
        return [source for source in self.sources if isinstance(source, _Tree)]

    def _entries(self) -> Iterator[FilePair | None]:
        """Every file met, in order; None in place of one that is left out because it is not a picture by its name."""
        outputs = frozenset(os.path.realpath(tree.target) for tree in self._trees() if tree.target)
        for source in self.sources:
            if isinstance(source, FilePair):
                yield source
            else:
                yield from self._tree_entries(source, outputs)

    def _tree_entries(self, tree: _Tree, outputs: frozenset[str]) -> Iterator[FilePair | None]:
        for relative, listed in _walk(tree, outputs):
            path = tree.base / relative
            if listed and picture_format(relative) is None:
                yield None
            elif tree.target is not None:
                yield FilePair(path, tree.target / with_format(relative, self.format), tree.place / relative)
            elif not _is_output_of(path, self.domain, lambda other: _caught(other, tree.pattern[-1])):
                yield FilePair(path, beside(path, self.domain, self.format), tree.place / relative)


def plan_files(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    domain: str,
    format: str | None = None,
    recursive: bool = True,
) -> Plan:
    """Finds the pictures that ``inputs`` name, and where each of them goes.

    - A folder gives the pictures in it (by suffix, in either case) and, if ``recursive``, in the folders below. Its
      tree is mirrored in ``<folder>-<domain>`` beside it, or in ``output``; of several inputs each folder has a folder
      of its own name in ``output``, as ``cp -r`` does it.
    - A file is always tried, whatever its name. It becomes ``<stem>-<domain><suffix>`` beside it, or ``output``,
      which may be a file name if there is no other input, or a folder.
    - A pattern (``*``, ``?``, ``[a-z]``, and ``**`` for any number of folders) that the shell has left alone gives the
      pictures that match, named as single files are; in ``output`` they keep their place below the fixed part of the
      pattern. Outputs of an earlier run that a pattern or a list of files catches again are left out.

    Hidden files and folders, the output folders and our own temporary files are never inputs. Links are followed, and
    a loop of links ends where it closes. A folder that cannot be listed appears as an input itself, so that whoever
    reads it reports it.

    Args:
        domain: what the outputs show, for their names.
        format: the format of every output, as in :data:`PICTURE_SUFFIXES`; None keeps each input's own.

    Raises:
        UsageError: an input is missing, nothing is found, two inputs would become the same file, or an output would
            overwrite an input.
    """
    if not inputs:
        raise UsageError("no input; name a folder, files or a pattern such as 'photos/*.jpg'")
    chosen = named_format(format) if format else None
    paths = list({_Identity()(Path(path)): Path(path) for path in inputs}.values())
    out = None if output is None else Path(output)
    sources = tuple(_source(path, paths, domain, out, chosen, recursive) for path in paths)
    plan = Plan(tuple(source for source in sources if source is not None), domain, chosen)
    return _surveyed(plan, paths)


def _source(
    path: Path, paths: Sequence[Path], domain: str, out: Path | None, chosen: str | None, recursive: bool
) -> _Tree | FilePair | None:
    alone = len(paths) == 1
    if path.is_dir():
        place = Path() if alone else Path(Path(os.path.abspath(path)).name)
        return _Tree(path, ("**", "*") if recursive else ("*",), _mirror(path, alone, domain, out), place)
    if os.path.lexists(path):
        return _single_file(path, paths, domain, out, chosen)
    if not any(map(_is_magic, path.parts)):
        raise UsageError(f"{path} does not exist; check the spelling")
    _require_folder(out)
    base, pattern = _split_pattern(path)
    if not base.is_dir():
        raise UsageError(f"no pictures in {path}: there is no folder {base}")
    return _Tree(base, pattern, out, Path())


def _mirror(folder: Path, alone: bool, domain: str, out: Path | None) -> Path:
    """The folder in which the tree below ``folder`` is rebuilt."""
    full = Path(os.path.abspath(folder))
    if out is None:
        if not full.name:
            raise UsageError(f"{folder} has no folder beside it to write to; name one with --output")
        return (full if folder.name in ("", "..") else folder).with_name(f"{full.name}-{domain}")
    _require_folder(out)
    target = out if alone else out / full.name
    if os.path.realpath(target) == os.path.realpath(folder):
        raise UsageError(f"{target} is the input folder itself; name another one with --output")
    return target


def _single_file(
    path: Path, paths: Sequence[Path], domain: str, out: Path | None, chosen: str | None
) -> FilePair | None:
    place = Path(path.name)
    if out is None:
        if _is_output_of(path, domain, lambda other: other in paths):
            return None
        return FilePair(path, beside(path, domain, chosen), place)
    if len(paths) == 1 and picture_format(out) and not out.is_dir():
        if chosen not in (None, picture_format(out)):
            raise UsageError(f"the name {out} and the format {chosen} contradict each other; leave one of them out")
        return FilePair(path, out, place)
    _require_folder(out)
    return FilePair(path, out / with_format(path.name, chosen), place)


def _require_folder(out: Path | None) -> None:
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file, but these inputs need a folder to write to; name one with --output")


def beside(path: Path, domain: str, format: str | None = None) -> Path:
    """``photos/pony.jpg`` as ``photos/pony-zebra.jpg``."""
    stem, suffix = _split_suffix(path.name)
    return path.with_name(with_format(f"{stem}-{domain}{suffix}", format))


def with_format(name: str, format: str | None) -> str:
    """The file name, or path, with the suffix of ``format``; unchanged where it is of that format already."""
    if format in (None, picture_format(name)):
        return name
    return _split_suffix(name)[0] + next(suffix for suffix, kind in PICTURE_SUFFIXES.items() if kind == format)


def _split_suffix(name: str) -> tuple[str, str]:
    """Stem and suffix; what follows the last dot of ``scan.v2`` is no suffix, for it names no format."""
    return os.path.splitext(name) if picture_format(name) else (name, "")


def _is_output_of(path: Path, domain: str, is_input: Callable[[Path], bool]) -> bool:
    """Whether ``path`` is what another input has become in an earlier run."""
    stem, _ = _split_suffix(path.name)
    if not stem.endswith(f"-{domain}"):
        return False
    original = stem.removesuffix(f"-{domain}")
    suffixes = ["", *PICTURE_SUFFIXES]
    return any(is_input(path.with_name(original + case)) for suffix in suffixes for case in {suffix, suffix.upper()})


def _caught(path: Path, pattern: str) -> bool:
    return fnmatch(path.name, pattern) and path.exists()


# --- walking -------------------------------------------------------------------------------------------------------


def _is_magic(part: str) -> bool:
    return any(character in part for character in "*?[")


def _split_pattern(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder where a pattern begins, and the rest of it part by part."""
    first = next(index for index, part in enumerate(path.parts) if _is_magic(part))
    pattern = path.parts[first:]
    return Path(*path.parts[:first]), (*pattern, "*") if pattern[-1] == "**" else pattern


def _reached(pattern: tuple[str, ...], places: Iterable[int]) -> frozenset[int]:
    """``places``, and those behind each ``**``, which may also stand for no folder at all."""
    reached = set(places)
    for place, part in enumerate(pattern):
        if place in reached and part == "**":
            reached.add(place + 1)
    return frozenset(reached)


def _advance(pattern: tuple[str, ...], places: frozenset[int], name: str) -> frozenset[int]:
    """The places in the pattern reached from ``places`` through one more name; none: nothing below can match."""
    after = set()
    for place in places - {len(pattern)}:
        part = pattern[place]
        if name.startswith(".") and not part.startswith("."):
            continue
        if part == "**":
            after.add(place)
        elif fnmatch(name, part):
            after.add(place + 1)
    return _reached(pattern, after)


def _walk(tree: _Tree, outputs: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """Paths of the matching files relative to the base: those of a folder by name, then those of the folders below.

    The second value is False for a folder that could not be listed, which is given in place of what it holds.
    """
    stack: list[tuple[str, frozenset[int], tuple[str, ...]]] = [("", _reached(tree.pattern, {0}), ())]
    while stack:
        relative, places, above = stack.pop()
        real = os.path.realpath(tree.base / relative)
        if real in above or (above and real in outputs):
            continue
        try:
            files, folders = _list(tree.base / relative)
        except OSError:
            yield relative, False
            continue
        for name in files:
            if len(tree.pattern) in _advance(tree.pattern, places, name):
                yield os.path.join(relative, name), True
        below = ((name, _advance(tree.pattern, places, name)) for name in reversed(folders))
        stack.extend((os.path.join(relative, name), after, (*above, real)) for name, after in below if after)


def _list(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of the files and of the folders in ``folder``, without our temporary files."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_own(entry.name):
                (folders if _is_folder(entry) else files).append(entry.name)
    return sorted(files), sorted(folders)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: let the reader say so
        return False


# --- checks before the work ----------------------------------------------------------------------------------------


class _Identity:
    """A text for each path that is equal for two paths exactly where both name one file, whether it exists or not."""

    def __init__(self) -> None:
        self._folder = lru_cache(maxsize=256)(self._look_up)

    def __call__(self, path: Path) -> str:
        folder, ignores_case = self._folder(path.parent)
        text = os.path.join(folder, path.name) if path.name not in ("", "..") else os.path.realpath(path)
        return unicodedata.normalize("NFC", text).casefold() if ignores_case else text

    @staticmethod
    def _look_up(folder: Path) -> tuple[str, bool]:
        real = Path(os.path.realpath(folder))
        existing = next((parent for parent in (real, *real.parents) if parent.exists()), real)
        swapped = existing.with_name(existing.name.swapcase()) if existing.name else existing
        ignores_case = swapped.name != existing.name and swapped.exists() and swapped.samefile(existing)
        return str(real), ignores_case


def _digest(identity: str) -> int:
    return int.from_bytes(blake2b(os.fsencode(identity), digest_size=8).digest())


def _surveyed(plan: Plan, paths: Sequence[Path]) -> Plan:
    """The plan with its counts, after one walk that has found no two files in each other's way."""
    identity, ignored = _Identity(), 0
    inputs, outputs = array("Q"), array("Q")
    for pair in plan._entries():
        if pair is None:
            ignored += 1
        else:
            inputs.append(_digest(identity(pair.input)))
            outputs.append(_digest(identity(pair.output)))
    if not outputs:
        raise UsageError(
            f"no pictures in {', '.join(map(str, paths))}; known are names in {' '.join(PICTURE_SUFFIXES)}"
        )
    _check_collisions(plan, np.frombuffer(inputs, np.uint64), np.frombuffer(outputs, np.uint64))
    return Plan(plan.sources, plan.domain, plan.format, len(outputs), ignored)


def _check_collisions(plan: Plan, inputs: np.ndarray, outputs: np.ndarray) -> None:
    """Looks for equal digests; only where there are some, a second walk compares the names themselves."""
    values, counts = np.unique(outputs, return_counts=True)
    doubtful = {*values[counts > 1].tolist(), *np.intersect1d(inputs, values).tolist()}
    if not doubtful:
        return
    identity = _Identity()
    writers: dict[str, FilePair] = {}
    readers: dict[str, Path] = {}
    for pair in plan.pairs():
        source, target = identity(pair.input), identity(pair.output)
        if _digest(source) in doubtful:
            readers[source] = pair.input
        if _digest(target) in doubtful and (other := writers.setdefault(target, pair)) is not pair:
            raise UsageError(
                f"{other.input} and {pair.input} would both be written to {pair.output}; rename one of them,"
                " or translate them one after the other with an --output of their own"
            )
    for target in writers.keys() & readers.keys():
        raise UsageError(
            f"{writers[target].input} would be written over the input {readers[target]}; choose another --output"
        )
