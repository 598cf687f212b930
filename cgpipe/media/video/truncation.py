"""Detects truncated files by their own stated length: libav reads them without an error."""

from __future__ import annotations

import os
from typing import BinaryIO

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_COLOUR_TABLE = 0x80
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B


def is_cut_short(path: str | os.PathLike[str], formats: set[str]) -> bool:
    """Whether a Matroska or GIF file, or the index of an MP4, ends before its own structure does.

    False if that cannot be determined.
    """
    check = next((check for format, check in _CHECKS.items() if format in formats), None)
    try:
        if check is None or not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return check(file)
    except (OSError, EOFError):
        return False


def _ends_within_segment(file: BinaryIO) -> bool:
    """Matroska: whether the segment, whose size is written when recording ends, extends beyond the file."""
    if _number(file, keep_marker=True) != _EBML:
        return False
    header = _number(file)
    file.seek(header or 0, os.SEEK_CUR)
    if _number(file, keep_marker=True) != _SEGMENT:
        return False
    size = _number(file)
    return size is not None and file.tell() + size > os.fstat(file.fileno()).st_size


def _number(file: BinaryIO, *, keep_marker: bool = False) -> int | None:
    """An EBML number of one to eight bytes; None if all its bits are set, which means unknown."""
    first = _read(file, 1)[0]
    length = 9 - first.bit_length()
    if length > 8:
        return None
    value = int.from_bytes(bytes([first]) + _read(file, length - 1), "big")
    if keep_marker:
        return value
    value &= (1 << 7 * length) - 1
    return None if value == (1 << 7 * length) - 1 else value


def _ends_within_gif(file: BinaryIO) -> bool:
    """GIF: whether its blocks end before the trailer."""
    try:
        _skip_colours(file, _read(file, 13)[10])
        while (block := _read(file, 1)[0]) != _TRAILER:
            if block == _EXTENSION:
                _read(file, 1)
            elif block == _IMAGE:
                _skip_colours(file, _read(file, 9)[8])
                _read(file, 1)
            else:
                return False  # not a GIF block: damaged, not truncated
            while size := _read(file, 1)[0]:
                _read(file, size)
    except EOFError:
        return True
    return False


def _ends_within_index(file: BinaryIO) -> bool:
    """MP4: whether its index extends beyond the file; libav then knows only the streams before that place."""
    place, end = 0, os.fstat(file.fileno()).st_size
    while place + 8 <= end:
        file.seek(place)
        size, name = int.from_bytes(_read(file, 4)), _read(file, 4)
        if size == 1:
            size = int.from_bytes(_read(file, 8))
        if size < 8:  # 0: the box goes on to the end of the file
            return False
        place += size
        if name == b"moov":
            return place > end
    return False


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & _COLOUR_TABLE:
        _read(file, 3 << ((flags & 7) + 1))


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


_CHECKS = {"gif": _ends_within_gif, "matroska": _ends_within_segment, "mov": _ends_within_index}
