"""Picture formats by name."""

from __future__ import annotations

import os
from collections.abc import Mapping

from cgpipe.errors import UsageError

PICTURE_SUFFIXES: Mapping[str, str] = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".dib": "BMP",
}
"""The format that a file name's suffix stands for; the first suffix of a format is the one given to new files."""


def picture_format(name: str | os.PathLike[str]) -> str | None:
    """The format that the suffix of a file name stands for, or None; upper and lower case are alike."""
    return PICTURE_SUFFIXES.get(os.path.splitext(name)[1].lower())


def named_format(name: str) -> str:
    """The format that a user calls ``name``, such as ``jpg``, ``.JPG`` or ``tiff``.

    Raises:
        UsageError: no such format is known.
    """
    try:
        return PICTURE_SUFFIXES["." + name.lower().removeprefix(".")]
    except KeyError:
        known = ", ".join(suffix[1:] for suffix in PICTURE_SUFFIXES)
        raise UsageError(f"unknown picture format {name!r}; choose one of {known}") from None
