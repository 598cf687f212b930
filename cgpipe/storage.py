"""Files on disk: whole or not at all, temporaries that say what they are, and what tells a file from another.

Everything that cgpipe writes for its own use has a hidden name that begins with :data:`PREFIX`: a temporary
(:func:`atomic_write`), a download that a later run resumes (:func:`partial_of`), a journal of outputs. Such a file is
never an input, and one sweep (:func:`remove_stale`) knows which of them nobody needs any more.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from cgpipe.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]
Publish = Callable[[PathLike, PathLike], None]
"""Puts a finished temporary in its place, as :func:`os.replace` does."""

PREFIX = ".cgpipe-"
"""What the name of every file of cgpipe's own begins with."""

PAGE_MARK = f"{PREFIX}page"
"""The empty file in a folder that holds the pictures of a page: the folder is cgpipe's, and nothing in it an input."""

HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""This machine in the name of a file that belongs to one of its processes."""

_writer = ""

STALE_SECONDS = 24 * 3600.0
"""Age from which a file counts as abandoned on a file system without locks."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""A scheme of two letters or more: one alone is a drive of Windows. :class:`pathlib.Path` drops the second slash."""

_TEMPORARY = re.compile(r"\.cgpipe-[0-9a-f]{8}-([0-9a-f]{8}){1,2}(\..*)?")
_LONGEST_SUFFIX = 16


class Stamp(NamedTuple):
    """A file's size in bytes and its time of change in nanoseconds: what is compared to see that it changed."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: PathLike) -> Stamp:
        """The stamp of the file at ``path``.

        Raises:
            OSError: there is no such file.
        """
        found = os.stat(path)
        return cls(found.st_size, found.st_mtime_ns)


def digest_of(path: PathLike) -> str:
    """A checksum (BLAKE2b, 128 bits, in hex) of a file's content; of a folder, of the names and stamps of its files.

    Raises:
        OSError: there is nothing at this path, or it cannot be read.
    """
    sum = blake2b(digest_size=16)
    if os.path.isdir(path):
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if not entry.name.startswith("."):
                sum.update(os.fsencode(f"{entry.name}\0{tuple(Stamp.of(entry))}\n"))
        return sum.hexdigest()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sum.update(block)
    return sum.hexdigest()


def cache_folder(*names: str) -> Path:
    """The folder called ``names`` in the user's cache; it may not exist yet."""
    from platformdirs import user_cache_path

    return user_cache_path("cgpipe").joinpath(*names)


