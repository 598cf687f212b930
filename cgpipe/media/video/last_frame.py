"""How long the last frame of an animation is shown, which libav's WebP encoder and APNG muxer guess."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

_MOST_DELAY = 0xFFFF
_MOST_MILLISECONDS = 0xFFFFFF


def hold_last(path: Path, length: Fraction) -> None:
    """Sets the duration of the last frame of a WebP or APNG so that the whole animation lasts ``length`` seconds.

    A still picture stays as it is.

    Raises:
        OSError: the file cannot be read or written.
    """
    with path.open("r+b") as file:
        if file.read(4) == b"RIFF":
            _hold_in_webp(file, length)
        else:
            _hold_in_png(file, length)


def _hold_in_webp(file: BinaryIO, length: Fraction) -> None:
    # A frame's chunk holds its place and size, four numbers of three bytes, before its milliseconds.
    places = [place + 12 for name, place in _chunks_of_riff(file) if name == b"ANMF"]
    durations = [int.from_bytes(_at(file, place, 3), "little") for place in places]
    if durations:
        rest = round(1000 * length) - sum(durations[:-1])
        file.seek(places[-1])
        file.write(min(max(rest, 0), _MOST_MILLISECONDS).to_bytes(3, "little"))


def _hold_in_png(file: BinaryIO, length: Fraction) -> None:
    # A frame's chunk holds its number, its size and place, 20 bytes, before its delay, a fraction.
    places = [place for name, place in _chunks_of_png(file) if name == b"fcTL"]
    delays = [
        Fraction(top, bottom or 100) for top, bottom in (struct.unpack(">HH", _at(file, p + 20, 4)) for p in places)
    ]
    if not delays:
        return
    rest = max(length - sum(delays[:-1]), Fraction(0))
    scale = 1000 if rest * 1000 <= _MOST_DELAY else 1
    delay = struct.pack(">HH", min(round(rest * scale), _MOST_DELAY), scale)
    chunk = b"fcTL" + _at(file, places[-1], 20) + delay + _at(file, places[-1] + 24, 2)
    file.seek(places[-1] - 4)
    file.write(chunk + struct.pack(">I", zlib.crc32(chunk)))


def _chunks_of_riff(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Name and place of the content of every chunk."""
    place = 12
    while len(head := _at(file, place, 8)) == 8:
        name, size = struct.unpack("<4sI", head)
        yield name, place + 8
        place += 8 + size + size % 2


def _chunks_of_png(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Name and place of the content of every chunk."""
    place = 8
    while len(head := _at(file, place, 8)) == 8:
        size, name = struct.unpack(">I4s", head)
        yield name, place + 8
        place += 12 + size


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)
