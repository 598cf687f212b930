"""Tar and zip files: names with ranges, members in their order, and new ones written member by member."""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import posixpath
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Protocol, Self

from cgpipe.errors import UsageError
from cgpipe.storage import PathLike, is_address

_RANGE = re.compile(r"\{(\d+)\.\.(\d*)\}")
_SCHEMES = ("zip://", "tar://")
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
_MOST_LINKS = 8
"""Links that lead to links, which may lead back."""
_EPOCH = 315532800
"""1980, from which on zip files know times: the same of every member, so that the same content has the same bytes."""


def expanded(name: PathLike, count: int | None = None) -> list[str]:
    """The names of a range: ``a-{000..002}.tar`` stands for three, zeros and all; other names stand for themselves.

    Args:
        count: how many names an open range, such as ``{000..}``, has; None: it must have an end.

    Raises:
        UsageError: a range has no end and needs one, or ends before it begins.
    """
    text = os.fspath(name)
    found = _RANGE.search(text)
    if not found or (not is_address(text) and os.path.lexists(text)):
        return [text]
    first, width = int(found[1]), len(found[1])
    if not found[2] and count is None:
        raise UsageError(f"The range {found[0]} has no end: write the last number, too, as in {{000000..000009}}.")
    last = int(found[2]) if found[2] else first + (count or 0) - 1
    if last < first and found[2]:
        raise UsageError(f"The range {found[0]} ends before it begins.")
    numbers = range(first, last + 1)
    return [f"{text[: found.start()]}{number:0{width}}{text[found.end() :]}" for number in numbers]


def is_open(name: PathLike) -> bool:
    """Whether a name has a range without an end."""
    found = _RANGE.search(os.fspath(name))
    return bool(found and not found[2])


def without_scheme(name: PathLike) -> str:
    """``zip://out.zip`` and ``zip://::s3://bucket/out.zip`` as the name of the archive itself."""
    text = os.fspath(name)
    scheme = next((scheme for scheme in _SCHEMES if text.startswith(scheme)), None)
    if scheme is None:
        return text
    inner, _, outer = text.removeprefix(scheme).partition("::")
    if outer and inner:
        raise UsageError(f"{text} names a folder in an archive, which is written as a whole: name the archive alone.")
    return outer or inner


class Members(Protocol):
    """The files in an archive.

    Attributes:
        all: their names, in their order.
    """

    @property
    def all(self) -> Collection[str]: ...

    def open(self, name: str) -> IO[bytes]:
        """The content of one."""

    def version(self, name: str) -> tuple[int, str]:
        """Size of one in bytes, and what tells its content from another."""


def _place(name: str) -> str:
    """A member's path in the archive; one that is named from the root, or from above, lies in it all the same."""
    return posixpath.normpath(f"/{name}").lstrip("/")


class _Header(tarfile.TarInfo):
    """A header that raises if it is damaged; tarfile takes it for the end of the archive, unless it is the first."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not buf.strip(b"\0"):  # the end: zeros, or nothing
                raise
            raise tarfile.ReadError(f"a header: {error}") from error


class _Tar:
    def __init__(self, file: tarfile.TarFile) -> None:
        self._file = file
        every = {_place(member.name): member for member in file.getmembers()}
        contents = {place: _followed(place, every) for place in every}
        self._members = {place: content for place, content in contents.items() if content is not None}

    @property
    def all(self) -> Collection[str]:
        return self._members.keys()

    def open(self, name: str) -> IO[bytes]:
        content = self._file.extractfile(self._members[name])
        assert content is not None
        return content

    def version(self, name: str) -> tuple[int, str]:
        member = self._members[name]
        return member.size, f"{member.offset_data} {member.mtime}"


def _followed(place: str, members: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The file that a name in a tar stands for; links are named from the root, or from where they are."""
    for _ in range(_MOST_LINKS):
        member = members.get(place)
        if member is None or not (member.islnk() or member.issym()):
            return member if member is not None and member.isfile() else None
        place = _place(posixpath.join(posixpath.dirname(place) if member.issym() else "", member.linkname))
    return None


class _Zip:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        self._members = {_place(one.filename): one for one in file.infolist() if not one.is_dir()}

    @property
    def all(self) -> Collection[str]:
        return self._members.keys()

    def open(self, name: str) -> IO[bytes]:
        return self._file.open(self._members[name])

    def version(self, name: str) -> tuple[int, str]:
        member = self._members[name]
        return member.file_size, f"{member.CRC:08x}"


@contextmanager
def members_of(path: Path) -> Iterator[Members]:
    """The files in an archive of this machine.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with ExitStack() as stack:
            yield _opened(path, stack)
    except _DAMAGE as error:
        raise OSError(f"it is damaged ({error})") from error


def _opened(path: Path, stack: ExitStack) -> Members:
    try:
        return _Tar(stack.enter_context(tarfile.open(path, tarinfo=_Header)))
    except tarfile.ReadError:
        # Only now: a tar whose last member is a zip looks like one.
        if not zipfile.is_zipfile(path):
            raise
    return _Zip(stack.enter_context(zipfile.ZipFile(path)))


@contextmanager
def reading_member() -> Iterator[None]:
    """Turns what a damaged, encrypted or unusually packed member raises into OSError."""
    try:
        yield
    except (*_DAMAGE, NotImplementedError, RuntimeError) as error:
        raise OSError(errno.EIO, f"it is damaged, encrypted, or packed in an unknown way ({error})") from error


class Writer:
    """Writes a new archive; a context manager.

    Args:
        path: the file to write.
        name: by whose ending the kind is chosen: zip, tar, tar.gz or tgz.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._zip: zipfile.ZipFile | None = None
        self._tar: tarfile.TarFile | None = None
        with ExitStack() as stack:
            if name.lower().endswith(".zip"):
                self._zip = stack.enter_context(zipfile.ZipFile(path, "w"))
            else:
                file = stack.enter_context(path.open("wb"))
                packs = name.lower().endswith("z")
                packed = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0)) if packs else file
                self._tar = stack.enter_context(tarfile.TarFile(fileobj=packed, mode="w"))
            self._stack = stack.pop_all()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def add(self, name: str, content: IO[bytes], size: int) -> None:
        """Adds a member of ``size`` bytes."""
        if self._zip is not None:
            member = zipfile.ZipInfo(name)
            member.external_attr = 0o644 << 16
            with self._zip.open(member, "w", force_zip64=size >= 1 << 31) as file:
                shutil.copyfileobj(content, file)
        elif self._tar is not None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = size, _EPOCH
            self._tar.addfile(entry, content)
