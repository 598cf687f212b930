"""Whether what was written before is still what would be written now."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from cgpipe.storage import atomic_write, is_current


class Freshness:
    """Knows since when the translations in some folders were made with the present settings.

    A translation is current when it is newer than its input and was made since the settings came into force: another
    model, strength or quality makes all of a folder's translations stale. What is remembered is a small file in the
    user's cache, so that nothing but pictures lies in the folders themselves.

    Args:
        roots: the folders that are written to.
        settings: what decides the result. Files among them count with their size and time.
    """

    def __init__(self, roots: Sequence[Path], settings: Sequence[Any]) -> None:
        known = hashlib.sha256(b"\0".join(os.fsencode(root.absolute()) for root in roots)).hexdigest()[:32]
        self._path = user_cache_path("cgpipe") / "folders" / f"{known}.json"
        self._since = self._remember([_fingerprint(setting) for setting in settings])

    def is_current(self, input: Path, output: Path) -> bool:
        """Whether ``output`` is there, whole, newer than ``input``, and made with the present settings."""
        return is_current(input, output) and output.stat().st_mtime_ns >= self._since

    def _remember(self, fingerprint: list[Any]) -> int:
        """Since when, in nanoseconds; 0 for folders of which nothing is known."""
        since = 0
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            if kept["settings"] == fingerprint:
                return int(kept["since"])
            since = _clock(self._path)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # Nothing is known yet.
        with suppress(OSError), atomic_write(self._path) as partial:
            partial.write_text(json.dumps({"settings": fingerprint, "since": since}), encoding="utf-8")
        return since


def _clock(path: Path) -> int:
    """The file system's own time: what it will give to files written from now on."""
    probe = path.with_suffix(f".{os.getpid()}.now")
    probe.touch()
    now = probe.stat().st_mtime_ns
    probe.unlink()
    return now


def _fingerprint(setting: Any) -> Any:
    return stamp(setting) if isinstance(setting, Path) else setting


def stamp(path: Path) -> list[Any]:
    """What tells a file from another of the same name: absolute path, size and time; for what is no file, its name."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return [str(path)]
    return [os.fsencode(path.absolute()).decode("utf-8", "backslashreplace"), stat.st_size, stat.st_mtime_ns]