def available_memory() -> int | None:
    """Bytes that this process may still take: of the machine, or of its container; None where neither says."""
    found = [int(line.split()[1]) << 10 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    limit, used = ("".join(_lines(f"/sys/fs/cgroup/memory.{name}")) for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        found.append(int(limit) - int(used))
    return min(found, default=None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def is_own(name: str) -> bool:
    """Whether a file of this name is one of cgpipe's own, and so never an input."""
    return name.startswith(PREFIX)


def partial_of(path: PathLike) -> Path:
    """Where the part of ``path`` that already exists is kept for a later run to resume; the sweep leaves it alone."""
    target = Path(path)
    return target.with_name(f"{PREFIX}partial-{target.name}")


def is_address(path: PathLike) -> bool:
    """Whether ``path`` is an address, such as ``s3://bucket/photos``, and names nothing on this machine."""
    return bool(_ADDRESS.match(os.fspath(path))) and not os.path.lexists(path)


def require_local(path: PathLike) -> None:
    """Raises UsageError where ``path`` is an address: it would be taken for a folder called ``s3:``."""
    if is_address(path):
        scheme, _, rest = os.fspath(path).partition(":")
        raise UsageError(
            f"{scheme}://{rest.lstrip('/')} is an address, and only files of this machine are read and written: "
            "copy what is there first, or mount it."
        )


# --- whole files only ----------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: PathLike, *, durable: bool = False, publish: Publish = os.replace) -> Iterator[Path]:
    """Gives an empty temporary file beside ``path``, and renames it to ``path`` when the body ends without an error.

    The folders above are made. The temporary is hidden, ends in the same suffix, and stays locked until then, so that
    :func:`remove_stale` finds it after a kill and leaves it alone before, whichever container or machine it runs on. If
    the body raises, nothing is left and an older file at ``path`` stays as it was.

    Args:
        durable: wait until the bytes are on the disk before renaming, for files that cannot be made again.
        publish: what to do in place of renaming.
    """
    target = Path(path)
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise FileExistsError(errno.EEXIST, "There is a device or a pipe in its place", os.fspath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(target) as temporary:
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        publish(temporary, target)


@contextmanager
def temporary_beside(path: PathLike) -> Iterator[Path]:
    """An empty temporary file in the folder of ``path``, locked while the body runs; removed if it is still there."""
    target = Path(path)
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= _LONGEST_SUFFIX else ""
    file: int | None = None
    while file is None:
        temporary = target.with_name(f"{PREFIX}{HOST}-{_writer}{secrets.token_hex(4)}{suffix}")
        file = _hold(temporary, os.O_CREAT | os.O_EXCL)
    try:
        if fcntl is None:  # an open file could not be renamed there
            os.close(file)
        yield temporary
    finally:
        if fcntl is not None:
            os.close(file)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_stale(folder: PathLike) -> int:
    """Removes the temporaries in ``folder`` that a killed process of this machine left; returns how many.

    A temporary whose lock can be taken has no writer, in whichever container it was. Where the file system has no
    locks, one that nobody wrote to for a day counts as left.
    """
    removed = 0
    try:
        names = [entry.name for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]
    except OSError:
        return 0
    for name in names:
        path = Path(folder, name)
        file = take_over(path)
        if file is not None:
            with suppress(OSError):
                path.unlink()
                removed += 1
            os.close(file)
    return removed


def name_writer(name: str) -> None:
    """Marks the temporaries of this process from now on.

    Args:
        name: 8 hex digits of its own.
    """
    global _writer
    _writer = name


def remove_written_by(name: str, folder: PathLike) -> None:
    """Removes the temporaries in ``folder`` of a process that has ended, on whichever machine (see `name_writer`)."""
    with suppress(OSError):
        for entry in os.scandir(folder or "."):
            if _TEMPORARY.fullmatch(entry.name) and entry.name[len(PREFIX) + len(HOST) + 1 :].startswith(name):
                Path(entry).unlink(missing_ok=True)


def create_locked(path: Path) -> int:
    """Creates a file of cgpipe's own, open for appending and locked, so that nobody takes it over.

    Raises:
        OSError: it already exists, or cannot be created.
    """
    while (file := _hold(path, os.O_CREAT | os.O_EXCL | os.O_APPEND)) is None:
        pass  # A sweep took it away before it was locked.
    return file


def take_over(path: Path) -> int | None:
    """Opens a file of cgpipe's own that belongs to nobody any more, locked; None if it may be in use, or is gone.

    Its name must hold :data:`HOST`: locks say nothing about a process of another machine.
    """
    if HOST not in path.name:
        return None
    with suppress(OSError):
        if fcntl is None:
            return None if time.time() - path.stat().st_mtime < STALE_SECONDS else os.open(path, os.O_RDWR | _BINARY)
        return _hold(path, os.O_APPEND, wait=False)
    return None


_BINARY = getattr(os, "O_BINARY", 0)


def _hold(path: Path, flags: int, *, wait: bool = True) -> int | None:
    """An open file that holds the lock of ``path``; None if another holds it, or removed the file meanwhile."""
    file = os.open(path, os.O_RDWR | _BINARY | flags, 0o666)
    try:
        # It may have been removed before it was locked; another of this name is never made.
        if fcntl is not None and _lock(file, wait) and os.path.lexists(path):
            return file
        if fcntl is None:
            return file
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


def _lock(file: int, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return wait or time.time() - os.fstat(file).st_mtime >= STALE_SECONDS
    return True
