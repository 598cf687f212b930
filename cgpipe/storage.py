"""Files: atomic writes, recognisable temporaries, stamps and checksums, and stores of remote files.

Every file that cgpipe writes for its own use has a hidden name that begins with :data:`PREFIX`: a temporary
(:func:`atomic_write`), a download that a later run resumes (:func:`partial_of`), a journal of outputs. One sweep
(:func:`remove_stale`) removes those that are abandoned. The parts of an output that a later run resumes lie beside it
in a hidden folder, ``.NAME.cgpipe``. None of them is ever an input.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import IO, NamedTuple, Protocol, TypeVar
from urllib.parse import SplitResult, urlsplit

from cgpipe.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]
Publish = Callable[[PathLike, PathLike], None]
"""Moves a finished temporary into place, like :func:`os.replace`."""

PREFIX = ".cgpipe-"
"""Prefix of the names of cgpipe's own files."""

PAGE_MARK = f"{PREFIX}page"
"""The empty file in a folder that holds the pictures of a page: the folder is cgpipe's, and nothing in it an input."""

HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""Identifies this machine in the names of its processes' files."""

_writer = ""

STALE_SECONDS = 24 * 3600.0
"""Age from which a file counts as abandoned on a file system without locks."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""A scheme of two letters or more: one alone is a drive of Windows. :class:`pathlib.Path` drops the second slash."""

_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"]+", re.IGNORECASE)

_BUCKETS = ("s3", "gs", "gcs", "abfs", "abfss", "az")
"""The schemes of object stores."""

_TEMPORARY = re.compile(r"\.cgpipe-[0-9a-f]{8}-([0-9a-f]{8}){1,2}(\..*)?")
_LONGEST_SUFFIX = 16


class Stamp(NamedTuple):
    """A file's size in bytes and modification time in nanoseconds, compared to detect changes.

    For a remote object the second value is derived from its ETag or time.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: PathLike) -> Stamp:
        """The stamp of the file at ``path``.

        Raises:
            OSError: there is no such file.
        """
        return store_of(path).stamp(os.fspath(path))


def digest_of(path: PathLike) -> str:
    """A checksum (BLAKE2b, 128 bits, in hex) of a file's content; of a folder, of the names and stamps of its files.

    Raises:
        OSError: the path does not exist, or cannot be read.
    """
    sum = blake2b(digest_size=16)
    if os.path.isdir(path):
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if not entry.name.startswith("."):
                sum.update(os.fsencode(f"{entry.name}\0{tuple(Stamp.of(entry))}\n"))
        return sum.hexdigest()
    store = store_of(path)
    if store is not LOCAL and store.is_folder(os.fspath(path)):
        for name in store.listing(os.fspath(path)).files:
            sum.update(os.fsencode(f"{name}\0{tuple(store.stamp(f'{path}/{name}'))}\n"))
        return sum.hexdigest()
    return digest_of_file(path)


def digest_of_file(path: PathLike) -> str:
    """As :func:`digest_of`, of a file, which may be an archive that is read as a folder."""
    with fetched(path) as here, open(here, "rb") as file:
        return hashlib.file_digest(file, partial(blake2b, digest_size=16)).hexdigest()


def cache_folder(*names: str) -> Path:
    """The folder ``names`` in the user's cache; it may not exist yet."""
    from platformdirs import user_cache_path

    return user_cache_path("cgpipe").joinpath(*names)


def available_memory() -> int | None:
    """Bytes of memory that this process may still use, of the machine or its container; None if unknown."""
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
    """Whether a file name is one of cgpipe's own, and so never an input."""
    return name.startswith(PREFIX)


def partial_of(path: PathLike) -> Path:
    """Path of the partial download of ``path``, which a later run resumes; the sweep leaves it alone."""
    target = Path(path)
    return target.with_name(f"{PREFIX}partial-{target.name}")


def is_address(path: PathLike) -> bool:
    """Whether ``path`` is an address, such as ``s3://bucket/photos``, and names nothing on this machine."""
    return bool(_ADDRESS.match(os.fspath(path))) and not os.path.lexists(path)


def require_local(path: PathLike) -> None:
    """Raises UsageError if ``path`` is an address, which would be taken for a folder called ``s3:``."""
    if is_address(path):
        scheme, _, rest = os.fspath(path).partition(":")
        named = shown(f"{scheme}://{rest.lstrip('/')}")
        raise UsageError(
            f"{named} is an address, and only files of this machine are read and written: copy what is there first, or "
            "mount it."
        )


# --- stores --------------------------------------------------------------------------------------------------------


