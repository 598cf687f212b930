"""Files behind addresses: object stores, listings of web servers, archives. All by fsspec, an extra.

An address is parsed once, where it comes in. What is secret in it, a user's name and a password or the signature of a
query, stays in the store that :func:`located` makes; from then on the place is a plain path that any message may show,
such as ``s3:/bucket/a.jpg``. Files are fetched whole into a folder of temporaries, and put whole: an object is there
when its last part is.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import os
import random
import secrets
import shutil
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import IO, Literal, ParamSpec, Protocol, TypedDict, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from cgpipe.archives import Members, members_of, reading_member
from cgpipe.errors import CgpipeError, MissingDependencyError, UsageError, reason_of
from cgpipe.storage import (
    HOST,
    LOCAL,
    Listing,
    Log,
    PathLike,
    Stamp,
    Store,
    is_address,
    mount,
    mounted,
    require_local,
    shown,
    split_address,
    spool,
    store_of,
    temporary_beside,
    unmount,
    without_secrets,
)

P = ParamSpec("P")
T = TypeVar("T")

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts"),
    *(".m2ts", ".mpg", ".mpeg", ".vob", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".dv", ".gif"),
)
"""Files that are taken for videos when a folder is named."""

Settings = Mapping[str, object]
"""Options of a file system; each kind has its own names."""

TRIES = 6
"""Tries of an operation when a server or the network fails."""

FIRST_WAIT = 0.2
"""Seconds before the first retry; doubled for each further one, with random jitter."""

TRANSFERS = 16
"""Parallel transfers: each mostly waits."""

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
"""Files that are read as folders."""

_MERGED = 32
"""Pieces of a journal that become one."""
_LEVELS = 2
_OPEN_FOLDERS = 16
_WHOLE = 1 << 26
"""Bytes up to which a file is fetched in one piece."""
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_LONGEST_REASON = 200
_SEPARATORS = frozenset("/\\\0")


def located(path: PathLike, *, opens: bool = True) -> Path:
    """The path by which a file or folder goes from here on: of an address, one without its secrets.

    Args:
        opens: an archive is a folder from here on; else it is a file, which is read or written as a whole.

    Raises:
        UsageError: there is no such kind of address.
        MissingDependencyError: what reads it is not installed.
    """
    text = os.fspath(path)
    place = _of_address(text) if is_address(text) and mounted(text) is None else Path(text)
    if isinstance(known := mounted(place), ArchiveStore):
        if not opens and known.root == os.fspath(place):
            unmount(place)
    elif opens and is_archive(place) and store_of(place).is_file(os.fspath(place)):
        mount(place, ArchiveStore(os.fspath(place)))
    return place


def located_output(path: PathLike) -> Path:
    """As :func:`located`, for what is to be written.

    Raises:
        UsageError: nothing can be written there.
    """
    return _writable(path, opens=True)


def _writable(path: PathLike, *, opens: bool) -> Path:
    text = os.fspath(path)
    if is_address(text) and _scheme(text) in _STREAMS:
        require_local(text)
    if is_address(text) and _scheme(text) in _WEB:
        raise UsageError(f"{shown(text)} cannot be written: a web server takes no files. Use a folder, or s3://.")
    return located(path, opens=opens)


def located_archive(path: PathLike) -> Path:
    """As :func:`located_output`, of an archive that is written whole: it is a file from here on, and no folder."""
    return _writable(path, opens=False)


def located_video(name: str) -> str:
    """As :func:`located`, of a video; the address of a stream stays as it is, and so does what is only a name.

    Of a web server's addresses, those are files that end as videos do and whose length the server tells, or that end
    in a slash: the links of a page. Without the extra they are read as streams.
    """
    if not is_address(name):
        return os.fspath(located(name))
    scheme = _scheme(name)
    if scheme in _STREAMS:
        return name
    try:
        place = os.fspath(located(name))
        return place if scheme not in _WEB or name.endswith("/") or _is_whole_video(name, place) else name
    except MissingDependencyError:
        if scheme in _WEB:
            return name
        raise


_WEB = frozenset(("http", "https"))
_STREAMS = frozenset(("camera", "file", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp", "mms", "mmsh"))


def _scheme(address: str) -> str:
    return address.partition(":")[0].lower()


def _is_whole_video(name: str, place: str) -> bool:
    if os.path.splitext(urlsplit(name).path)[1].lower() not in VIDEO_SUFFIXES:
        return False
    store_of(place).forget(os.path.dirname(place))  # a page that lists files does not say how long they are
    with suppress(OSError):
        return store_of(place).stamp(place).size > 0
    return False


@contextmanager
def released(place: Path) -> Iterator[Path]:
    """Lets an archive go after the body, with the copy of it that lies on this machine, where it was fetched."""
    try:
        yield place
    finally:
        store = mounted(place)
        if isinstance(store, ArchiveStore):
            unmount(place)
            store.close()


def is_archive(path: PathLike) -> bool:
    """Whether a path is an archive, which is read as a folder."""
    return os.fspath(path).lower().endswith(ARCHIVES)


def _of_address(text: str) -> Path:
    inner, _, outer = text.partition("::")
    scheme, _, rest = inner.partition(":")
    if scheme in ("zip", "tar"):  # zip://inside::s3://bucket/a.zip, or zip://a.zip
        rest = rest.removeprefix("//")
        archive = located(outer or rest)
        return archive / rest if outer else archive
    parts = split_address(f"{scheme}://{rest.lstrip('/')}")
    root, options = _root(parts)
    plain = f"{scheme}:/{_server(parts)}{parts.path}".rstrip("/")
    store = mounted(root)
    if not isinstance(store, RemoteStore):
        store = RemoteStore(root, scheme, options)
        mount(root, store)
    if parts.query:
        store.queries[plain] = parts.query
    if parts.path.endswith("/"):
        store.folders.add(plain)
    return Path(plain)


def _root(parts: SplitResult) -> tuple[str, Settings]:
    """The root path of a store, and the options of its file system, including secrets."""
    root = f"{parts.scheme}:/{_server(parts)}"
    if parts.scheme not in ("http", "https", "s3"):
        return root, _told_by(parts)
    if parts.username is None:
        return root, {}
    user, password = unquote(parts.username), unquote(parts.password or "")
    if parts.scheme in ("http", "https"):
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        return root, {"client_kwargs": {"headers": {"Authorization": f"Basic {pair}"}}}
    return root, {"key": user, "secret": password}


def _server(parts: SplitResult) -> str:
    """Server or bucket, without who asks; what stands before the @ of ``abfs://container@account`` is a place."""
    return parts.netloc if parts.scheme in ("abfs", "abfss", "az") else parts.netloc.rpartition("@")[2]


