"""What a picture file says beside its pixels: colour profile, EXIF, XMP and resolution."""

from __future__ import annotations

import math
import re
import struct
import zlib
from dataclasses import dataclass

from PIL import ExifTags, Image, TiffImagePlugin

_EXIF_MARK = b"Exif\0\0"
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
_ICC_MARK = b"ICC_PROFILE\0"
_SEGMENT_LIMIT = 65533  # bytes in a JPEG segment after its length
_METRES_PER_INCH = 0.0254

_Base, _IFD = ExifTags.Base, ExifTags.IFD

_DESCRIPTIVE = (
    *(_Base.DocumentName, _Base.ImageDescription, _Base.Make, _Base.Model, _Base.Software, _Base.DateTime),
    *(_Base.Artist, _Base.HostComputer, _Base.Copyright, _Base.Rating, _Base.RatingPercent),
    *(_Base.XPTitle, _Base.XPComment, _Base.XPAuthor, _Base.XPKeywords, _Base.XPSubject),
)
"""The entries of a TIFF directory that speak of the picture; the others speak of how the file is laid out."""

_GROUPS = (_IFD.Exif, _IFD.GPSInfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """What a picture file says beside its pixels, in the form in which it can be put into another file.

    Args:
        icc: ICC profile of the RGB pixels.
        exif: EXIF block, beginning ``Exif\\0\\0``; its orientation is 1, and it holds no thumbnail.
        xmp: XMP packet; its orientation is 1.
        dpi: pixels per inch, across and down.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


def read_tags(image: Image.Image, size: tuple[int, int]) -> Tags:
    """The tags of an opened picture, whose upright pixels have ``size`` (height, width).

    Of tags that cannot be read none are kept: a picture is not refused for its description.
    """
    profile = image.info.get("icc_profile")
    return Tags(
        icc=profile if profile_space(profile) == "RGB" else None,
        exif=_exif(image, size),
        xmp=_upright_xmp(image.info.get("xmp")),
        dpi=_resolution(image.info.get("dpi")),
    )


def read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where there is none or it makes no sense."""
    try:
        value = image.getexif().get(_Base.Orientation, 1)
    except Exception:  # damaged EXIF makes Pillow raise nearly anything
        return 1
    return value if value in range(1, 9) else 1


def profile_space(profile: bytes | None) -> str | None:
    """The colour space that an ICC profile is for: ``RGB``, ``GRAY``, ``CMYK``, ``Lab`` and others."""
    if not profile or len(profile) < 128 or profile[36:40] != b"acsp":
        return None
    return profile[16:20].decode("ascii", "replace").strip()


def _exif(image: Image.Image, size: tuple[int, int]) -> bytes | None:
    try:
        exif = image.getexif()
        if image.format == "TIFF":
            exif = _only_descriptive(exif)
        details = exif.get_ifd(_IFD.Exif)
        if not exif and not details:
            return None
        if _Base.Orientation in exif:
            exif[_Base.Orientation] = 1
        for tag, pixels in ((_Base.ExifImageHeight, size[0]), (_Base.ExifImageWidth, size[1])):
            if tag in details:
                details[tag] = pixels
        return exif.tobytes()
    except Exception:  # as above
        return None


def _only_descriptive(exif: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    for tag in _DESCRIPTIVE:
        if tag in exif:
            kept[tag] = exif[tag]
    for group in _GROUPS:
        kept.get_ifd(group).update(exif.get_ifd(group))
    return kept


def _upright_xmp(xmp: bytes | str | None) -> bytes | None:
    if not xmp:
        return None
    packet = xmp.encode() if isinstance(xmp, str) else xmp
    return re.sub(rb'(tiff:Orientation(?:\s*=\s*["\']|>))[2-8]', rb"\g<1>1", packet)


def _resolution(dpi: tuple[float, float] | None) -> tuple[float, float] | None:
    try:
        across, down = map(float, dpi or ())
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # One dot an inch is what Pillow makes of a TIFF without any resolution.
    plausible = all(math.isfinite(value) and 1 < value < 1e6 for value in (across, down))
    return (across, down) if plausible else None


def _per_metre(dpi: tuple[float, float]) -> tuple[int, int]:
    return round(dpi[0] / _METRES_PER_INCH), round(dpi[1] / _METRES_PER_INCH)


# --- into encoded files --------------------------------------------------------------------------------------------


def into_jpeg(encoded: bytes, tags: Tags) -> bytes:
    """The JPEG file, which begins with a JFIF segment, with the tags; a block too large for its segment is left out."""
    header, rest = bytearray(encoded[:20]), encoded[20:]
    if tags.dpi:
        dots = (min(max(round(value), 1), 65535) for value in tags.dpi)
        header[13:18] = struct.pack(">BHH", 1, *dots)
    return b"".join((bytes(header), *_jpeg_segments(tags), rest))


def _jpeg_segments(tags: Tags) -> list[bytes]:
    described = [(0xE1, tags.exif or b""), (0xE1, _XMP_MARK + tags.xmp if tags.xmp else b"")]
    room = _SEGMENT_LIMIT - len(_ICC_MARK) - 2
    pieces = [tags.icc[start : start + room] for start in range(0, len(tags.icc), room)] if tags.icc else []
    profile = [(0xE2, _ICC_MARK + bytes((n, len(pieces))) + piece) for n, piece in enumerate(pieces, 1)]
    return [
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
        for marker, body in described + profile
        if body and len(body) <= _SEGMENT_LIMIT
    ]


def into_png(encoded: bytes, tags: Tags) -> bytes:
    """The PNG file with the tags, in chunks between its header and its pixels."""
    chunks = []
    if tags.icc:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(tags.icc)))
    if tags.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *_per_metre(tags.dpi), 1)))
    if tags.exif:
        chunks.append((b"eXIf", tags.exif.removeprefix(_EXIF_MARK)))
    if tags.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + tags.xmp))
    header_end = 33
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"".join((encoded[:header_end], *packed, encoded[header_end:]))


def into_bmp(encoded: bytes, tags: Tags) -> bytes:
    """The BMP file with its resolution; the format as we write it has no room for more."""
    if not tags.dpi:
        return encoded
    return encoded[:38] + struct.pack("<ii", *_per_metre(tags.dpi)) + encoded[46:]


def add_to_tiff(directory: TiffImagePlugin.ImageFileDirectory_v2, tags: Tags) -> None:
    """Adds the tags to the directory of a TIFF file that is being made."""
    if tags.exif:
        exif = Image.Exif()
        exif.load(tags.exif)
        kept = _only_descriptive(exif)
        for tag, value in [*kept.items(), *((group, kept.get_ifd(group)) for group in _GROUPS)]:
            if value:
                directory[tag] = value
    if tags.icc:
        directory[_Base.InterColorProfile] = tags.icc
        directory.tagtype[_Base.InterColorProfile] = 7
    if tags.xmp:
        directory[_Base.XMLPacket] = tags.xmp
        directory.tagtype[_Base.XMLPacket] = 1
    if tags.dpi:
        directory[_Base.ResolutionUnit] = 2
        directory[_Base.XResolution], directory[_Base.YResolution] = tags.dpi
