"""The folder of a service's uploads and results."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cgpipe.errors import UsageError, reason_of
from cgpipe.storage import HOST, cache_folder, create_locked, take_over

_LOCK = ".lock"


class Spool:
    """A private folder of one process. All names in it are generated; none comes from a client.

    Args:
        folder: an existing, empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new(self, suffix: str = "") -> Path:
        """A new path."""
        return self.folder / f"{secrets.token_hex(8)}{suffix}"

    def new_folder(self) -> Path:
        """A new empty folder."""
        folder = self.new()
        folder.mkdir(mode=0o700)
        return folder

    def remove_older(self, seconds: float) -> None:
        """Removes what has not been written to for so long."""
        oldest = time.time() - seconds
        for path in self.folder.iterdir():
            with suppress(OSError):  # another thread removes it, too
                if max(one.stat().st_mtime for one in (path, *path.rglob("*"))) > oldest:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


@contextmanager
def open_spool(within: Path | None = None) -> Iterator[Spool]:
    """Opens a spool, which is removed at the end with its content; first removes those of killed processes.

    While it is open, this process's temporary files, such as uploads on their way, lie in it, too.

    Args:
        within: the parent folder of spools; None: one in the user's cache.

    Raises:
        UsageError: the folder cannot be written.
    """
    home = within or cache_folder("service")
    folder = home / f"{HOST}-{secrets.token_hex(4)}"
    lock = folder.with_suffix(_LOCK)
    try:
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        held = create_locked(lock)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise UsageError(
            f"{home} cannot be written: {reason_of(error)}. Uploads lie there: name another folder with XDG_CACHE_HOME."
        ) from error
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield Spool(folder)
    finally:
        tempfile.tempdir = before
        _remove(folder, lock, held)


def _sweep(home: Path) -> None:
    """Removes the spools of processes that have ended, whose locks are free."""
    for lock in home.glob(f"*{_LOCK}"):
        held = take_over(lock)
        if held is not None:
            _remove(lock.with_suffix(""), lock, held)


def _remove(folder: Path, lock: Path, held: int) -> None:
    """Removes a spool, the lock last: until then another process can finish the removal."""
    shutil.rmtree(folder, ignore_errors=True)
    os.close(held)
    with suppress(OSError):
        lock.unlink(missing_ok=True)