def _told_by(parts: SplitResult) -> Settings:
    """What a file system of another kind reads from an address: host, port, user and so on."""
    with suppress(ImportError, ValueError):  # which is said when it is opened
        kind = import_module("fsspec").get_filesystem_class(parts.scheme)
        told: Settings = kind._get_kwargs_from_urls(parts.geturl())
        return told
    return {}


def clean(text: str) -> str:
    """A library's message without secrets of addresses, truncated."""
    return without_secrets(text.strip().splitlines()[0] if text.strip() else "")[:_LONGEST_REASON]


class _Entry(TypedDict):
    """What a file system says of a file or folder, and each kind in its own words which version of a content it is."""

    name: str
    type: str
    size: int | None


class _System(Protocol):
    """The part of an fsspec file system that is used."""

    def info(self, path: str, /) -> _Entry: ...
    def ls(self, path: str, /, detail: Literal[True], *, refresh: bool) -> list[_Entry]: ...
    def cat_file(self, path: str, /) -> bytes: ...
    def pipe_file(self, path: str, value: bytes, /) -> object: ...
    def get_file(self, path: str, local: str, /) -> object: ...
    def put_file(self, local: str, path: str, /, *, mode: str) -> object: ...
    def rm_file(self, path: str, /) -> object: ...
    def makedirs(self, path: str, /, *, exist_ok: bool) -> object: ...
    def _strip_protocol(self, path: str, /) -> str: ...


@dataclass
class _Folder:
    """What a listing said of a folder, kept up to date with what is put there from here."""

    stamps: dict[str, Stamp] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)


