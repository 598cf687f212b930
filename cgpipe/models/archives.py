"""Archives of programs: reads, checks and repacks them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from cgpipe.errors import ModelError
from cgpipe.models.header import open_file

LARGEST_FILE = 2_000_000_000
ROOM = 64 * 2**20
"""Bytes that any file may unpack to, however small it is."""


def read_checked(path: Path, check: Callable[[bytes], bytes]) -> bytes:
    """A file's bytes, passed through ``check``, whose errors get the file's name.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it is too large, or ``check`` refuses it.
    """
    with open_file(path) as file:
        if file.seek(0, 2) > LARGEST_FILE:
            raise ModelError(f"{path} is larger than {LARGEST_FILE / 1e9:.0f} GB.")
        file.seek(0)
        content = file.read()
    try:
        return check(content)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def require_proportion(unpacked: int, size: int) -> None:
    """Checks that a content is in proportion to the size of its file, in bytes: weights hardly compress.

    Raises:
        ModelError: it is many times as large.
    """
    if unpacked > ROOM + 4 * size:
        raise ModelError(f"It would unpack to {unpacked / 1e9:.1f} GB from {size / 1e6:.1f} MB, like no model.")


def packed(files: Mapping[str, bytes]) -> bytes:
    """An archive of files by name; deterministic."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without a timestamp, to be deterministic
    return buffer.getvalue()
