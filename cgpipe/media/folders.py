"""The pictures of a dataset's folder."""

from __future__ import annotations

from pathlib import Path

from cgpipe.errors import DataError
from cgpipe.media.files import PICTURE_SUFFIXES, picture_format


def find_pictures(folder: Path) -> list[Path]:
    """All pictures below ``folder``, hidden ones aside, sorted.

    Raises:
        DataError: the folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. A dataset has trainA and trainB, optionally testA and testB.")
    found = sorted(p for p in folder.rglob("*") if picture_format(p) and not p.name.startswith("."))
    if not found:
        raise DataError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)}).")
    return found
