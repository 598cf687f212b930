"""The datasets of the reference projects by name: downloaded, checked and unpacked, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import stat
import struct
import time
import urllib.error
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, cast

from cgpipe.data.pictures import find_pictures
from cgpipe.errors import DataError, UsageError
from cgpipe.storage import PREFIX, partial_of, shown
from cgpipe.web import PATIENCE, RedirectError, Response, TooSlowError, check_address, opened, reason_of

SERVER = "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets"
"""Where the authors of CycleGAN (arXiv 1703.10593) keep theirs."""

TRIES = 5
"""Retries in a row without progress before the command gives up."""
MOST_TRIES = 1000
"""Retries in total, so that a server that sends a byte each time cannot keep it busy forever."""
MAX_SIZE = 20_000_000_000
"""Largest archive in bytes; the largest known one has a tenth of it."""
CHUNK = 1 << 20

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes received, and the total, or None if the server does not state it."""


@dataclass(frozen=True, kw_only=True)
class KnownDataset:
    """A dataset that can be downloaded by name.

    Args:
        domains: the domains of trainA and trainB.
        digest: checksum of the unpacked files, by :func:`digest_of`; None if unknown.
    """

    domains: tuple[str, str]
    digest: str | None = None


DATASETS: Mapping[str, KnownDataset] = MappingProxyType(
    {
        "horse2zebra": KnownDataset(
            domains=("horse", "zebra"), digest="fb1d1fb79192dfee03e9a251d2e64dbfb4039fda7204196f9c16784a9e153408"
        ),
        "summer2winter_yosemite": KnownDataset(domains=("summer", "winter")),
        "apple2orange": KnownDataset(domains=("apple", "orange")),
        "monet2photo": KnownDataset(domains=("monet", "photo")),
        "cezanne2photo": KnownDataset(domains=("cezanne", "photo")),
        "ukiyoe2photo": KnownDataset(domains=("ukiyoe", "photo")),
        "vangogh2photo": KnownDataset(domains=("vangogh", "photo")),
        "maps": KnownDataset(domains=("aerial", "map")),
        "facades": KnownDataset(domains=("facade", "labels")),
        "iphone2dslr_flower": KnownDataset(domains=("iphone", "dslr")),
        "ae_photos": KnownDataset(domains=("photo", "ae_photo")),
    }
)


@dataclass(frozen=True, kw_only=True)
class FetchReport:
    """The result of :func:`fetch`.

    Args:
        folder: the dataset.
        domains: its domains; None for an archive from ``url``.
        digest: checksum of the unpacked files.
        verified: whether the checksum of the files or of the archive was verified; False if none is known.
        downloaded: False if the dataset already existed.
    """

    folder: Path
    domains: tuple[str, str] | None
    digest: str
    verified: bool
    downloaded: bool


def fetch(
    name: str,
    folder: Path = Path("datasets"),
    *,
    url: str | None = None,
    sha256: str | None = None,
    max_size: int = MAX_SIZE,
    on_bytes: OnBytes | None = None,
) -> FetchReport:
    """Downloads a dataset and unpacks it into ``folder / name``.

    An interrupted download resumes, in this call and in the next.

    Args:
        name: one of :data:`DATASETS`; with ``url``, any name for the folder.
        folder: parent folder of all datasets.
        url: address of a zip archive, instead of the authors' server.
        sha256: expected SHA-256 of the archive, in hexadecimal digits.
        max_size: most bytes of the archive.
        on_bytes: called with the progress.

    Raises:
        UsageError: the name is unknown, or the address is not http or https.
        DataError: the server does not answer, does not have it or sends something else, or the archive is damaged or
            hostile. A partial download is kept if it can be resumed, and nothing was unpacked.
    """
    known = DATASETS.get(name)
    if known is None and url is None:
        raise UsageError(f"No dataset is called {name!r}. Known: {', '.join(DATASETS)}. Or name an archive with --url.")
    if PurePosixPath(name).name != name or name in ("", ".", ".."):
        raise UsageError(f"{name!r} is not a valid folder name.")
    wanted = known.digest if known and url is None else None
    target = folder / name
    downloaded = not target.exists()
    verified = False
    if downloaded:
        archive = partial_of(folder / f"{name}.zip")
        download(url or f"{SERVER}/{name}.zip", archive, on_bytes=on_bytes, max_size=max_size)
        if sha256:
            _check_archive(archive, sha256)
            verified = True
        unpack(archive, target, digest=wanted)
        archive.unlink()
    digest = digest_of(target)
    return FetchReport(
        folder=target,
        domains=known.domains if known else None,
        digest=digest,
        verified=verified or digest == wanted,
        downloaded=downloaded,
    )