class Listing(NamedTuple):
    """Sorted names of the files and of the folders in a folder."""

    files: list[str]
    folders: list[str]


class Log(Protocol):
    """A journal that a process appends to; thread-safe."""

    def write(self, line: bytes) -> None:
        """Appends a whole line, or none.

        Raises:
            OSError: the disk is full, or the line cannot be written.
        """

    def flush(self) -> None:
        """Waits until all lines are stored."""

    def close(self) -> None:
        """Closes the journal."""


class Store(Protocol):
    """A place for files: this machine, or remote storage (see :mod:`cgpipe.remote`).

    Every method takes full paths, and raises OSError on failure.

    Attributes:
        parallel: files to transfer in parallel because of latency; 0 if there is none.
    """

    parallel: int

    def listing(self, folder: str) -> Listing:
        """The content of a folder, read anew."""

    def names(self, folder: str, prefix: str) -> list[str]:
        """Sorted names in a folder that begin with ``prefix``; empty if the folder does not exist."""

    def stamp(self, path: str) -> Stamp:
        """A file's stamp."""

    def future_stamp(self, temporary: PathLike) -> Stamp:
        """The expected stamp of a temporary once it is in place."""

    def exists(self, path: str) -> bool:
        """Whether the path exists."""

    def is_file(self, path: str) -> bool:
        """Whether the path is a regular file."""

    def is_folder(self, path: str) -> bool:
        """Whether the path is a folder."""

    def real(self, path: str) -> str:
        """A canonical path, the same for all names of a file or folder."""

    def fetched(self, path: str) -> AbstractContextManager[Path]:
        """The content as a local file, while the body runs."""

    def temporary(self, path: str) -> AbstractContextManager[Path]:
        """An empty local file in which ``path`` is prepared; removed after the body."""

    def put(self, temporary: PathLike, path: str, *, new: bool = False) -> None:
        """Moves a finished temporary into place, whole or not at all.

        Args:
            new: raise FileExistsError if the path exists, if the store can tell.
        """

    def remove(self, path: str) -> None:
        """Removes a file, if it exists."""

    def make_folder(self, path: str) -> None:
        """Creates the parent folders of ``path``.

        Raises:
            FileExistsError: a device or a pipe is in its place.
        """

    def forget(self, folder: str) -> None:
        """Discards cached information about a folder."""

    def open(self, path: str) -> IO[bytes]:
        """Opens a file for reading."""

    def open_log(self, folder: str, name: str, compacted: Callable[[], Iterable[bytes]] | None) -> Log:
        """Opens this process's own journal in a folder.

        Args:
            name: prefix of its name.
            compacted: returns the lines of a new journal that replaces abandoned ones; locks tell which those are, so a
                store without locks makes no use of it.
        """


class _FileLog:
    """A locked file to which whole lines are appended."""

    def __init__(self, file: int) -> None:
        self._file = file

    def write(self, line: bytes) -> None:
        before = os.lseek(self._file, 0, os.SEEK_END)
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, before)
            raise

    def flush(self) -> None:
        """A line is written when it is added."""

    def close(self) -> None:
        os.close(self._file)


class _LocalStore:
    """The files of this machine."""

    parallel = 0

    def listing(self, folder: str) -> Listing:
        files: list[str] = []
        folders: list[str] = []
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                (folders if _is_folder(entry) else files).append(entry.name)
        return Listing(sorted(files), sorted(folders))

    def names(self, folder: str, prefix: str) -> list[str]:
        with suppress(OSError):
            return sorted(entry.name for entry in os.scandir(folder or ".") if entry.name.startswith(prefix))
        return []

    def stamp(self, path: str) -> Stamp:
        found = os.stat(path)
        return Stamp(found.st_size, found.st_mtime_ns)

    def future_stamp(self, temporary: PathLike) -> Stamp:
        return self.stamp(os.fspath(temporary))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def is_file(self, path: str) -> bool:
        return os.path.isfile(path)

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(path)

    def real(self, path: str) -> str:
        return os.path.realpath(path)

    @contextmanager
    def fetched(self, path: str) -> Iterator[Path]:
        yield Path(path)

    def temporary(self, path: str) -> AbstractContextManager[Path]:
        return temporary_beside(path)

    def put(self, temporary: PathLike, path: str, *, new: bool = False) -> None:
        os.replace(temporary, path)

    def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def make_folder(self, path: str) -> None:
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise FileExistsError(errno.EEXIST, "There is a device or a pipe in its place", path)
        if not os.path.isdir(parent := os.path.dirname(path) or "."):
            os.makedirs(parent, exist_ok=True)

    def forget(self, folder: str) -> None:
        """Nothing is remembered."""

    def open(self, path: str) -> IO[bytes]:
        return open(path, "rb")

    def open_log(self, folder: str, name: str, compacted: Callable[[], Iterable[bytes]] | None) -> Log:
        paths = [Path(folder, one) for one in self.names(folder, name)]
        free = {path: file for path in paths if (file := take_over(path)) is not None}
        if compacted is None and free:
            file = free.pop(next(iter(free)))
        else:
            file = create_locked(Path(folder) / f"{name}{HOST}-{secrets.token_hex(4)}")
        if compacted is not None:
            with suppress(OSError):  # no space: those that are there stay
                _FileLog(file).write(b"".join(compacted()))
                for path in free:
                    path.unlink(missing_ok=True)
        for other in free.values():
            os.close(other)
        return _FileLog(file)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: let the reader say so
        return False


