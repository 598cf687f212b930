"""Where uploads and results lie while a service needs them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cgpipe.errors import UsageError, reason_of
from cgpipe.storage import HOST, cache_folder, create_locked, take_over

_LOCK = ".lock"


class Spool:
    """A folder of one process's own. Every name in it is made here: none comes from a client.

    Args:
        folder: that is there, empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def new(self, suffix: str = "") -> Path:
        """A path that nothing has yet."""
        return self.folder / f"{secrets.token_hex(8)}{suffix}"

    def new_folder(self) -> Path:
        """A new empty folder."""
        folder = self.new()
        folder.mkdir(mode=0o700)
        return folder


@contextmanager
def open_spool(within: Path | None = None) -> Iterator[Spool]:
    """A spool that is gone at the end, with all that lies in it; what killed processes left is swept first.

    Args:
        within: the folder that holds the spools; None: one in the user's cache.

    Raises:
        UsageError: there is no place for it.
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
    try:
        yield Spool(folder)
    finally:
        _remove(folder, lock, held)


def _sweep(home: Path) -> None:
    """Removes the spools whose process is gone: their locks can be taken."""
    for lock in home.glob(f"*{_LOCK}"):
        held = take_over(lock)
        if held is not None:
            _remove(lock.with_suffix(""), lock, held)


def _remove(folder: Path, lock: Path, held: int) -> None:
    """The lock goes last: until then another process can finish what this one began."""
    shutil.rmtree(folder, ignore_errors=True)
    os.close(held)
    with suppress(OSError):
        lock.unlink(missing_ok=True)
