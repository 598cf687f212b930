"""Records what cgpipe made, and from what, in a small hidden journal in every output folder.

Each writer appends lines to its own file, which it locks, so that several can write at once, also on network file
systems; a reader merges all of them. A line describes one output and is written before the output gets its name, so
that even a kill leaves none unrecorded. It holds the output's own size, time and checksum, so that a replaced file is
noticed and several lines need no order. All paths are relative to the folder, so a copy or a part of it is as good.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum, auto
from functools import cached_property, partial
from pathlib import Path
from threading import RLock
from typing import NamedTuple

from cgpipe.errors import MediaError
from cgpipe.storage import LOCAL, PREFIX, Log, PathLike, Publish, Stamp, digest_of, shown, store_of

NAME = f"{PREFIX}journal-"
"""Prefix of journals' names."""

_OPEN_JOURNALS = 16
_SUM_DIGITS = 16
_FEW_LINES = 1000
_KNOWN_WAYS = 1000


Stamps = tuple[Stamp, ...]


class Standing(Enum):
    """The state of an output compared with what a job would make now."""

    OPEN = auto()
    """It does not exist, or cgpipe made it from something else: make it."""
    CURRENT = auto()
    """It is up to date."""
    EARLY = auto()
    """It is older than any journal, and assumed to be up to date."""
    FOREIGN = auto()
    """cgpipe did not make it, and must not replace it."""


class Entry(NamedTuple):
    """One output.

    Args:
        source: the input, relative to the output's folder.
        fingerprint: of all options.
        inputs: stamps of the input and of its mask.
        output: the output's stamp.
        digest: first part of the output's checksum.
        checksum: checksum of the input; empty if not computed.
        made: whether cgpipe made it, which is unknown for files older than the journal.
    """

    source: str
    fingerprint: str
    inputs: Stamps
    output: Stamp
    digest: str
    checksum: str = ""
    made: bool = True

    def line(self, name: str) -> bytes:
        """The entry as a line of a journal, with the line's checksum."""
        stamps = [number for stamp in (self.output, *self.inputs) for number in stamp]
        values = [name, self.source, self.fingerprint, self.digest, self.checksum, int(self.made), *stamps]
        text = _text_of(values).encode()
        return b"%08x%s\n" % (zlib.crc32(text), text)

    @classmethod
    def parse(cls, text: bytes) -> Entry:
        """The entry of a line's text."""
        _, source, fingerprint, digest, checksum, made, *numbers = json.loads(text)
        output, *inputs = (Stamp(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))
        return cls(source, fingerprint, tuple(inputs), output, digest, checksum, bool(made))

    def describes(self, path: PathLike, stamp: Stamp) -> bool:
        """Whether the file at ``path``, with this stamp, is the output; if only its time differs, by content."""
        if stamp == self.output:
            return True
        return stamp.size == self.output.size and digest_of(path)[:_SUM_DIGITS] == self.digest


