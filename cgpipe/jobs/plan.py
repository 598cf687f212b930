"""Plans a folder job: the input files, and the output of each."""

from __future__ import annotations

import os
import unicodedata
import weakref
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from fnmatch import fnmatch
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from tempfile import SpooledTemporaryFile
from threading import Lock
from typing import IO, NamedTuple

from cgpipe.errors import UsageError
from cgpipe.jobs.journal import FolderJournal
from cgpipe.media.pictures.formats import BY_NAME, PICTURE_SUFFIXES, kind_of_file, named_format, picture_format
from cgpipe.options import Options, Shard
from cgpipe.remote import VIDEO_SUFFIXES, located, located_output
from cgpipe.storage import PAGE_MARK, PathLike, is_own, mounted, store_of

_SPOOL_BYTES = 1 << 20
_MOST = (1 << 64) - 1
_END = b"\0\0"
"""Behind every pair of the spool, whose paths have one zero byte between them."""


class FilePair(NamedTuple):
    """An input file, its output, and its path relative to the named input.

    Of several inputs each folder counts as a part of the place, as it does in an output folder. With a ``problem`` it
    cannot become that file.
    """

    input: Path
    output: Path
    place: Path
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Tree:
    """The files below ``base`` whose path matches ``pattern``; ``**`` stands for any number of folders."""

    base: Path
    pattern: tuple[str, ...]
    target: Path | None  # the folder that mirrors the base; None: each output lies beside its input
    place: Path  # that of the base among the inputs


Names = tuple[str, str, str]
"""Input, output and place of a pair (see :class:`FilePair`)."""


NAMED_MOST = 100
"""How many of the files that are no pictures a plan names."""


class Left(Enum):
    """Why a file is not an input."""

    NO_PICTURE = auto()
    """By its name and its first bytes."""
    EARLIER = auto()
    """An earlier run made it from another file among the inputs."""


class LeftOut(NamedTuple):
    """A file that is not an input."""

    path: str
    why: Left


class Plan:
    """Inputs and outputs, as found by :func:`plan_files`.

    The pairs are spooled to a temporary file, so that memory does not grow with their number.

    Attributes:
        roots: the folders below which the outputs lie, in the order of the inputs; of a file alone its output.
        folders: the same, and of a file alone the folder of its output.
        count: number of pairs.
        left: numbers of files left out, by reason.
        no_pictures: the first :data:`NAMED_MOST` of the files that are no pictures.
    """

    def __init__(self, roots: Iterable[Path], *, of_file: bool = False) -> None:
        self.roots = tuple(dict.fromkeys(roots))
        self.folders = tuple(root.parent for root in self.roots) if of_file else self.roots
        self.count = 0
        self.left: Counter[Left] = Counter()
        self.no_pictures: list[Path] = []
        self._spool: IO[bytes] = SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115  # closed with the plan
        weakref.finalize(self, self._spool.close)
        self._lock = Lock()
        self._blocked: dict[str, str] = {}

    @classmethod
    def of(cls, every: Iterable[Names]) -> Plan:
        """A plan of names that another one gave."""
        plan = cls(())
        for names in every:
            plan._add(names)
        return plan

    def pairs(self) -> Iterator[FilePair]:
        """The pairs, always in the same order."""
        for input, output, place in self.names():
            yield FilePair(Path(input), Path(output), Path(place), self.problem(output))

    def names(self) -> Iterator[Names]:
        """The same as strings, which is several times as fast."""
        start, rest = 0, b""
        while block := self._block(start):
            start += len(block)
            *records, rest = (rest + block).split(_END)
            for record in records:
                input, output, place = map(os.fsdecode, record.split(b"\0"))
                yield input, output, place

    def problem(self, output: str) -> str:
        """Why an output, named as in :meth:`names`, cannot be written; empty if it can."""
        return self._blocked.get(output, "")

    def _block(self, start: int) -> bytes:
        with self._lock:
            self._spool.seek(start)
            return self._spool.read(1 << 16)

    def _leave(self, file: LeftOut) -> None:
        self.left[file.why] += 1
        if file.why is Left.NO_PICTURE and len(self.no_pictures) < NAMED_MOST:
            self.no_pictures.append(Path(file.path))

    def _add(self, names: Names) -> None:
        self.count += 1
        self._spool.write(b"\0".join(map(os.fsencode, names)) + _END)


