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

from cgpipe.data.http import PATIENCE, Response, TooSlowError, check_address, opened, reason_of, shown
from cgpipe.data.pictures import find_pictures
from cgpipe.errors import DataError, UsageError
from cgpipe.storage import PREFIX, partial_of

SERVER = "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets"
"""Where the authors of CycleGAN (arXiv 1703.10593) keep theirs."""

TRIES = 5
"""How often a download that breaks off is taken up again before the command gives up."""
MOST_TRIES = 1000
"""How often in all, so that a server that brings a byte each time comes to an end."""
MAX_SIZE = 20_000_000_000
"""Bytes of an archive that is not refused; the largest of the known ones has a tenth of them."""
CHUNK = 1 << 20

OnBytes = Callable[[int, int | None], None]
"""Told how many bytes are there, and of how many, or None where the server does not say."""


@dataclass(frozen=True, kw_only=True)
class KnownDataset:
    """A dataset that can be fetched by name.

    Args:
        domains: what trainA and trainB show.
        digest: of the unpacked files, by :func:`digest_of`; None where cgpipe's makers never had them.
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
    """What :func:`fetch` did.

    Args:
        folder: the dataset.
        domains: what its two halves show; None for an archive that was named by its address.
        digest: of the unpacked files.
        verified: whether the digest, or the archive's sha256, is the one that it must be; False where none is known.
        downloaded: False where the dataset was there.
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

    A download that broke off is taken up where it ended, in this call and in the next.

    Args:
        name: one of :data:`DATASETS`; with ``url``, any name for the folder.
        folder: where datasets lie.
        url: of a zip archive, in place of the authors' server.
        sha256: what the archive must have, in hexadecimal digits.
        max_size: bytes that the archive may have.
        on_bytes: told of the progress.

    Raises:
        UsageError: the name is unknown, or the address is not one of http or https.
        DataError: the server is away, does not have it or sends something else, or the archive is damaged or hostile.
            What was downloaded is kept where going on makes sense, and nothing was unpacked.
    """
    known = DATASETS.get(name)
    if known is None and url is None:
        raise UsageError(f"No dataset is called {name!r}. Known: {', '.join(DATASETS)}. Or name an archive with --url.")
    if PurePosixPath(name).name != name or name in ("", ".", ".."):
        raise UsageError(f"{name!r} cannot be a folder's name.")
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
    """Downloads ``url`` to ``path``, going on from what is there.

    Args:
        max_size: bytes that it may have.
        tries: how often in a row nothing may come before it gives up.
        pause: seconds before the second try; they double with every further one.
        patience: seconds after which a server that brings next to nothing counts as away.

    Raises:
        UsageError: the address is not one of http or https.
        DataError: as :func:`fetch`.
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
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
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
                raise OSError("the server sends another part than it was asked for; starting again")
            total = _whole_size(answer.headers) if goes_on else _length(answer.headers)
            _write_text(tag, answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
            there = _append(answer, path, there if goes_on else 0, total, on_bytes, max_size)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if _whole_size(error.headers) != there:
            _forget(path)
            raise OSError("what was downloaded before does not belong to it; starting again") from error
        return
    if total is not None and there != total:
        raise OSError(f"it broke off after {there} of {total} bytes")
    tag.unlink()


def _append(
    answer: Response, path: Path, there: int, total: int | None, on_bytes: OnBytes | None, max_size: int
) -> int:
    """Writes what comes behind the first ``there`` bytes, and counts all."""
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
    """The file that keeps what a server called the version of the part in ``path``."""
    return path.with_name(f"{path.name}.tag")


def _forget(path: Path) -> None:
    """Removes a part that is of no more use."""
    path.unlink(missing_ok=True)
    _tag_of(path).unlink(missing_ok=True)


def _first_byte(headers: Message) -> int | None:
    """Where a part begins, from ``Content-Range: bytes 5-9/10``."""
    text = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(text) if text.isdigit() else None


def _length(headers: Message) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdigit() else None


def _whole_size(headers: Message) -> int | None:
    """The size of the whole file, from ``Content-Range: bytes 5-9/10``."""
    text = headers.get("Content-Range", "").rpartition("/")[2]
    return int(text) if text.isdigit() else None


def _check_archive(archive: Path, sha256: str) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        archive.unlink()
        raise DataError(f"The archive has the sha256 {found}, and not {sha256}. It was removed: try again.")


# -- unpacking -------------------------------------------------------------------------------------------------------


def unpack(archive: Path, target: Path, *, digest: str | None = None) -> None:
    """Unpacks a zip archive so that ``target`` holds trainA and trainB, whole or not at all.

    A single folder around everything is taken off. Nothing is written outside the folder.

    Args:
        digest: that the files must have, by :func:`digest_of`.

    Raises:
        DataError: the archive is none, is damaged, would write outside the folder, holds links, is larger than the
            disk has room for, or does not hold a dataset.
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
                f"The files of {target.name} are not those that cgpipe knows: the archive is another one."
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
    """The archive is of no use, and is removed."""


_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
"""Errors in unpacking that say nothing about the archive: it is kept."""


def _refuse_hostile(member: zipfile.ZipInfo) -> None:
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    outside = not parts or parts[0].startswith("/") or ":" in parts[0] or ".." in parts
    if outside or stat.S_ISLNK(member.external_attr >> 16):
        raise RefusedError(
            f"The archive is refused, nothing was unpacked: {member.filename!r} leads out of its folder."
        )


def _require_room(archive: Path, size: int) -> None:
    free = shutil.disk_usage(archive.parent).free
    if size > free:
        raise DataError(f"The archive unpacks to {size:,} bytes, but {archive.parent} has room for {free:,} only.")


def _root_of(folder: Path) -> Path:
    for candidate in (folder, *sorted(path for path in folder.glob("*") if path.is_dir())):
        if (candidate / "trainA").is_dir() and (candidate / "trainB").is_dir():
            return candidate
    raise RefusedError("The archive holds no dataset: there is no trainA beside a trainB in it. Nothing was unpacked.")


def digest_of(folder: Path) -> str:
    """The sha256 of a list of a dataset's pictures with their own sha256, as ``sha256sum`` writes it, sorted by name.

    Raises:
        DataError: there is no picture.
    """
    lines = []
    for path in sorted(find_pictures(folder), key=lambda path: path.relative_to(folder).as_posix()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()
