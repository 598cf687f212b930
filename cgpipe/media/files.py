"""Whole files only: written under another name beside their place, then moved there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a path to write to, with the same suffix, and moves that file to ``path`` once the block has ended well.

    Whatever happens, ``path`` is the old file or the new one, whole; what was begun is removed when the block fails.
    The names of unfinished files begin with a dot.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
