"""What cgpipe made, and from what: a small hidden journal in every folder of outputs.

Each writer appends lines to a file of its own, locked while it is at work, so that several may write at once, on
network file systems too; a reader takes the lines of all of them. A line stands for one output and is written before
the output gets its name, so that a kill leaves none unknown. It describes the output itself (size, time, checksum), so
that a file put in its place is noticed and the newest of several lines needs no telling; and all is relative to the
folder, so that a copy or a part of it knows as much.
"""

from __future__ import annotations

import json
import os
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
"""What the names of journals begin with."""

_OPEN_JOURNALS = 16
_SUM_DIGITS = 16
_FEW_LINES = 1000


Stamps = tuple[Stamp, ...]


class Standing(Enum):
    """How an output stands to what would be made now."""

    OPEN = auto()
    """It is not there, or was made by cgpipe from something else: make it."""
    CURRENT = auto()
    """It is what would be made."""
    EARLY = auto()
    """It is taken for what would be made, though it is older than any journal."""
    FOREIGN = auto()
    """It was not made by cgpipe, and must not be replaced."""


class Entry(NamedTuple):
    """One output.

    Args:
        source: the input, relative to the folder of the output.
        fingerprint: of all that was asked for.
        inputs: stamps of the input, and of what else went in (its mask).
        output: the output's stamp.
        digest: the start of the output's checksum.
        checksum: of the input; empty where it was not taken.
        made: whether cgpipe made it, which is not known of a file older than the journal.
    """

    source: str
    fingerprint: str
    inputs: Stamps
    output: Stamp
    digest: str
    checksum: str = ""
    made: bool = True

    def line(self, name: str) -> bytes:
        """The entry as a line of a journal, with its checksum."""
        stamps = [number for stamp in (self.output, *self.inputs) for number in stamp]
        values = [name, self.source, self.fingerprint, self.digest, self.checksum, int(self.made), *stamps]
        text = json.dumps(values, separators=(",", ":")).encode()
        return b"%08x%s\n" % (zlib.crc32(text), text)

    @classmethod
    def parse(cls, text: bytes) -> Entry:
        """The entry of a line's text."""
        _, source, fingerprint, digest, checksum, made, *numbers = json.loads(text)
        output, *inputs = (Stamp(*pair) for pair in zip(numbers[::2], numbers[1::2], strict=True))
        return cls(source, fingerprint, tuple(inputs), output, digest, checksum, bool(made))

    def describes(self, path: PathLike, stamp: Stamp) -> bool:
        """Whether the file at ``path``, which has this stamp, is the output; one with another time, by its content."""
        if stamp == self.output:
            return True
        return stamp.size == self.output.size and digest_of(path)[:_SUM_DIGITS] == self.digest