# -- downloading -----------------------------------------------------------------------------------------------------


def download(
    url: str,
    path: Path,
    *,
    on_bytes: OnBytes | None = None,
    max_size: int = MAX_SIZE,
    tries: int = TRIES,
    pause: float = 1.0,
    patience: float = PATIENCE,
) -> None:
    """Downloads ``url`` to ``path``, resuming a partial file.

    Args:
        max_size: most bytes of the file.
        tries: retries in a row without progress.
        pause: seconds before the first retry; doubled for each further one.
        patience: seconds after which a slow connection is closed.

    Raises:
        UsageError: the address is not http or https.
        DataError: see :func:`fetch`.
    """
    check_address(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    fruitless = 0
    for _ in range(MOST_TRIES):
        before = path.stat().st_size if path.exists() else 0
        try:
            _download_rest(url, path, on_bytes, max_size, patience)
            return
        except (OSError, http.client.HTTPException) as error:
            problem = reason_of(error)
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or isinstance(error, RedirectError):
                raise DataError(f"{shown(url)}: {problem}.") from error
            progressed = path.exists() and path.stat().st_size > before and not isinstance(error, TooSlowError)
        fruitless = 0 if progressed else fruitless + 1
        if fruitless >= tries:
            break
        time.sleep(pause * 2 ** max(0, fruitless - 1))
    kept = f" {path} is kept: the same command resumes there." if path.exists() else ""
    raise DataError(f"{shown(url)} cannot be downloaded: {problem}. Try again later, or use --url.{kept}")


def _download_rest(url: str, path: Path, on_bytes: OnBytes | None, max_size: int, patience: float) -> None:
    tag = _tag_of(path)
    there = path.stat().st_size if path.exists() else 0
    headers = {}
    if there:
        headers["Range"] = f"bytes={there}-"
        # Where the file has changed meanwhile, the server sends the new one from its beginning.
        if tag.exists() and (known := tag.read_text(encoding="utf-8")):
            headers["If-Range"] = known
    try:
        with opened(url, headers, patience=patience) as answer:
            goes_on = answer.status == http.client.PARTIAL_CONTENT
            if goes_on and _first_byte(answer.headers) != there:
                _forget(path)
                raise OSError("the server sent a different part of the file; starting again")
            total = _whole_size(answer.headers) if goes_on else _length(answer.headers)
            _write_text(tag, answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
            there = _append(answer, path, there if goes_on else 0, total, on_bytes, max_size)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if _whole_size(error.headers) != there:
            _forget(path)
            raise OSError("the partial download belongs to another file; starting again") from error
        return
    if total is not None and there != total:
        raise OSError(f"it broke off after {there} of {total} bytes")
    tag.unlink()


def _append(
    answer: Response, path: Path, there: int, total: int | None, on_bytes: OnBytes | None, max_size: int
) -> int:
    """Appends the answer after the first ``there`` bytes; returns the new size."""
    _require_small(path, total or 0, max_size)
    with _writable(path, "ab" if there else "wb") as file:
        for chunk in answer.chunks(CHUNK):
            there += len(chunk)
            _require_small(path, there, max_size)
            _write(file, path, chunk)
            if on_bytes:
                on_bytes(there, total)
    return there


def _require_small(path: Path, size: int, max_size: int) -> None:
    if size > max_size:
        _forget(path)
        raise DataError(f"It is larger than {max_size / 1e9:g} GB: allow more with --max-size if that is right.")


def _writable(path: Path, mode: str) -> IO[bytes]:
    try:
        return cast("IO[bytes]", path.open(mode, buffering=0))
    except OSError as error:
        raise _unwritable(path, error) from error


def _write(file: IO[bytes], path: Path, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise _unwritable(path, error) from error


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be written: {error.strerror}.")


def _tag_of(path: Path) -> Path:
    """The file with the server's version tag of the partial file ``path``."""
    return path.with_name(f"{path.name}.tag")


def _forget(path: Path) -> None:
    """Removes a partial file and its tag."""
    path.unlink(missing_ok=True)
    _tag_of(path).unlink(missing_ok=True)


def _first_byte(headers: Message) -> int | None:
    """The start offset in ``Content-Range: bytes 5-9/10``."""
    text = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdigit() else None


def _length(headers: Message) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _whole_size(headers: Message) -> int | None:
    """The total size in ``Content-Range: bytes 5-9/10``."""
    text = headers.get("Content-Range", "").rpartition("/")[2]
    return int(text) if text.isdigit() else None


def _check_archive(archive: Path, sha256: str) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        archive.unlink()
        raise DataError(f"The archive has the SHA-256 {found}, not {sha256}. It was removed: try again.")


# -- unpacking -------------------------------------------------------------------------------------------------------


def unpack(archive: Path, target: Path, *, digest: str | None = None) -> None:
    """Unpacks the dataset in a zip archive to ``target``, whole or not at all.

    A single folder around everything is stripped. Nothing is written outside of ``target``.

    Args:
        digest: expected checksum of the files, by :func:`digest_of`.

    Raises:
        DataError: it is not an archive, is damaged, would write outside the folder, holds links, does not fit on the
            disk, or does not hold a dataset.
    """
    partial = target.with_name(f"{PREFIX}unpacked-{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as contents:
            members = [member for member in contents.infolist() if not member.is_dir()]
            for member in members:
                _refuse_hostile(member)
            _require_room(archive, sum(member.file_size for member in members))
            for member in members:
                contents.extract(member, partial)
        root = _root_of(partial)
        if digest and digest_of(root) != digest:
            raise RefusedError(
                f"The files of {target.name} differ from those that cgpipe knows: it is another archive."
            )
        os.replace(root, target)
    except RefusedError:
        archive.unlink()
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError) as error:
        archive.unlink()
        raise DataError(f"The archive of {target.name} is damaged ({error}). It was removed: try again.") from error
    except OSError as error:
        if error.errno not in _OF_THIS_DISK:
            archive.unlink()
        raise DataError(f"{target} cannot be unpacked: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class RefusedError(DataError):
    """The archive is unusable, and is removed."""


_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
"""Errors that are not the archive's fault: it is kept."""


def _refuse_hostile(member: zipfile.ZipInfo) -> None:
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    outside = not parts or parts[0].startswith("/") or ":" in parts[0] or ".." in parts
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise RefusedError(
            f"The archive is refused, nothing was unpacked: {member.filename!r} points outside of its folder."
        )


def _require_room(archive: Path, size: int) -> None:
    free = shutil.disk_usage(archive.parent).free
    if size > free:
        raise DataError(f"The archive unpacks to {size:,} bytes, but only {free:,} are free in {archive.parent}.")


def _root_of(folder: Path) -> Path:
    for candidate in (folder, *sorted(path for path in folder.glob("*") if path.is_dir())):
        if (candidate / "trainA").is_dir() and (candidate / "trainB").is_dir():
            return candidate
    raise RefusedError("The archive holds no dataset with trainA and trainB. Nothing was unpacked.")


def digest_of(folder: Path) -> str:
    """SHA-256 of the list of a dataset's pictures with their SHA-256, in ``sha256sum`` format, sorted by name.

    Raises:
        DataError: there are no pictures.
    """
    lines = []
    for path in sorted(find_pictures(folder), key=lambda path: path.relative_to(folder).as_posix()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