class FolderJournal:
    """The merged journals of one folder.

    Attributes:
        lines: number of lines read.
        read_at: when they were read, in nanoseconds since 1970.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.lines = 0
        self.read_at = time.time_ns()
        self._texts: dict[str, bytes] = {}
        self._store = store_of(folder)
        for name in self._store.names(folder, NAME):
            with suppress(OSError):
                self._read(os.path.join(folder, name))

    @cached_property
    def had_made(self) -> bool:
        """Whether any output that cgpipe made is recorded."""
        return any(Entry.parse(text).made for texts in self._texts.values() for text in texts.split(b"\n"))

    @property
    def count(self) -> int:
        """Number of recorded outputs, including deleted ones."""
        return len(self._texts)

    def add(self, name: str, text: bytes) -> None:
        """Adds a line."""
        before = self._texts.get(name)
        self._texts[name] = text if before is None else before + b"\n" + text
        self.lines += 1

    def has(self, name: str, mark: bytes, tail: bytes) -> bool:
        """Whether a line of the output ``name`` contains ``mark`` and ends in ``tail``, without parsing."""
        texts = self._texts.get(name)
        return texts is not None and any(mark in text and text.endswith(tail) for text in texts.split(b"\n"))

    def entry(self, name: str, stamp: Stamp) -> Entry | None:
        """The entry that describes the present file ``name``; the latest, if there are several.

        Raises:
            OSError: its content had to be compared and cannot be read.
        """
        texts = self._texts.get(name)
        for text in reversed(texts.split(b"\n")) if texts else ():
            entry = Entry.parse(text)
            if entry.describes(os.path.join(self.folder, name), stamp):
                return entry
        return None

    def source_of(self, name: str) -> str | None:
        """The path of the input from which the present file ``name`` was made; None if it was not."""
        if name not in self._texts:
            return None
        with suppress(OSError):
            entry = self.entry(name, Stamp.of(os.path.join(self.folder, name)))
            if entry is not None:
                return self._path_of(entry)
        return None

    def was_made_of(self, name: str, source: str) -> bool:
        """Whether ``name`` was ever made from ``source``, whatever it is now."""
        texts = self._texts.get(name, b"")
        return any(self._path_of(Entry.parse(text)) == source for text in filter(None, texts.split(b"\n")))

    def _path_of(self, entry: Entry) -> str:
        return os.path.normpath(os.path.join(self._store.real(self.folder), entry.source))

    def compacted(self) -> Iterator[bytes]:
        """The lines that describe existing files."""
        for name in self._texts:
            with suppress(OSError):
                entry = self.entry(name, Stamp.of(os.path.join(self.folder, name)))
                if entry is not None:
                    yield entry.line(name)

    def _read(self, path: str) -> None:
        """Reads complete lines; torn ones, from a crash or a network file system, are skipped."""
        with self._store.open(path) as file:
            for line in file:
                text = line[8:-1]
                with suppress(ValueError):
                    if line.endswith(b"\n") and int(line[:8], 16) == zlib.crc32(text):
                        self.add(_first_value(text.decode(), 1)[0], text)


_first_value = json.JSONDecoder().raw_decode
_text_of = json.JSONEncoder(separators=(",", ":")).encode


class Journal:
    """Knows which outputs are current, and records new ones; thread-safe.

    Args:
        fingerprint: of all options (see :meth:`cgpipe.options.Options.fingerprint`).
        looks_made: guesses whether an output older than any journal is a translation of an input.
        overwrite: make everything, and replace files that cgpipe did not make.
        checksum: compare inputs by content instead of size and time.
    """

    def __init__(
        self,
        fingerprint: str,
        *,
        looks_made: Callable[[Path, Path], bool],
        overwrite: bool = False,
        checksum: bool = False,
    ) -> None:
        self.fingerprint = fingerprint
        self._looks_made = looks_made
        self._overwrite = overwrite
        self._checksum = checksum
        self._lock = RLock()
        self._mark = f',"{fingerprint}",'.encode()
        self._folders: OrderedDict[str, FolderJournal] = OrderedDict()
        self._logs: OrderedDict[str, Log] = OrderedDict()
        self._ways: dict[tuple[str, str], str] = {}  # from the folders of outputs to those of their inputs

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            while self._logs:
                self._logs.popitem()[1].close()

    def forget(self) -> None:
        """Forces a new read of the journals, which other processes may have extended."""
        with self._lock:
            self._folders.clear()

    def standing(self, output: PathLike, inputs: Sequence[PathLike]) -> Standing:
        """The standing of ``output``, made from ``inputs``: a picture or video, and its own mask, if any."""
        if self._overwrite:
            return Standing.OPEN
        output = os.fspath(output)
        store = store_of(output)
        parent, name = os.path.split(output)
        with self._lock:
            folder = self._folder(parent)
        try:
            there = store.stamp(output)
        except OSError:
            return Standing.FOREIGN if store.exists(output) else Standing.OPEN
        with self._lock:
            if not self._checksum and self._is_plainly_current(folder, name, there, inputs):
                return Standing.CURRENT
            entry = folder.entry(name, there) if store.is_file(output) else None
            if entry is None and there.mtime_ns > folder.read_at:  # another process may have made it meanwhile
                folder = self._folder(parent, again=True)
                entry = folder.entry(name, there) if store.is_file(output) else None
        if entry is None:
            return self._without_entry(folder, output, there, inputs)
        if entry.fingerprint == self.fingerprint and self._same(entry, output, inputs):
            return Standing.CURRENT
        return Standing.OPEN if entry.made else Standing.FOREIGN

    def _is_plainly_current(self, folder: FolderJournal, name: str, there: Stamp, inputs: Sequence[PathLike]) -> bool:
        """Whether everything is as recorded: the quick check, which suffices for most outputs."""
        try:
            stamps = (there, *map(Stamp.of, inputs))
        except OSError:
            return False
        return folder.has(name, self._mark, _stamp_text(stamps))

    def publisher(self, inputs: Sequence[PathLike], stamps: Stamps) -> Publish:
        """A function that records an output and moves it into place; for :func:`cgpipe.storage.atomic_write`.

        Args:
            inputs: the output's inputs.
            stamps: their stamps from before they were read.

        Raises, when it is called:
            MediaError: a file that cgpipe did not make is in its place.
        """
        return partial(self._publish, inputs, stamps)

    def _without_entry(self, folder: FolderJournal, output: str, there: Stamp, inputs: Sequence[PathLike]) -> Standing:
        with suppress(OSError):
            stamps = stamps_of(inputs)
            newer = bool(stamps) and there.size > 0 and all(there.mtime_ns > stamp.mtime_ns for stamp in stamps)
            if newer and not folder.had_made and self._looks_made(Path(inputs[0]), Path(output)):
                with suppress(OSError):  # of a folder that cannot be written to
                    entry = self._entry(output, output, inputs, stamps, checksum=self._sum(inputs), ours=False)
                    self._append(output, entry)
                return Standing.EARLY
        return Standing.FOREIGN

    def _same(self, entry: Entry, output: str, inputs: Sequence[PathLike]) -> bool:
        """Whether the inputs are those of an entry; missing inputs are left to the reader's error."""
        with suppress(OSError):
            if self._checksum and entry.checksum:
                return self._sum(inputs) == entry.checksum
            same = stamps_of(inputs) == entry.inputs
            if same and self._checksum:
                with suppress(OSError):
                    self._append(output, entry._replace(checksum=self._sum(inputs)))
            return same
        return False

    def _publish(self, inputs: Sequence[PathLike], stamps: Stamps, temporary: PathLike, target: PathLike) -> None:
        output = os.fspath(target)
        unchanged = False  # or gone
        with suppress(OSError):
            unchanged = stamps_of(inputs) == stamps
        entry = self._entry(temporary, output, inputs, stamps, checksum=self._sum(inputs) if unchanged else "")
        store = store_of(output)
        new = not self._overwrite and not store.exists(output)
        with self._lock:
            self._require_ours(output)
            log = self._append(output, entry)
        log.flush()
        try:
            store.put(temporary, output, new=new)
        except FileExistsError:  # put there meanwhile, by somebody else or by a try of ours that seemed to fail
            store.forget(os.path.dirname(output))
            self._require_ours(output)
            if store.stamp(output) != entry.output:
                store.put(temporary, output)
        self._confirm(output, entry)

    def _confirm(self, output: str, entry: Entry) -> None:
        """Records an output's stamp again, if a server gave it another one than expected."""
        if store_of(output) is not LOCAL and (stamp := Stamp.of(output)) != entry.output:
            self._append(output, entry._replace(output=stamp)).flush()

    def _require_ours(self, output: str) -> None:
        """Checks a file that another process has put there meanwhile: its journal tells whether it is ours."""
        if self._overwrite or not store_of(output).exists(output):
            return
        parent, name = os.path.split(output)
        for again in (False, True):
            with suppress(OSError):
                entry = self._folder(parent, again=again).entry(name, Stamp.of(output))
                if entry is not None and entry.made:
                    return
        raise MediaError(foreign_reason(output))

    def _entry(
        self,
        made: PathLike,
        output: str,
        inputs: Sequence[PathLike],
        stamps: Stamps,
        *,
        checksum: str,
        ours: bool = True,
    ) -> Entry:
        source = self._source_of(os.fspath(inputs[0]), os.path.dirname(output)) if inputs else ""
        digest = digest_of(made)[:_SUM_DIGITS]
        stamp = Stamp.of(output) if made == output else store_of(output).future_stamp(made)
        return Entry(source, self.fingerprint, stamps, stamp, digest, checksum, ours)

    def _source_of(self, input: str, folder: str) -> str:
        """The path of an input relative to the folder of its output."""
        parent, name = os.path.split(input)
        key = (parent, folder)
        if key not in self._ways:
            if len(self._ways) >= _KNOWN_WAYS:
                self._ways.clear()
            self._ways[key] = _relative(parent, folder)
        return os.path.join(self._ways[key], name)

    def _sum(self, inputs: Sequence[PathLike]) -> str:
        return "".join(digest_of(path)[:_SUM_DIGITS] for path in inputs) if self._checksum else ""

    def _folder(self, path: str, *, again: bool = False) -> FolderJournal:
        """The journals of a folder; only a few are kept in memory, since a folder may have a million outputs.

        Args:
            again: read them again, since other processes may have extended them.
        """
        found = None if again else self._folders.get(path)
        if found is None:
            found = self._folders[path] = FolderJournal(path)
            if len(self._folders) > _OPEN_JOURNALS:
                self._folders.popitem(last=False)
        return found

    def _append(self, output: str, entry: Entry) -> Log:
        """Adds a line; the returned log knows when it is on disk."""
        parent, name = os.path.split(output)
        line = entry.line(name)
        with self._lock:
            log = self._log(parent)
            log.write(line)
            if parent in self._folders:
                self._folders[parent].add(name, line[8:-1])
        return log

    def _log(self, folder: str) -> Log:
        """This process's journal in a folder; compacted if most of the others' lines are outdated."""
        if folder in self._logs:
            self._logs.move_to_end(folder)
            return self._logs[folder]
        known = self._folders.get(folder)  # a large one is not read only to add to it
        much = known is not None and known.lines > 2 * known.count + _FEW_LINES
        log = store_of(folder).open_log(folder, NAME, known.compacted if known and much else None)
        self._logs[folder] = log
        if len(self._logs) > _OPEN_JOURNALS:
            self._logs.popitem(last=False)[1].close()
        return log


def stamps_of(paths: Sequence[PathLike]) -> Stamps:
    """The stamps of some files.

    Raises:
        OSError: one does not exist.
    """
    return tuple(map(Stamp.of, paths))


def foreign_reason(output: PathLike, other: str = "another output") -> str:
    """The error for an output that cgpipe did not make, with what to use in its place."""
    said = f"{shown(output)} already exists and was not made by cgpipe"
    return f"{said}. Move it, use {other}, or replace it with --overwrite."


def _stamp_text(stamps: Stamps) -> bytes:
    """The end of a line with these stamps, of the output and then of the inputs."""
    return "".join(f",{number}" for stamp in stamps for number in stamp).encode() + b"]"


def _relative(parent: str, folder: str) -> str:
    """The way from an output's folder to an input's; the folder itself is an empty one."""
    store = store_of(parent)
    if store is not store_of(folder):
        return parent if store is not LOCAL else os.path.abspath(parent)
    real = store.real(parent)
    with suppress(ValueError):  # another drive of Windows
        way = os.path.relpath(real, store.real(folder))
        return "" if way == os.curdir else way
    return real