@dataclass(frozen=True)
class _Search:
    """The walk through what was named."""

    sources: tuple[_Tree | FilePair, ...]
    paths: frozenset[str]
    domain: str
    format: str | None

    @property
    def is_one_file(self) -> bool:
        return len(self.sources) == 1 and isinstance(self.sources[0], FilePair)

    @property
    def roots(self) -> Iterator[Path]:
        """Where outputs lie; see :class:`Plan`."""
        if self.is_one_file:
            return iter(source.output for source in self.sources if isinstance(source, FilePair))
        return (s.output.parent if isinstance(s, FilePair) else s.target or s.base for s in self.sources)

    def entries(self) -> Iterator[Names | LeftOut]:
        """Every file met, in order: a pair, or why it is none."""
        trees = [source for source in self.sources if isinstance(source, _Tree)]
        outputs = frozenset(_real(tree.target) for tree in trees if tree.target)
        journals = _Journals()
        for source in self.sources:
            if isinstance(source, _Tree):
                yield from self._tree_entries(source, outputs, journals)
            elif self._is_named_output(source.input, journals):
                yield LeftOut(str(source.input), Left.EARLIER)
            else:
                yield str(source.input), str(source.output), str(source.place)

    def _tree_entries(self, tree: _Tree, outputs: frozenset[str], journals: _Journals) -> Iterator[Names | LeftOut]:
        within = os.path.join(_real(tree.base), "")
        base, place = os.path.join(tree.base, ""), os.path.join(tree.place, "")
        target = None if tree.target is None else os.path.join(tree.target, "")
        for relative, listed in _walk(tree, outputs):
            path = base + relative
            is_picture, format = format_of(path, self.format) if listed else (True, self.format)
            if not is_picture:
                yield LeftOut(path, Left.NO_PICTURE)
            elif (journals.source_of(path) or "").startswith(within):
                yield LeftOut(path, Left.EARLIER)
            elif target is not None:
                yield path, target + with_format(relative, format), place + relative
            elif journals.is_early_output(Path(path), self.domain, lambda other: _caught(other, tree.pattern[-1])):
                yield LeftOut(path, Left.EARLIER)
            else:
                yield path, str(beside(Path(path), self.domain, format)), place + relative

    def _is_named_output(self, path: Path, journals: _Journals) -> bool:
        """Whether a file that was named, with others, is what one of these became in an earlier run."""
        if len(self.paths) == 1:
            return False
        if (source := journals.source_of(str(path))) is not None:
            return source in self.paths
        return journals.is_early_output(path, self.domain, lambda other: _place_of(other) in self.paths)


class _Journals:
    """What the journals of the folders say that are walked through."""

    def __init__(self) -> None:
        self._of = lru_cache(maxsize=4)(FolderJournal)

    def source_of(self, path: str) -> str | None:
        """The real path of the file that ``path`` was made of by an earlier run, if it was."""
        folder, name = os.path.split(path)
        return self._of(folder).source_of(name)

    def is_early_output(self, path: Path, domain: str, is_input: Callable[[Path], bool]) -> bool:
        """Whether ``path`` seems, by name and age, to be what an input became beside it before there was a journal."""
        stem, _ = _split_suffix(path.name)
        if self._of(str(path.parent)).lines or not stem.endswith(f"-{domain}"):
            return False
        original = stem.removesuffix(f"-{domain}")
        names = (original + case for suffix in ("", *PICTURE_SUFFIXES) for case in {suffix, suffix.upper()})
        return any(is_input(other) and _is_older(other, path) for other in map(path.with_name, names))