LOCAL: Store = _LocalStore()

_mounts: dict[str, Store] = {}


def mount(root: PathLike, store: Store) -> None:
    """Mounts a store at ``root``."""
    _mounts[os.fspath(root)] = store


def unmount(root: PathLike) -> None:
    """Unmounts ``root``."""
    _mounts.pop(os.fspath(root), None)


def mounts() -> dict[str, Store]:
    """All mounts, for another process."""
    return dict(_mounts)


def mounted(path: PathLike) -> Store | None:
    """The store mounted at the longest root of a path, if any."""
    text = os.fspath(path)
    found = [root for root in _mounts if text == root or text.startswith(f"{root}/")]
    return _mounts[max(found, key=len)] if found else None


def store_of(path: PathLike) -> Store:
    """The store of a path."""
    return (mounted(path) or LOCAL) if _mounts else LOCAL


def shown(path: PathLike) -> str:
    """A path for a person: ``s3:/bucket/a.jpg`` as ``s3://bucket/a.jpg``, an address without what is secret in it."""
    text = os.fspath(path)
    if "://" in text:
        parts = split_address(text)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + "?…" * bool(parts.query)
    return text.replace(":/", "://", 1) if _mounts and _ADDRESS.match(text) and mounted(text) else text


def split_address(address: str) -> SplitResult:
    """The parts of an address; one in a bucket has no query and no fragment, since names there may hold ? and #."""
    scheme, _, rest = address.partition("://")
    if scheme.lower() not in _BUCKETS:
        return urlsplit(address)
    server, slash, path = rest.partition("/")
    return SplitResult(scheme, server, slash + path, "", "")


def without_secrets(text: str) -> str:
    """A text, such as a library's message, in which addresses are as :func:`shown` has them."""
    return _URL.sub(lambda found: shown(found[0]), text)


def fetched(path: PathLike) -> AbstractContextManager[Path]:
    """A file's content as a local file, while the body runs (see :class:`Store`)."""
    return store_of(path).fetched(os.fspath(path))


@contextmanager
def fetched_whole(path: PathLike) -> Iterator[Path]:
    """Same as :func:`fetched`; for a remote folder, the files in it, without subfolders."""
    store, place = store_of(path), os.fspath(path)
    if store is LOCAL or not store.is_folder(place):
        with store.fetched(place) as here:
            yield here
        return
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=spool()) as folder:

        def fetch(name: str) -> None:
            with store.fetched(f"{place}/{name}") as here:
                shutil.copyfile(here, os.path.join(folder, name))

        with ThreadPoolExecutor(max(1, store.parallel)) as pool:
            list(pool.map(fetch, store.listing(place).files))
        yield Path(folder)


@contextmanager
def spooled(path: PathLike) -> Iterator[Path]:
    """Path at which to prepare a file whose name matters: its own, or a local one that is uploaded afterwards."""
    store = store_of(path)
    if store is LOCAL:
        yield Path(path)
        return
    with store.temporary(os.fspath(path)) as here:
        here.unlink()
        yield here


def spool() -> Path:
    """The folder of this machine where files lie between a store and the work; what a killed process left goes."""
    global _swept
    folder = Path(tempfile.gettempdir()) / f"cgpipe-{os.getuid() if hasattr(os, 'getuid') else 'spool'}"
    if not _swept:
        folder.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError(errno.EACCES, f"{folder} belongs to somebody else")
        remove_stale(folder)
        for work in folder.glob(f"{_WORK}*"):
            with suppress(OSError):
                if time.time() - work.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(work)
        _swept = True
    return folder


_swept = False
_WORK = f"{PREFIX}work-"


