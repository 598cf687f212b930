"""The chunks of a PNG file that Pillow hides or changes: colour and text."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
TEXT = (b"tEXt", b"zTXt", b"iTXt")

_READ_OTHERWISE = (
    b"XML:com.adobe.xmp\0",
    *(b"Raw profile type " + kind + b"\0" for kind in (b"exif", b"APP1", b"xmp", b"icc", b"icm")),
)
"""Prefixes of text chunks whose content is kept in another way."""

_MOST_TEXT = 1 << 24  # bytes of all text


class Chunk(NamedTuple):
    """A chunk: its name of four letters, and its content."""

    name: bytes
    content: bytes

    def packed(self) -> bytes:
        """Its bytes in a file."""
        body = self.name + self.content
        return struct.pack(">I", len(self.content)) + body + struct.pack(">I", zlib.crc32(body))


def described(file: io.BufferedReader) -> tuple[tuple[Chunk, ...], tuple[Chunk, ...]]:
    """The colour chunks and the text chunks; the file position is kept."""
    place = file.tell()
    chunks = list(_chunks(file))
    file.seek(place)
    colour = {chunk.name: chunk for chunk in chunks if chunk.name in COLOUR}
    text = [chunk for chunk in chunks if chunk.name in TEXT and not chunk.content.startswith(_READ_OTHERWISE)]
    return tuple(colour.values()), tuple(text) if sum(len(chunk.content) for chunk in text) <= _MOST_TEXT else ()


def ends_in_a_chunk(content: bytes | bytearray) -> bool:
    """Whether a PNG ends within one of its chunks, whose stated length may be up to 4 GB."""
    if not content.startswith(SIGNATURE):
        return False
    place, name = len(SIGNATURE), b""
    while place + 8 <= len(content) and name != b"IEND":
        name = bytes(content[place + 4 : place + 8])
        place += 12 + int.from_bytes(content[place : place + 4])
    return place > len(content)


def _chunks(file: io.BufferedReader) -> Iterator[Chunk]:
    file.seek(8)
    while len(head := file.read(8)) == 8:
        size, name = int.from_bytes(head[:4]), head[4:]
        if name not in COLOUR + TEXT or size > _MOST_TEXT:
            file.seek(size + 4, io.SEEK_CUR)
            continue
        content, check = file.read(size), file.read(4)
        if check == struct.pack(">I", zlib.crc32(name + content)):
            yield Chunk(name, content)