def _is_older(path: Path, than: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_mtime_ns <= than.stat().st_mtime_ns
    return False


def _place_of(path: Path) -> str:
    """The path of a file without links in its folder, as journals have it."""
    return os.path.join(_real(path.parent), path.name)


def _real(path: PathLike) -> str:
    return store_of(path).real(os.fspath(path))


def _full(path: Path) -> Path:
    return path if mounted(path) else Path(os.path.abspath(path))


def _there(path: Path) -> bool:
    return store_of(path).exists(os.fspath(path))


def _is_directory(path: Path) -> bool:
    return store_of(path).is_folder(os.fspath(path))


def plan_files(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    domain: str,
    format: str | None = None,
    recursive: bool = True,
    shard: Shard | None = None,
    strict: bool = True,
) -> Plan:
    """Finds the pictures in ``inputs``, and the output of each.

    - A folder gives the pictures in it (by suffix, in either case) and, if ``recursive``, in the folders below. Its
      tree is mirrored in ``<folder>-<domain>`` beside it, or in ``output``; of several inputs each folder has a folder
      of its own name in ``output``, as ``cp -r`` does it.
    - A file is always tried, whatever its name. It becomes ``<stem>-<domain><suffix>`` beside it, or ``output``,
      which may be a file name if there is no other input, or a folder.
    - A pattern (``*``, ``?``, ``[a-z]``, and ``**`` for any number of folders) that the shell has left alone gives the
      pictures that match, named as single files are; in ``output`` they keep their place below the fixed part of the
      pattern.
    - Of ``in.jpg out.jpg`` the second is the output, if it is not there or was made of the first.

    What an earlier run made of a file among the inputs is left out, be it beside that file or in a folder below.

    Hidden files and folders, the output folders and our own temporary files are never inputs. Links are followed, and
    a loop of links ends where it closes. A folder that cannot be listed appears as an input itself, so that whoever
    reads it reports it.

    Args:
        domain: the target domain, for the outputs' names.
        format: the format of every output, as in :data:`PICTURE_SUFFIXES`; None keeps each input's own.
        shard: plan only this part. All files are still walked, to find names that collide.
        strict: inputs that would write the same file are an error; else only they have a problem.

    Raises:
        UsageError: an input is missing, nothing is found, two inputs would write the same file, or every output would
            overwrite an input.
    """
    if not inputs:
        raise UsageError("No input: give a folder, files or a pattern such as 'photos/*.jpg'.")
    _require_name(output)
    chosen = named_format(format) if format else None
    paths, out = _in_and_out([located(path) for path in inputs], None if output is None else located_output(output))
    sources = tuple(_source(path, paths, domain, out, chosen, recursive) for path in paths)
    return _surveyed(_Search(sources, frozenset(map(_place_of, paths)), domain, chosen), paths, shard, strict)


def with_located_mask(options: Options) -> Options:
    """The options with the mask as a path from here on, whose secrets, if it is an address, are in no message."""
    mask = options.look.mask
    return options if mask is None else replace(options, look=replace(options.look, mask=located(mask)))


def _in_and_out(paths: Sequence[Path], out: Path | None) -> tuple[list[Path], Path | None]:
    """What is read, each once, and where it goes; of ``in.jpg out.jpg`` the second is an output."""
    identity = _Identity()
    once = list({identity(path): path for path in paths}.values())
    if out is None and len(once) == 2 and store_of(once[0]).is_file(os.fspath(once[0])) and picture_format(once[1]):
        source, target = once
        journal = FolderJournal(str(target.parent))
        if not _there(target) or journal.was_made_of(target.name, _place_of(source)):
            return [source], target
    return once, out


def _source(
    path: Path, paths: Sequence[Path], domain: str, out: Path | None, chosen: str | None, recursive: bool
) -> _Tree | FilePair:
    alone = len(paths) == 1
    if _is_directory(path):
        place = Path() if alone else Path(_full(path).name)
        return _Tree(path, ("**", "*") if recursive else ("*",), _mirror(path, alone, domain, out), place)
    if _there(path):
        return _single_file(path, paths, domain, out, chosen)
    base, pattern = split_pattern(path)
    if not pattern:
        raise UsageError(_missing(path, path is not paths[0] and out is None))
    _require_folder(out)
    if not _is_directory(base):
        raise UsageError(f"No pictures match {path}: there is no folder {base}.")
    return _Tree(base, pattern, out, Path())


def _mirror(folder: Path, alone: bool, domain: str, out: Path | None) -> Path:
    """The folder in which the tree below ``folder`` is rebuilt."""
    full = _full(folder)
    if out is None:
        if not full.name:
            raise UsageError(f"There is no place for an output folder beside {folder}: give one with --output.")
        return (full if folder.name in ("", "..") else folder).with_name(f"{full.name}-{domain}")
    _require_folder(out)
    target = out if alone else out / full.name
    if _real(target) == _real(folder):
        raise UsageError(f"{target} is the input folder: give another one with --output.")
    return target


def _single_file(path: Path, paths: Sequence[Path], domain: str, out: Path | None, chosen: str | None) -> FilePair:
    place = Path(path.name)
    _, format = format_of(path, chosen)
    if out is None:
        return FilePair(path, beside(path, domain, format), place)
    if len(paths) == 1 and picture_format(out) and not _is_directory(out):
        if chosen not in (None, picture_format(out)):
            raise UsageError(f"The name {out} contradicts --format {chosen}: omit one of them.")
        return FilePair(path, out, place)
    if out.suffix.lower() in VIDEO_SUFFIXES and not _is_directory(out):
        raise UsageError(f"{out} is not a valid name for a picture: use one such as {out.stem}.png, or cgpipe video.")
    _require_folder(out)
    return FilePair(path, out / with_format(path.name, format), place)


def _require_name(out: str | os.PathLike[str] | None) -> None:
    if out is not None and os.fspath(out) == "-":
        raise UsageError("Pictures are not written to standard output: name a file or a folder.")


def _missing(path: Path, may_be_output: bool) -> str:
    if os.fspath(path) == "-":
        return "Pictures are not read from standard input: name files or folders."
    return f"{path} does not exist: check the spelling" + f", or use -o {path} to write there" * may_be_output + "."


def _require_folder(out: Path | None) -> None:
    if out is not None and _there(out) and not _is_directory(out):
        raise UsageError(f"{out} is a file, but these inputs need an output folder: give one with --output.")


def beside(path: Path, domain: str, format: str | None = None) -> Path:
    """``photos/pony.jpg`` as ``photos/pony-zebra.jpg``."""
    stem, suffix = _split_suffix(path.name)
    return path.with_name(with_format(f"{stem}-{domain}{suffix}", format))


def format_of(path: PathLike, chosen: str | None) -> tuple[bool, str | None]:
    """Whether a file is a picture, and the format for its output's name; None: that of its own name.

    Names of the formats that are always read are believed. Other files are looked into: a JPEG called ``a.heic``
    becomes ``a.jpg``. A picture that cannot be read keeps its name, so that it is in the way of no other.

    Args:
        chosen: the format of all outputs, if one was chosen.
    """
    named = picture_format(path)
    if named and not BY_NAME[named].extra:
        return True, chosen
    kind = kind_of_file(path)
    if kind is None:
        return named is not None, chosen
    return True, None if kind.advice else chosen or kind.format


def with_format(name: str, format: str | None) -> str:
    """The file name, or path, with the suffix of ``format``; unchanged if it already has that format."""
    if format is None or format == picture_format(name):
        return name
    return _split_suffix(name)[0] + next(suffix for suffix, kind in PICTURE_SUFFIXES.items() if kind == format)


def _split_suffix(name: str) -> tuple[str, str]:
    """Stem and suffix; what follows the last dot of ``scan.v2`` is not a suffix, since it is not a format."""
    return os.path.splitext(name) if picture_format(name) else (name, "")


def _caught(path: Path, pattern: str) -> bool:
    return fnmatch(path.name, pattern) and path.exists()


# --- walking -------------------------------------------------------------------------------------------------------


def _is_magic(part: str) -> bool:
    return any(character in part for character in "*?[")


def split_pattern(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder where a pattern begins, and the rest of it part by part; ``[2024]`` may be a folder's name.

    Without a pattern the rest is empty.
    """
    parts = path.parts
    for first, part in enumerate(parts):
        if _is_magic(part) and (first + 1 == len(parts) or not _is_directory(Path(*parts[: first + 1]))):
            pattern = parts[first:]
            return Path(*parts[:first]), (*pattern, "*") if pattern[-1] == "**" else pattern
    return path, ()


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
        real = _real(tree.base / relative)
        if real in above or (above and real in outputs):
            continue
        try:
            files, folders = _list(tree.base / relative)
        except OSError:
            yield relative, False
            continue
        prefix = os.path.join(relative, "")
        every = tree.pattern[-1] == "*" and len(tree.pattern) - 1 in places  # a short cut for the usual pattern
        for name in files:
            if (every and name[0] != ".") or len(tree.pattern) in _advance(tree.pattern, places, name):
                yield prefix + name, True
        below = ((name, _advance(tree.pattern, places, name)) for name in reversed(folders))
        stack.extend((os.path.join(relative, name), after, (*above, real)) for name, after in below if after)


def files_below(folder: Path, pattern: tuple[str, ...] = ("**", "*")) -> Iterator[Path]:
    """The files in a folder and those below, without what is hidden; or those whose path below it fits a pattern."""
    found = _walk(_Tree(folder, pattern, None, Path()), frozenset())
    return (folder / relative for relative, listed in found if listed)


def matching(pattern: Path) -> Iterator[Path]:
    """The files that a pattern means; ``**`` stands for any number of folders."""
    base, parts = split_pattern(pattern)
    return files_below(base, parts) if parts else iter(())


def _list(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of the files and of the folders in ``folder``, without our temporary files."""
    files, folders = store_of(folder).listing(os.fspath(folder))
    if PAGE_MARK in files:
        return [], []
    return [name for name in files if not is_own(name)], [name for name in folders if not is_own(name)]


# --- checks before the work ----------------------------------------------------------------------------------------


class _Identity:
    """A text for each path that is equal for two paths exactly where both name one file, whether it exists or not."""

    def __init__(self) -> None:
        self._folder = lru_cache(maxsize=256)(self._look_up)

    def __call__(self, path: PathLike) -> str:
        parent, name = os.path.split(os.fspath(path))
        folder, ignores_case = self._folder(parent)
        text = os.path.join(folder, name) if name not in ("", ".", "..") else _real(path)
        return unicodedata.normalize("NFC", text).casefold() if ignores_case else text

    @staticmethod
    def _look_up(folder: str) -> tuple[str, bool]:
        if mounted(folder):
            return folder, False
        real = Path(os.path.realpath(folder))
        existing = next((parent for parent in (real, *real.parents) if parent.exists()), real)
        swapped = existing.with_name(existing.name.swapcase()) if existing.name else existing
        ignores_case = swapped.name != existing.name and swapped.exists() and swapped.samefile(existing)
        return str(real), ignores_case


def _digest(identity: str) -> int:
    """64 bits for comparisons within this process; two that are equal are compared by name too."""
    return hash(identity) & _MOST


def _surveyed(search: _Search, paths: Sequence[Path], shard: Shard | None, strict: bool) -> Plan:
    """The plan of what one walk meets, after a check that no two files are in each other's way."""
    plan, identity = Plan(search.roots, of_file=search.is_one_file), _Identity()
    inputs, outputs = array("Q"), array("Q")
    for found in search.entries():
        if isinstance(found, LeftOut):
            plan._leave(found)
            continue
        if shard is None or shard.holds(found[2]):
            plan._add(found)
        inputs.append(_digest(identity(found[0])))
        outputs.append(_digest(identity(found[1])))
    if not inputs:
        earlier = "; those that are there were made by an earlier run" if plan.left[Left.EARLIER] else ""
        named = ", ".join("this folder" if path == Path() else str(path) for path in paths)
        raise UsageError(f"No pictures in {named}{earlier}. Known suffixes: {' '.join(PICTURE_SUFFIXES)}.")
    doubtful = _doubtful(inputs, outputs)
    if doubtful:
        # A shard walks again: the other of two names may be in another shard.
        entries = search.entries()
        every = plan.names() if shard is None else (found for found in entries if not isinstance(found, LeftOut))
        plan._blocked = _blocked(every, doubtful, len(inputs), strict)
    return plan


def _doubtful(inputs: array[int], outputs: array[int]) -> set[int]:
    """The digests of outputs that are also those of another output, or of an input."""
    ordered = sorted(outputs)
    twice = {one for one, other in pairwise(ordered) if one == other}
    read = sorted(inputs)
    place, met = 0, set(twice)
    for written in ordered:
        while place < len(read) and read[place] < written:
            place += 1
        if place < len(read) and read[place] == written:
            met.add(written)
    return met


def _blocked(every: Iterable[Names], doubtful: set[int], count: int, strict: bool) -> dict[str, str]:
    """Outputs that cannot be written, and why, by the names behind doubtful digests.

    Raises:
        UsageError: with ``strict``, two inputs would become the same file; or every output would be written over an
            input.
    """
    identity = _Identity()
    writers: dict[str, Names] = {}
    readers: dict[str, str] = {}
    shared: dict[str, str] = {}
    for names in every:
        source, target = identity(names[0]), identity(names[1])
        if _digest(source) in doubtful:
            readers[source] = names[0]
        if _digest(target) in doubtful and (other := writers.setdefault(target, names)) is not names:
            reason = (
                f"{other[0]} and {names[0]} would both be written to {names[1]}. Rename one of them,"
                " or translate each to an --output of its own."
            )
            if strict:
                raise UsageError(reason)
            shared[other[1]] = shared[names[1]] = reason
    over = {
        names[1]: f"It would overwrite the input {readers[target]}. Use another --output."
        for target, names in writers.items()
        if target in readers
    }
    if len(over) == count:
        target, names = next(iter(writers.items()))
        raise UsageError(f"{names[0]} would overwrite the input {readers[target]}. Use another --output.")
    return over | shared
