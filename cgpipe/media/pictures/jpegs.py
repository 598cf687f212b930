"""JPEG files that travel as they are, for a device that decodes and encodes JPEG."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from PIL import Image

from cgpipe.media.frames import Jpeg
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.read import opened, without_pillows_limit
from cgpipe.media.pictures.tags import read_orientation, read_tags

MOST_PIXELS = 1 << 25
"""Pixels of the largest picture that a device decodes."""
LEAST_SIDE = 32
"""Pixels of the shortest side that a device decodes: nothing is gained by smaller pictures."""

_BEGIN, _END = b"\xff\xd8\xff", b"\xff\xd9"
_BASELINE, _SCAN, _JFIF, _MULTIPLE, _ADOBE = 0xC0, 0xDA, 0xE0, 0xE2, 0xEE
_OTHER_FRAMES = {*range(0xC1, 0xD0)} - {0xC4, 0xC8, 0xCC}


def read_jpeg(path: str | os.PathLike[str]) -> Jpeg[PictureExtras] | None:
    """A plain JPEG (see :func:`is_plain`) with its tags, its pixels not decoded.

    None for any other file: :func:`~cgpipe.media.pictures.read.read_picture` reads it, or says what is wrong with it.
    """
    with suppress(Exception), opened(Path(path)) as file:  # whatever it is, the other reader meets it again
        if file.read(len(_BEGIN)) != _BEGIN:
            return None
        content = _BEGIN + file.read()
        if not is_plain(content):
            return None
        file.seek(0)
        with without_pillows_limit():
            image = Image.open(file, formats=("JPEG",))
        gray = image.mode == "L"
        if image.format != "JPEG" or (gray and "icc_profile" in image.info):
            return None
        orientation, (width, height) = read_orientation(image), image.size
        size = (height, width) if orientation < 5 else (width, height)
        tags, notes = read_tags(image, file, size)
        extras = PictureExtras(format="JPEG", size=size, bits=8, gray=gray, tags=tags, notes=notes)
        halved = chroma_is_halved(content)
        return Jpeg(content=content, size=size, orientation=orientation, halved=halved, origin=extras)
    return None


def is_plain(content: bytes) -> bool:
    """Whether the content of a JPEG file is one whole picture that any decoder takes for the same.

    That is: baseline, 8 bits, gray or YCbCr, chroma of full or half the resolution, and the end at the end of the file.
    """
    if not content.endswith(_END):  # cut short, or followed by something else
        return False
    jfif, transform, layers = False, None, b""
    for kind, body in _segments(content):
        if kind in _OTHER_FRAMES or (kind == _MULTIPLE and body.startswith(b"MPF\0")):
            return False
        if kind == _JFIF:
            jfif = True
        elif kind == _ADOBE and body.startswith(b"Adobe") and len(body) > 11:
            transform = body[11]
        elif kind == _BASELINE:
            if body[:1] != b"\x08" or not _is_of_usual_size(body):
                return False
            layers = body[5:]
        elif kind == _SCAN:
            return bool(layers) and _is_usual(layers, jfif, transform)
    return False


def chroma_is_halved(content: bytes) -> bool:
    """Whether two lines of a plain JPEG share one of chroma."""
    frame = next((body for kind, body in _segments(content) if kind == _BASELINE), b"")
    return frame[5:6] == b"\3" and frame[7] & 15 == 2


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the body of each segment, up to the first scan."""
    place, kind = 2, 0
    while kind != _SCAN and place + 4 <= len(content) and content[place] == 0xFF:
        kind, size = content[place + 1], int.from_bytes(content[place + 2 : place + 4])
        yield kind, content[place + 4 : place + 2 + size]
        place += 2 + size


def _is_of_usual_size(frame: bytes) -> bool:
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    return min(height, width) >= LEAST_SIDE and height * width <= MOST_PIXELS


def _is_usual(layers: bytes, jfif: bool, transform: int | None) -> bool:
    """Whether the components of a frame are gray, or luma and chroma."""
    names, factors = layers[1::3], layers[2::3]
    if layers[0] == 1:
        return len(layers) == 4
    if layers[0] != 3 or len(layers) != 10 or factors[1:] != b"\x11\x11" or factors[0] not in (0x11, 0x21, 0x22):
        return False
    return transform == 1 if transform is not None else jfif or names == b"\1\2\3"
