"""Embeds the tags of a picture in an encoded file."""

from __future__ import annotations

import struct
import zlib

from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base

from cgpipe.media.pictures.png import Chunk
from cgpipe.media.pictures.tags import GROUPS, Tags, only_descriptive, with_text

_EXIF_MARK = b"Exif\0\0"
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
_ICC_MARK = b"ICC_PROFILE\0"
_SEGMENT_LIMIT = 65533  # bytes in a JPEG segment after its length
_METRES_PER_INCH = 0.0254
_IPTC = 33723  # the entry of a TIFF directory


def _per_metre(dpi: tuple[float, float]) -> tuple[int, int]:
    return round(dpi[0] / _METRES_PER_INCH), round(dpi[1] / _METRES_PER_INCH)


def into_jpeg(encoded: bytes | memoryview, tags: Tags) -> bytes:
    """The JPEG file, which begins with a JFIF segment, with the tags; a block too large for its segment is omitted."""
    header, rest = bytearray(encoded[:20]), encoded[20:]
    if tags.dpi:
        dots = (min(max(round(value), 1), 65535) for value in tags.dpi)
        header[13:18] = struct.pack(">BHH", 1, *dots)
    return b"".join((bytes(header), *_jpeg_segments(tags), rest))


def _jpeg_segments(tags: Tags) -> list[bytes]:
    described = [(0xE1, tags.exif or b""), (0xE1, _XMP_MARK + tags.xmp if tags.xmp else b"")]
    described += [(0xED, _photoshop(tags.iptc) if tags.iptc else b""), *((0xFE, text) for text in tags.comments)]
    room = _SEGMENT_LIMIT - len(_ICC_MARK) - 2
    pieces = [tags.icc[start : start + room] for start in range(0, len(tags.icc), room)] if tags.icc else []
    profile = [(0xE2, _ICC_MARK + bytes((n, len(pieces))) + piece) for n, piece in enumerate(pieces, 1)]
    return [
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        for marker, body in described + profile
        if body and len(body) <= _SEGMENT_LIMIT
    ]


def _photoshop(iptc: bytes) -> bytes:
    """IPTC as a Photoshop resource, its form in JPEG."""
    padded = iptc + bytes(len(iptc) % 2)
    return b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(iptc)) + padded


def into_png(encoded: bytes, tags: Tags) -> bytes:
    """The PNG file with the tags, as chunks between its header and its pixels."""
    chunks = []
    if tags.icc:
        chunks.append(Chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(tags.icc)))
    if tags.dpi:
        chunks.append(Chunk(b"pHYs", struct.pack(">IIB", *_per_metre(tags.dpi), 1)))
    if tags.exif:
        chunks.append(Chunk(b"eXIf", tags.exif.removeprefix(_EXIF_MARK)))
    if tags.xmp:
        chunks.append(Chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + tags.xmp))
    # An ICC profile and the name of a standard exclude each other.
    chunks += [chunk for chunk in tags.png_colour if not (tags.icc and chunk.name == b"sRGB")]
    chunks += tags.png_text
    header_end = 33
    return b"".join((encoded[:header_end], *map(Chunk.packed, chunks), encoded[header_end:]))


def into_bmp(encoded: bytes, tags: Tags) -> bytes:
    """The BMP file with its resolution; the variant written here has no room for more."""
    if not tags.dpi:
        return encoded
    return encoded[:38] + struct.pack("<ii", *_per_metre(tags.dpi)) + encoded[46:]


def add_to_tiff(directory: TiffImagePlugin.ImageFileDirectory_v2, tags: Tags) -> None:
    """Adds the tags to the directory of a TIFF file that is being written."""
    if tags.exif:
        exif = Image.Exif()
        exif.load(tags.exif)
        kept = only_descriptive(with_text(exif))
        for tag, value in [*kept.items(), *((group, kept.get_ifd(group)) for group in GROUPS)]:
            if value:
                directory[tag] = value
    if tags.icc:
        directory[Base.InterColorProfile] = tags.icc
        directory.tagtype[Base.InterColorProfile] = 7
    if tags.xmp:
        directory[Base.XMLPacket] = tags.xmp
        directory.tagtype[Base.XMLPacket] = 1
    if tags.iptc:
        directory[_IPTC] = tags.iptc
        directory.tagtype[_IPTC] = 7
    if tags.dpi:
        directory[Base.ResolutionUnit] = 2
        directory[Base.XResolution], directory[Base.YResolution] = tags.dpi
