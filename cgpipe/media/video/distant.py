"""The pieces of a video beside a target behind an address, for a run on another machine to go on with."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cgpipe.storage import PathLike, store_of


class DistantPieces:
    """Copies of the files in a folder of pieces; whatever fails raises OSError.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: PathLike) -> None:
        self._folder = os.fspath(folder)
        self._store = store_of(folder)

    def text(self, name: str) -> str | None:
        """What a small file says; None where there is none."""
        with suppress(OSError), self._store.open(f"{self._folder}/{name}") as file:
            return file.read().decode()
        return None

    def put(self, path: Path) -> None:
        """Adds a file of this machine, or replaces one."""
        self._store.put(path, f"{self._folder}/{path.name}")

    def fetch(self, path: Path) -> bool:
        """Fetches the file of this name, if there is one."""
        place = f"{self._folder}/{path.name}"
        if not self._store.exists(place):
            return False
        with self._store.fetched(place) as here:
            os.replace(here, path)
        return True

    def names(self) -> list[str]:
        """All that is there."""
        return self._store.names(self._folder, "")

    def remove(self) -> None:
        """Removes all."""
        for name in self.names():
            self.drop(name)

    def drop(self, name: str) -> None:
        """Removes one file."""
        self._store.remove(f"{self._folder}/{name}")
