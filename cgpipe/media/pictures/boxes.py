"""The boxes of a JPEG 2000 file, and the content of those that Pillow does not read."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
EXIF = b"JpgTiffExif->JP2"
_UUIDS = {XMP: "xmp", EXIF: "exif"}
_MOST = 1 << 24  # bytes of a box that is read


def boxes(file: io.BufferedIOBase, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and start and end of the content, of each box in a part of the file."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            size, head = int.from_bytes(file.read(8)), 16
        size = size or end - start
        if size < head or start + size > end:
            return
        yield kind, start + head, start + size
        start += size


def _content(file: io.BufferedIOBase, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(min(end - start, _MOST))


def described(file: io.BufferedReader) -> dict[str, bytes]:
    """The ICC profile, XMP packet and EXIF block of a JP2 file, as Pillow names them; the file position is kept."""
    place = file.tell()
    end = file.seek(0, io.SEEK_END)
    found: dict[str, bytes] = {}
    for kind, first, last in boxes(file, 0, end):
        if kind == b"jp2h":
            for inner, begin, stop in list(boxes(file, first, last)):
                colour = _content(file, begin, stop) if inner == b"colr" else b""
                if colour[:1] in (b"\2", b"\3"):
                    found.setdefault("icc_profile", colour[3:])
        elif kind == b"uuid" and (name := _UUIDS.get(_content(file, first, first + 16))):
            found.setdefault(name, _content(file, first + 16, last))
    file.seek(place)
    return found
