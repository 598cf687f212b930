"""The metadata of a picture file: colour, EXIF, XMP, IPTC, comments and resolution."""

from __future__ import annotations

import io
import math
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import ExifTags, Image, TiffImagePlugin

from cgpipe.media.pictures import png
from cgpipe.media.pictures.depth import is_jpeg
from cgpipe.media.pictures.xmp import of_size, upright, without_promises

_Base, _IFD = ExifTags.Base, ExifTags.IFD

DESCRIPTIVE = (
    *(_Base.DocumentName, _Base.ImageDescription, _Base.Make, _Base.Model, _Base.Software, _Base.DateTime),
    *(_Base.Artist, _Base.HostComputer, _Base.Copyright, _Base.Rating, _Base.RatingPercent),
    *(_Base.XPTitle, _Base.XPComment, _Base.XPAuthor, _Base.XPKeywords, _Base.XPSubject),
)
"""The TIFF entries that describe the picture; the others describe the file's layout."""

GROUPS = (_IFD.Exif, _IFD.GPSInfo)

# Those of BT.709, those that are not stated, and other numbers of the same curve.
_SRGB_PRIMARIES, _SRGB_TRANSFERS = (1, 2), (1, 2, 6, 13)
_IPTC_IN_TIFF, _IPTC_IN_PHOTOSHOP, _MPF_ENTRIES = 33723, 0x0404, 0xB002


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """The metadata of a picture file, in a form that can be embedded in another file.

    Args:
        icc: ICC profile of the RGB pixels.
        exif: EXIF block, beginning ``Exif\\0\\0``; its orientation is 1, and it holds no thumbnail.
        xmp: XMP packet; its orientation is 1.
        dpi: pixels per inch, across and down.
        iptc: IPTC records.
        comments: of a JPEG or GIF file.
        png_colour: the colour chunks of a PNG file: name and content; of HEIC, the one that says the same.
        png_text: the text chunks of a PNG file.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    iptc: bytes | None = None
    comments: tuple[bytes, ...] = ()
    png_colour: tuple[png.Chunk, ...] = ()
    png_text: tuple[png.Chunk, ...] = ()


def read_tags(image: Image.Image, file: io.BufferedReader, size: tuple[int, int]) -> tuple[Tags, tuple[str, ...]]:
    """The tags of an opened picture, whose upright pixels have ``size`` (height, width), and notes on what is left out.

    Unreadable tags are dropped: a picture is not refused for its metadata.
    """
    profile, packet = image.info.get("icc_profile"), image.info.get("xmp")
    xmp, notes = without_promises(packet.encode() if isinstance(packet, str) else packet or b"")
    space = profile_space(profile)
    colour, text = png.described(file) if image.format == "PNG" else (_colour_of_heif(image), ())
    tags = Tags(
        icc=profile if space == "RGB" else None,
        exif=_exif(image, size),
        xmp=upright(xmp) or None,
        dpi=_resolution(image.info.get("dpi")),
        iptc=_iptc(image),
        comments=_comments(image),
        png_colour=colour if space is None else tuple(chunk for chunk in colour if chunk.name == b"cICP"),
        png_text=text,
    )
    return tags, notes or _other_pictures(image)


def _colour_of_heif(image: Image.Image) -> tuple[png.Chunk, ...]:
    """The primaries and the transfer that a HEIC file names by number (ITU-T H.273), unless they are those of sRGB."""
    named = image.info.get("nclx_profile")
    if image.format != "HEIF" or not isinstance(named, dict):
        return ()
    primaries, transfer = named.get("color_primaries", 2), named.get("transfer_characteristics", 2)
    if primaries in _SRGB_PRIMARIES and transfer in _SRGB_TRANSFERS:
        return ()
    return (png.Chunk(b"cICP", bytes((primaries, transfer, 0, 1))),)


def _iptc(image: Image.Image) -> bytes | None:
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        records = image.tag_v2.get(_IPTC_IN_TIFF)
    else:
        resources = image.info.get("photoshop")
        records = resources.get(_IPTC_IN_PHOTOSHOP) if isinstance(resources, dict) else None
    return records if isinstance(records, bytes) and records else None


def _comments(image: Image.Image) -> tuple[bytes, ...]:
    if is_jpeg(image):
        return tuple(body for name, body in getattr(image, "applist", ()) if name == "COM" and body)
    comment = image.info.get("comment") if image.format == "GIF" else None
    return (comment,) if isinstance(comment, bytes) and comment else ()


def _other_pictures(image: Image.Image) -> tuple[str, ...]:
    """Notes the pictures of a JPEG file that are not read; previews of the first do not count."""
    if image.format != "MPO":
        return ()
    entries = (getattr(image, "mpinfo", None) or {}).get(_MPF_ENTRIES, ())
    kinds = [str(entry["Attribute"]["MPType"]) for entry in entries][1:]
    others = [kind for kind in kinds if "Thumbnail" not in kind]
    return ("further pictures in the file",) if others else ()


def read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if it is missing or invalid."""
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
        exif = with_text(image.getexif())
        if image.format == "TIFF":
            exif = only_descriptive(exif)
        details = exif.get_ifd(_IFD.Exif)
        if not exif and not details:
            return None
        if _Base.Orientation in exif:
            exif[_Base.Orientation] = 1
        _tell_size(details, size)
        return exif.tobytes()
    except Exception:  # as above
        return None


def sized(tags: Tags, height: int, width: int) -> Tags:
    """The tags of a picture that was enlarged: EXIF and XMP say its new size where they said the old one."""
    exif = Image.Exif()
    if tags.exif:
        exif.load(tags.exif)
        _tell_size(exif.get_ifd(_IFD.Exif), (height, width))
    return replace(
        tags,
        exif=with_text(exif).tobytes() if tags.exif else None,
        xmp=of_size(tags.xmp, height, width) if tags.xmp else None,
    )


def _tell_size(details: MutableMapping[int, Any], size: tuple[int, int]) -> None:
    for tag, pixels in ((_Base.ExifImageHeight, size[0]), (_Base.ExifImageWidth, size[1])):
        if tag in details:
            details[tag] = pixels


class _Text(str):
    """A text that Pillow writes with the bytes that it read: it reads Latin-1, and writes ASCII with question marks."""

    __slots__ = ()

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return super().encode("latin-1", "replace")


def with_text(exif: Image.Exif) -> Image.Exif:
    """The same EXIF, of which Pillow writes texts as they were read, in whatever encoding."""
    for tags in (exif, *(exif.get_ifd(group) for group in GROUPS if group in exif)):
        for tag, value in tags.items():
            if isinstance(value, str):
                tags[tag] = _Text(value)
    return exif


def only_descriptive(exif: Image.Exif) -> Image.Exif:
    kept = Image.Exif()
    for tag in DESCRIPTIVE:
        if tag in exif:
            kept[tag] = exif[tag]
    for group in GROUPS:
        kept.get_ifd(group).update(exif.get_ifd(group))
    return kept


def _resolution(dpi: tuple[float, float] | None) -> tuple[float, float] | None:
    try:
        across, down = map(float, dpi or ())
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # Pillow reports one dot per inch for a TIFF without a resolution.
    plausible = all(math.isfinite(value) and 1 < value < 1e6 for value in (across, down))
    return (across, down) if plausible else None