def work_folder(path: PathLike) -> Path:
    """A local folder for data of a remote ``path``, the same in every run; removed after a day."""
    return spool() / f"{_WORK}{blake2b(os.fsencode(path), digest_size=8).hexdigest()}"


def scratch_folder(path: PathLike) -> Path:
    """A local folder for large temporary data while ``path`` is made: its own, if it is local."""
    folder = Path(path).parent
    if store_of(path) is not LOCAL:
        return Path(tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def put(temporary: PathLike, path: PathLike) -> None:
    """Moves a finished temporary into place (see :class:`Store`)."""
    store_of(path).put(temporary, os.fspath(path))


T = TypeVar("T")


def fetched_ahead(
    items: Iterable[T], path_of: Callable[[T], PathLike]
) -> Iterator[tuple[T, Callable[[], AbstractContextManager[Path]]]]:
    """Items, each with a function that returns its local file; remote files are fetched ahead."""
    under_way: deque[tuple[T, Future[tuple[ExitStack, Path]] | None]] = deque()
    pool: ThreadPoolExecutor | None = None
    try:
        for item in items:
            store = store_of(path_of(item))
            if store.parallel and pool is None:
                pool = ThreadPoolExecutor(store.parallel, thread_name_prefix="cgpipe-fetch")
            fetching = pool.submit(_fetch, store, os.fspath(path_of(item))) if pool and store.parallel else None
            under_way.append((item, fetching))
            while len(under_way) > store.parallel:
                yield _at_hand(*under_way.popleft(), path_of)
        while under_way:
            yield _at_hand(*under_way.popleft(), path_of)
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        for _, left in under_way:
            if left is not None and not left.cancelled() and left.exception() is None:
                left.result()[0].close()


def _fetch(store: Store, path: str) -> tuple[ExitStack, Path]:
    with ExitStack() as stack:
        here = stack.enter_context(store.fetched(path))
        return stack.pop_all(), here


def _at_hand(
    item: T, fetching: Future[tuple[ExitStack, Path]] | None, path_of: Callable[[T], PathLike]
) -> tuple[T, Callable[[], AbstractContextManager[Path]]]:
    @contextmanager
    def fetched() -> Iterator[Path]:
        assert fetching is not None
        stack, here = fetching.result()
        with stack:
            yield here

    path = path_of(item)
    return item, partial(store_of(path).fetched, os.fspath(path)) if fetching is None else fetched


# --- whole files only ----------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: PathLike, *, durable: bool = False, publish: Publish = put) -> Iterator[Path]:
    """Yields an empty temporary file beside ``path``, and renames it to ``path`` if the body succeeds.

    Parent folders are created. The temporary is hidden, has the same suffix, and is locked until then, so that
    :func:`remove_stale` removes it after a kill but not before, in any container and on any machine. If the body
    raises, nothing is left, and an older file at ``path`` is unchanged.

    Args:
        durable: sync to disk before renaming, for files that cannot be made again.
        publish: called instead of renaming.
    """
    store, target = store_of(path), Path(path)
    store.make_folder(os.fspath(path))
    with store.temporary(os.fspath(path)) as temporary:
        yield temporary
        if durable:
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        publish(temporary, target)


@contextmanager
def temporary_beside(path: PathLike) -> Iterator[Path]:
    """An empty temporary file in the folder of ``path``, locked while the body runs; removed if it still exists."""
    folder, name = os.path.split(path)
    suffix = os.path.splitext(name)[1]
    if len(os.fsencode(suffix)) > _LONGEST_SUFFIX:
        suffix = ""
    file: int | None = None
    while file is None:
        temporary = Path(folder, f"{PREFIX}{HOST}-{_writer}{secrets.token_hex(4)}{suffix}")
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
    """Removes the temporaries in ``folder`` that killed processes of this machine left; returns their number.

    A temporary whose lock is free has no writer, in any container. On a file system without locks, one that was not
    written to for a day counts as abandoned.
    """
    removed = 0
    if store_of(folder) is not LOCAL:  # what is written there has no temporaries
        return 0
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
    """Sets the mark of this process's temporaries.

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
    """Creates one of cgpipe's own files, open for appending and locked, so that no process takes it over.

    Raises:
        OSError: it already exists, or cannot be created.
    """
    while (file := _hold(path, os.O_CREAT | os.O_EXCL | os.O_APPEND)) is None:
        pass  # A sweep took it away before it was locked.
    return file


def take_over(path: Path) -> int | None:
    """Opens and locks an abandoned file of cgpipe's own; None if it may be in use, or is gone.

    Its name must contain :data:`HOST`: locks say nothing about processes of other machines.
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