class RemoteStore:
    """A file system of fsspec as a store (see :class:`cgpipe.storage.Store`); safe for threads, and after a fork.

    Args:
        root: the path of the whole store, such as ``s3:/bucket``.
        protocol: fsspec's name of it.
        options: options of its file system.

    Attributes:
        queries: of paths that were named with a signature.
        quoted: of paths that a web server's page writes with percent-codes: as it writes them.
        folders: paths that were named as folders, with a slash at their end: a web server does not tell.
    """

    parallel = TRANSFERS

    def __init__(self, root: str, protocol: str, options: Settings) -> None:
        self.root = root
        self.queries: dict[str, str] = {}
        self.quoted: dict[str, str] = {}
        self.folders: set[str] = set()
        self._protocol = protocol
        self._options = dict(options)
        self._systems: dict[int, _System] = {}
        self._folders: OrderedDict[str, _Folder] = OrderedDict()
        self._lock = threading.RLock()
        self._system()  # now, so that what is missing is said before any work
        spool()

    def __getstate__(self) -> dict[str, object]:
        kept = ("root", "queries", "quoted", "folders", "_protocol", "_options")
        return {name: value for name, value in vars(self).items() if name in kept}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _systems={}, _folders=OrderedDict(), _lock=threading.RLock())

    # --- what a store does -----------------------------------------------------------------------------------------

    def listing(self, folder: str) -> Listing:
        there = self._listed(folder, afresh=True)
        return Listing(sorted(there.stamps), sorted(there.folders))

    def names(self, folder: str, prefix: str) -> list[str]:
        return sorted(name for name in self._listed(folder, afresh=True).stamps if name.startswith(prefix))

    def stamp(self, path: str) -> Stamp:
        folder, name = os.path.split(path)
        with self._lock:
            known = self._folders.get(folder)
        if known is None:
            return _stamp(self._tried(self._system().info, self._key(path)))
        if name not in known.stamps:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return known.stamps[name]

    def future_stamp(self, temporary: PathLike) -> Stamp:
        """As object stores have it whose ETag is the MD5 of what is put in one piece."""
        with open(temporary, "rb") as file:
            sum = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
        return Stamp(os.stat(temporary).st_size, _number(sum))

    def exists(self, path: str) -> bool:
        with suppress(FileNotFoundError, PermissionError), _reached(path):
            self.stamp(path)
            return True
        return False

    def is_file(self, path: str) -> bool:
        folder, name = os.path.split(path)
        with self._lock:
            known = self._folders.get(folder)
        if known is not None:
            return name in known.stamps
        with suppress(FileNotFoundError, PermissionError), _reached(path):
            return self._tried(self._system().info, self._key(path))["type"] == "file"
        return False

    def is_folder(self, path: str) -> bool:
        if path == self.root or path in self.folders:
            return True
        with suppress(FileNotFoundError, PermissionError), _reached(path):
            return bool(self._tried(self._system().info, self._key(path))["type"] == "directory")
        return False

    def real(self, path: str) -> str:
        return path

    @contextmanager
    def fetched(self, path: str) -> Iterator[Path]:
        with self.temporary(path) as copy:
            self._tried(self._fetch, path, copy)
            yield copy

    def _fetch(self, path: str, copy: Path) -> None:
        try:
            there = self.stamp(path)
        except KeyError:
            there = Stamp(0, 0)
        if there.size > _WHOLE:
            self._system().get_file(self._key(path), str(copy))
        else:  # in one piece: what broke off is never patched together
            copy.write_bytes(self._system().cat_file(self._key(path)))
        if there.size and there.size != copy.stat().st_size:
            raise ConnectionError(errno.EIO, "what came is not what the server has")

    @contextmanager
    def temporary(self, path: str) -> Iterator[Path]:
        with temporary_beside(spool() / PurePosixPath(path).name) as here:
            yield here

    def put(self, temporary: PathLike, path: str, *, new: bool = False) -> None:
        self._tried(self._put, os.fspath(temporary), path, "create" if new else "overwrite")
        stamp = _stamp(self._tried(self._system().info, self._key(path)))
        if stamp.size != os.stat(temporary).st_size:
            raise OSError(errno.EIO, "the server stored something else than was uploaded")
        with self._lock:
            folder, name = os.path.split(path)
            if folder in self._folders:
                self._folders[folder].stamps[name] = stamp

    def remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._tried(self._system().rm_file, self._key(path))
        with self._lock:
            folder, name = os.path.split(path)
            if folder in self._folders:
                self._folders[folder].stamps.pop(name, None)

    def make_folder(self, path: str) -> None:
        with suppress(FileExistsError, NotImplementedError, PermissionError):
            self._system().makedirs(self._key(os.path.dirname(path)), exist_ok=True)

    def forget(self, folder: str) -> None:
        with self._lock:
            self._folders.pop(folder, None)

    def open(self, path: str) -> IO[bytes]:
        return io.BytesIO(self._tried(self._system().cat_file, self._key(path)))

    def open_log(self, folder: str, name: str, compacted: Callable[[], Iterable[bytes]] | None) -> Log:
        # There are no locks, so no journal can be known to be abandoned, and none is replaced.
        return _ObjectLog(self, f"{folder}/{name}{HOST}-{secrets.token_hex(4)}")

    def write(self, path: str, content: bytes) -> None:
        """Uploads a small file."""
        self._tried(self._system().pipe_file, self._key(path), content)

    # --- fsspec ----------------------------------------------------------------------------------------------------

    def _put(self, temporary: str, path: str, mode: str) -> None:
        try:
            self._system().put_file(temporary, self._key(path), mode=mode)
        except FileExistsError:
            raise
        except Exception as error:
            if "PreconditionFailed" in str(error) or "412" in str(getattr(error, "code", "")):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
            raise

    def _listed(self, folder: str, *, afresh: bool = False) -> _Folder:
        with self._lock:
            known = self._folders.get(folder)
        if known is not None and not afresh:
            return known
        known = _Folder()
        with suppress(FileNotFoundError), _reached(folder):
            for entry in self._tried(self._system().ls, self._folder_key(folder), detail=True, refresh=True):
                self._note(known, folder, entry)
        with self._lock:
            self._folders[folder] = known
            while len(self._folders) > _OPEN_FOLDERS:
                self._folders.popitem(last=False)
        return known

    def _note(self, known: _Folder, folder: str, entry: _Entry) -> None:
        """Takes an entry of a folder's listing; of a web server's it is an address, which may be signed."""
        address = urlsplit(entry["name"]) if "://" in entry["name"] else None
        place = address.path if address else entry["name"]
        name = place.rstrip("/").rpartition("/")[2]
        if not name or place.rstrip("/") == self._place(folder):
            return
        if address and not _SEPARATORS.intersection(plain := unquote(name)):
            if plain != name or folder in self.quoted:
                self.quoted[f"{folder}/{plain}"] = place
            name = plain
        if entry["type"] == "directory" or place.endswith("/"):
            known.folders.add(name)
            self.folders.add(f"{folder}/{name}")
        else:
            known.stamps[name] = _stamp(entry)
            if address and address.query:
                self.queries[f"{folder}/{name}"] = address.query

    def _place(self, folder: str) -> str:
        key = self._key(folder)
        return (urlsplit(key).path if "://" in key else key).rstrip("/")

    def _folder_key(self, folder: str) -> str:
        """The key of a folder to be listed; links on a web server's page are relative to its slash."""
        return self._key(folder) + "/" * (self._protocol in ("http", "https"))

    def _key(self, path: str) -> str:
        """fsspec's name of a path."""
        scheme, _, rest = path.partition(":/")
        if path in self.quoted:
            rest = rest.partition("/")[0] + self.quoted[path].rstrip("/")
        query = self.queries.get(path)
        url = f"{scheme}://{rest}" + (f"?{query}" if query else "")
        return str(self._system()._strip_protocol(url))

    def _system(self) -> _System:
        """The file system; one of its own for each process, since connections do not survive a fork."""
        process = os.getpid()
        if process not in self._systems:
            self._systems[process] = _system(self._protocol, self._options)
        return self._systems[process]

    def _tried(self, do: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """What ``do`` gives, after as many tries as it takes, up to a limit.

        Raises:
            OSError: it failed, in words without secrets.
        """
        for number in range(TRIES):
            try:
                return do(*args, **options)
            except _FINAL as error:
                raise type(error)(error.errno or errno.EIO, clean(error.strerror or _plain(error))) from None
            except Exception as error:
                if number == TRIES - 1:
                    raise OSError(errno.EIO, clean(f"{error}") or type(error).__name__) from None
            time.sleep(FIRST_WAIT * 2**number * random.uniform(0.5, 1.5))
        raise AssertionError


def _plain(error: OSError) -> str:
    return os.strerror(errno.ENOENT) if isinstance(error, FileNotFoundError) else str(error)


class UnreachableError(CgpipeError, OSError):
    """A server cannot be reached."""


@contextmanager
def _reached(path: str) -> Iterator[None]:
    """Says of a server that fails which one it is; that nothing is there, or may not be seen, passes."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        raise UnreachableError(f"{shown(path)} cannot be reached: {reason_of(error)}.") from error


class ArchiveStore:
    """A zip or tar, of this machine or behind an address, read as a folder (see :class:`cgpipe.storage.Store`).

    One behind an address is fetched once, whole: its members would else be looked for across the network. Safe for
    threads, and after a fork.

    Raises:
        UsageError: it cannot be read.
    """

    parallel = 0

    def __init__(self, root: str) -> None:
        self.root = root
        self._copy: Path | None = None
        self._end: Callable[[], object] | None = None
        self._lock = threading.RLock()  # members are read through one file
        self._opened: dict[int, tuple[ExitStack, Members]] = {}
        try:
            self._members()
        except OSError as error:
            raise UsageError(f"{shown(root)} cannot be read as an archive: {reason_of(error)}.") from error

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "_copy": self._copy}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _end=None, _lock=threading.RLock(), _opened={})
        if self._copy is not None and not self._copy.exists():  # another machine fetches its own
            self._copy = None

    def close(self) -> None:
        """Removes the copy that lies on this machine."""
        for stack, _ in self._opened.values():
            stack.close()
        self._opened.clear()
        if self._end is not None:
            self._end()

    def listing(self, folder: str) -> Listing:
        return self._folders.get(self._key(folder), Listing([], []))

    def names(self, folder: str, prefix: str) -> list[str]:
        return [name for name in self.listing(folder).files if name.startswith(prefix)]

    def stamp(self, path: str) -> Stamp:
        if path == self.root:
            return self._outer().stamp(path)
        with self._found(path) as (members, name):
            size, version = members.version(name)
            return Stamp(size, _number(version))

    def future_stamp(self, temporary: PathLike) -> Stamp:
        return LOCAL.stamp(os.fspath(temporary))

    def exists(self, path: str) -> bool:
        return self.is_file(path) or self.is_folder(path)

    def is_file(self, path: str) -> bool:
        with self._lock:
            return self._key(path) in self._members().all

    def is_folder(self, path: str) -> bool:
        return path == self.root or self._key(path) in self._folders

    def real(self, path: str) -> str:
        return path

    @contextmanager
    def fetched(self, path: str) -> Iterator[Path]:
        if path == self.root:
            yield self._here()
            return
        with self.temporary(path) as copy:
            with (
                self._found(path) as (members, name),
                reading_member(),
                members.open(name) as content,
                copy.open("wb") as file,
            ):
                shutil.copyfileobj(content, file)
            yield copy

    @contextmanager
    def temporary(self, path: str) -> Iterator[Path]:
        with temporary_beside(spool() / PurePosixPath(path).name) as here:
            yield here

    def open(self, path: str) -> IO[bytes]:
        with self._found(path) as (members, name), reading_member(), members.open(name) as content:
            return io.BytesIO(content.read())

    def forget(self, folder: str) -> None:
        """An archive does not change while it is read."""

    def put(self, temporary: PathLike, path: str, *, new: bool = False) -> None:
        raise self._read_only(path)

    def remove(self, path: str) -> None:
        raise self._read_only(path)

    def make_folder(self, path: str) -> None:
        raise self._read_only(path)

    def open_log(self, folder: str, name: str, compacted: Callable[[], Iterable[bytes]] | None) -> Log:
        raise self._read_only(folder)

    def _read_only(self, path: str) -> OSError:
        return OSError(errno.EROFS, "nothing is put into an archive that is there", path)

    def _key(self, path: str) -> str:
        return path[len(self.root) :].strip("/")

    @cached_property
    def _folders(self) -> dict[str, Listing]:
        """The listing of every folder, by its key."""
        with self._lock:
            names = sorted(self._members().all)
        found: dict[str, tuple[list[str], dict[str, None]]] = {}
        for name in names:
            folder, base = os.path.split(name)
            known = folder in found
            found.setdefault(folder, ([], {}))[0].append(base)
            while folder and not known:
                folder, base = os.path.split(folder)
                known = folder in found
                found.setdefault(folder, ([], {}))[1][base] = None
        return {folder: Listing(files, sorted(folders)) for folder, (files, folders) in found.items()}

    @contextmanager
    def _found(self, path: str) -> Iterator[tuple[Members, str]]:
        with self._lock:
            members, name = self._members(), self._key(path)
            if name not in members.all:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            yield members, name

    def _members(self) -> Members:
        with self._lock:
            process = os.getpid()
            if process not in self._opened:
                stack = ExitStack()
                self._opened[process] = stack, stack.enter_context(members_of(self._here()))
                weakref.finalize(self, stack.close)  # before the interpreter takes zipfile apart
            return self._opened[process][1]

    def _outer(self) -> Store:
        """Where the archive itself lies."""
        return store_of(os.path.dirname(self.root)) if "/" in self.root else LOCAL

    def _here(self) -> Path:
        """The archive as a file of this machine."""
        outer = self._outer()
        if outer is LOCAL:
            return Path(self.root)
        if self._copy is None:
            kept = outer.fetched(self.root)
            self._copy = kept.__enter__()
            self._end = weakref.finalize(self, kept.__exit__, None, None, None)
        return self._copy


class _ObjectLog:
    """A journal of objects: every flush makes a small one of all lines that wait, and many small ones become one.

    Threads that flush at the same time share an object, so that a journal costs a request for many outputs.
    """

    def __init__(self, store: RemoteStore, name: str) -> None:
        self._store = store
        self._name = name
        self._waiting: list[bytes] = []
        self._added = self._kept = 0
        self._pieces: list[list[tuple[str, bytes]]] = [[]]  # by how often they were merged
        self._serial = 0
        self._lock = threading.Lock()  # of the lines
        self._flushing = threading.Lock()

    def write(self, line: bytes) -> None:
        with self._lock:
            self._waiting.append(line)
            self._added += 1

    def flush(self) -> None:
        with self._lock:
            wanted = self._added
        with self._flushing:
            if self._kept >= wanted:
                return  # another thread has taken these along
            with self._lock:
                lines, upto = self._waiting, self._added
                self._waiting = []
            try:
                self._add(0, b"".join(lines))
            except BaseException:
                with self._lock:
                    self._waiting[:0] = lines
                raise
            self._kept = upto

    def close(self) -> None:
        if self._waiting:
            self.flush()
        with suppress(OSError):  # nothing is lost with it
            every = [piece for level in self._pieces for piece in level]
            if len(every) > 1:
                self._pieces = [[]]
                self._merge(0, every)

    def _add(self, level: int, content: bytes) -> None:
        self._serial += 1
        path = f"{self._name}-{self._serial:06d}"
        self._store.write(path, content)
        if level == len(self._pieces):
            self._pieces.append([])
        self._pieces[level].append((path, content))
        if len(self._pieces[level]) == _MERGED and level < _LEVELS:
            pieces, self._pieces[level] = self._pieces[level], []
            with suppress(OSError):
                self._merge(level + 1, pieces)

    def _merge(self, level: int, pieces: list[tuple[str, bytes]]) -> None:
        """Many pieces as one; they go when it is there."""
        self._add(level, b"".join(content for _, content in pieces))
        for path, _ in pieces:
            self._store.remove(path)


_VERSIONS = ("ETag", "etag", "md5Hash", "CRC", "date_time", "mtime", "LastModified", "updated")
"""What file systems call that which tells a content from another, the surest first."""


def _stamp(entry: _Entry) -> Stamp:
    """The stamp of an entry of a listing."""
    told = [entry.get(name) for name in _VERSIONS]
    first = next((value for value in told if value not in (None, "")), "")
    return Stamp(int(entry.get("size") or 0), _number(str(first).strip('"')))


def _number(version: str) -> int:
    """A number derived from a version tag."""
    return int.from_bytes(hashlib.blake2b(version.encode(), digest_size=7).digest())


def _system(protocol: str, options: Settings) -> _System:
    """A file system of fsspec.

    Raises:
        MissingDependencyError: fsspec, or what the protocol needs, is not installed.
        UsageError: there is no such protocol.
    """
    try:
        fsspec = import_module("fsspec")
        system: _System = fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **options)
        return system
    except ImportError as error:
        more = f" with what {protocol}:// needs ({error})" if protocol not in ("s3", "http", "https") else ""
        raise MissingDependencyError(f"{protocol}:// needs an extra: pip install 'cgpipe[remote]'{more}") from error
    except ValueError as error:
        raise UsageError(f"There is no kind of address {protocol}://: use s3, gs, https, zip or tar.") from error
