"""Encodes JPEG 2000, with the boxes that Pillow does not write."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
from PIL import Image

from cgpipe.media.frames import Pixels
from cgpipe.media.pictures.boxes import EXIF, XMP, boxes
from cgpipe.media.pictures.tags import Tags


def encoded(pixels: Pixels, tags: Tags, quality: int) -> bytes:
    """A whole JP2 file, lossless at quality 100, and always lossless for 16 bits.

    For 8 bits the quality sets a signal-to-noise ratio: 95 stands for 49 dB.
    """
    if pixels.dtype == np.uint16:
        order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
        lossless = (cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000)  # thousandths of the size
        done, content = cv2.imencode(".jp2", cv2.cvtColor(pixels, order), lossless)
        if not done:
            raise ValueError("OpenCV refuses it")
        return _described(content.tobytes(), tags)
    out = io.BytesIO()
    lossy = {"irreversible": True, "quality_mode": "dB", "quality_layers": [30 + quality / 5]}
    Image.fromarray(pixels).save(out, "JPEG2000", mct=1, **(lossy if quality < 100 else {}))
    return _described(out.getvalue(), tags)


def _described(content: bytes, tags: Tags) -> bytes:
    """The file with its tags: the profile in place of the colour space in the header, the others behind that."""
    file, parts = io.BytesIO(content), []
    for kind, first, last in boxes(file, 0, len(content)):
        body = content[first:last]
        if kind == b"jp2h":
            inner = [(name, content[begin:stop]) for name, begin, stop in boxes(file, first, last)]
            profile = b"\2\0\0" + tags.icc if tags.icc else b""
            body = b"".join(_box(name, profile if profile and name == b"colr" else part) for name, part in inner)
        parts.append(_box(kind, body))
        if kind == b"jp2h":
            parts += [_box(b"uuid", XMP + tags.xmp)] if tags.xmp else []
            parts += [_box(b"uuid", EXIF + tags.exif.removeprefix(b"Exif\0\0"))] if tags.exif else []
    return b"".join(parts)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content