class FolderJournal:
    """All that the journals of one folder say.

    Attributes:
        lines: how many were read.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.lines = 0
        self._texts: dict[str, bytes] = {}
        self._store = store_of(folder)
        for name in self._store.names(folder, NAME):
            with suppress(OSError):
                self._read(os.path.join(folder, name))

    @cached_property
    def had_made(self) -> bool:
        """Whether cgpipe had recorded any output that it made itself."""
        return any(Entry.parse(text).made for texts in self._texts.values() for text in texts.split(b"\n"))

    @property
    def count(self) -> int:
        """How many outputs are known, those included that are gone."""
        return len(self._texts)

    def add(self, name: str, text: bytes) -> None:
        """Knows one line more."""
        before = self._texts.get(name)
        self._texts[name] = text if before is None else before + b"\n" + text
        self.lines += 1

    def has(self, name: str, mark: bytes, tail: bytes) -> bool:
        """Whether a line of the output called ``name`` holds ``mark`` and ends in ``tail``: a look without parsing."""
        texts = self._texts.get(name)
        return texts is not None and any(mark in text and text.endswith(tail) for text in texts.split(b"\n"))

    def entry(self, name: str, stamp: Stamp) -> Entry | None:
        """The entry of the file called ``name`` as it is now; the latest, if several describe it.

        Raises:
            OSError: its content was to be compared and cannot be read.
        """
        texts = self._texts.get(name)
        for text in reversed(texts.split(b"\n")) if texts else ():
            entry = Entry.parse(text)
            if entry.describes(os.path.join(self.folder, name), stamp):
                return entry
        return None

    def source_of(self, name: str) -> str | None:
        """The path of the input that the file called ``name``, as it is now, was made of; None if it was not."""
        if name not in self._texts:
            return None
        with suppress(OSError):
            entry = self.entry(name, Stamp.of(os.path.join(self.folder, name)))
            if entry is not None:
                return self._path_of(entry)
        return None

    def was_made_of(self, name: str, source: str) -> bool:
        """Whether ``name`` was once made of ``source``, whatever lies there now."""
        texts = self._texts.get(name, b"")
        return any(self._path_of(Entry.parse(text)) == source for text in filter(None, texts.split(b"\n")))

    def _path_of(self, entry: Entry) -> str:
        return os.path.normpath(os.path.join(self._store.real(self.folder), entry.source))

    def compacted(self) -> Iterator[bytes]:
        """The lines that describe files that are there."""
        for name in self._texts:
            with suppress(OSError):
                entry = self.entry(name, Stamp.of(os.path.join(self.folder, name)))
                if entry is not None:
                    yield entry.line(name)

    def _read(self, path: str) -> None:
        """Takes the whole lines; what a crash or a network file system tore is passed over."""
        with self._store.open(path) as file:
            for line in file:
                text = line[8:-1]
                with suppress(ValueError):
                    if line.endswith(b"\n") and int(line[:8], 16) == zlib.crc32(text):
                        self.add(_first_value(text.decode(), 1)[0], text)


_first_value = json.JSONDecoder().raw_decode


class Journal:
    """Says which outputs are current, and records those that are made; safe for threads.

    Args:
        fingerprint: of all that is asked for (see :meth:`cgpipe.options.Options.fingerprint`).
        looks_made: whether an output that is older than any journal looks like what would be made of an input.
        overwrite: make everything, and replace what cgpipe did not make.
        checksum: compare the content of inputs, not their size and time.
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

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            while self._logs:
                self._logs.popitem()[1].close()

    def forget(self) -> None:
        """Reads again what others may have recorded meanwhile."""
        with self._lock:
            self._folders.clear()

    def standing(self, output: PathLike, inputs: Sequence[PathLike]) -> Standing:
        """How ``output`` stands to what would be made of ``inputs``: a picture or video, and its own mask, if any."""
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
        if entry is None:
            return self._without_entry(folder, output, there, inputs)
        if entry.fingerprint == self.fingerprint and self._same(entry, output, inputs):
            return Standing.CURRENT
        return Standing.OPEN if entry.made else Standing.FOREIGN

    def _is_plainly_current(self, folder: FolderJournal, name: str, there: Stamp, inputs: Sequence[PathLike]) -> bool:
        """Whether all is as it was recorded, which for most outputs of most runs is all there is to know."""
        try:
            stamps = (there, *map(Stamp.of, inputs))
        except OSError:
            return False
        return folder.has(name, self._mark, _stamp_text(stamps))

    def publisher(self, inputs: Sequence[PathLike], stamps: Stamps) -> Publish:
        """What records an output and puts it in its place; for :func:`cgpipe.storage.atomic_write`.

        Args:
            inputs: what it was made of.
            stamps: theirs, from before they were read.

        Raises, when it is called:
            MediaError: there is a file that cgpipe did not make.
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
        """Whether the inputs are those of an entry; without them nothing can be made, which the reader says."""
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
        """Records the stamp that a server gave an output, where it is another than was foreseen."""
        if store_of(output) is not LOCAL and (stamp := Stamp.of(output)) != entry.output:
            self._append(output, entry._replace(output=stamp)).flush()

    def _require_ours(self, output: str) -> None:
        """Another process may have put a file there meanwhile: its own journal tells whether it is one of ours."""
        if self._overwrite or not store_of(output).exists(output):
            return
        parent, name = os.path.split(output)
        for again in (False, True):
            if again:
                self._folders.pop(parent, None)
            with suppress(OSError):
                entry = self._folder(parent).entry(name, Stamp.of(output))
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
        source = _relative(os.fspath(inputs[0]), os.path.dirname(output)) if inputs else ""
        digest = digest_of(made)[:_SUM_DIGITS]
        stamp = Stamp.of(output) if made == output else store_of(output).future_stamp(made)
        return Entry(source, self.fingerprint, stamps, stamp, digest, checksum, ours)

    def _sum(self, inputs: Sequence[PathLike]) -> str:
        return "".join(digest_of(path)[:_SUM_DIGITS] for path in inputs) if self._checksum else ""

    def _folder(self, path: str) -> FolderJournal:
        """What is known of a folder; only few are kept, since a folder of a million outputs is large."""
        found = self._folders.get(path)
        if found is None:
            found = self._folders[path] = FolderJournal(path)
            if len(self._folders) > _OPEN_JOURNALS:
                self._folders.popitem(last=False)
        return found

    def _append(self, output: str, entry: Entry) -> Log:
        """Adds a line; the log that it gives knows when it is kept."""
        parent, name = os.path.split(output)
        line = entry.line(name)
        with self._lock:
            log = self._log(parent)
            log.write(line)
            if parent in self._folders:
                self._folders[parent].add(name, line[8:-1])
        return log

    def _log(self, folder: str) -> Log:
        """This process's own journal in a folder; anew where most lines of the others are of the past."""
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
        OSError: one is not there.
    """
    return tuple(map(Stamp.of, paths))


def foreign_reason(output: PathLike) -> str:
    """Why an output is not written."""
    return (
        f"{shown(output)} already exists and was not made by cgpipe. Move it, use another output, or replace it with "
        "--overwrite."
    )


def _stamp_text(stamps: Stamps) -> bytes:
    """How a line with these stamps, of the output and then of the inputs, ends."""
    return "".join(f",{number}" for stamp in stamps for number in stamp).encode() + b"]"


def _relative(source: str, folder: str) -> str:
    if store_of(source) is not store_of(folder):
        return source if store_of(source) is not LOCAL else os.path.abspath(source)
    real = store_of(source).real
    place = os.path.join(real(os.path.dirname(source)), os.path.basename(source))
    with suppress(ValueError):  # another drive of Windows
        return os.path.relpath(place, real(folder))
    return place
