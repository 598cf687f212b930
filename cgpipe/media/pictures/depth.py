"""What Pillow does not tell of a file's pixels: bits per channel, and whether the compression is lossless."""

from __future__ import annotations

import io
import struct

from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base

GRAY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK")

_SEARCHED = 1 << 16  # bytes from the beginning in which the header of a codestream lies


def is_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")


def bytes_of(file: io.BufferedReader, start: int = 0, count: int | None = None) -> bytearray:
    """Bytes of the file, by default all of them; the file position is kept for Pillow."""
    place = file.tell()
    content = bytearray(file.seek(0, io.SEEK_END) if count is None else count)
    file.seek(start)
    file.readinto(content)
    file.seek(place)
    return content


def depth(image: Image.Image, file: io.BufferedReader) -> tuple[int, bool]:
    """Bits per channel, and whether there is only one channel beside alpha."""
    if image.format == "PNG":  # of 16 bits Pillow shows neither the depth nor that gray with opacity is gray
        bits, colour_type = bytes_of(file, 24, 2)
        return bits, colour_type in (0, 4)
    gray = image.mode in GRAY_MODES
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(Base.BitsPerSample, (1,)))), gray
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8)), gray
    if image.format == "AVIF":
        return _avif_bits(bytes_of(file, 0, _SEARCHED)), gray
    if image.format == "JPEG2000":
        return _jpeg2000_bits(bytes_of(file, 0, _SEARCHED)), gray
    return 1 if image.mode == "1" else 8, gray


def _avif_bits(head: bytearray) -> int:
    """From the box that configures the decoder: its third byte has a flag for more than 8 bits, and one for 12."""
    place = head.find(b"av1C")
    flags = head[place + 6] if 0 <= place < len(head) - 6 else 0
    return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10


def _jpeg2000_bits(head: bytearray) -> int:
    """From the first marker segment of the codestream, which has a byte for each component."""
    place = head.find(b"\xff\x4f\xff\x51")
    if not 0 <= place < len(head) - 42:
        return 8
    (count,) = struct.unpack_from(">H", head, place + 40)
    sizes = head[place + 42 : place + 42 + 3 * count : 3]
    return max((size & 0x7F) + 1 for size in sizes) if sizes else 8


def is_lossless_webp(file: io.BufferedReader) -> bool:
    """Whether the first pixels in a WebP file are of the lossless kind."""
    head = bytes_of(file, 0, 16)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return False
    place = 12
    while (chunk := bytes(bytes_of(file, place, 8)))[:4] not in (b"VP8 ", b"VP8L", bytes(4)):  # zeros behind the end
        place += 8 + (int.from_bytes(chunk[4:], "little") + 1) // 2 * 2
    return chunk[:4] == b"VP8L"
