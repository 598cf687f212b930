"""Picture formats as data: those that are read and written, and those that are only recognised, with advice."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from cgpipe.errors import MissingDependencyError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFormat:
    """A format that is read and written.

    Args:
        name: as Pillow calls it.
        title: name in messages.
        suffixes: of its file names; new files get the first.
        bits: the most bits per channel that are kept.
        package: the optional package that reads and writes it.
        extra: the extra of cgpipe that installs this package.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    bits: int = 8
    package: str = ""
    extra: str = ""

    @property
    def installed(self) -> bool:
        """Whether the package that it needs is installed."""
        return not self.package or find_spec(self.package) is not None

    @property
    def advice(self) -> str:
        """What to do if it is not."""
        return f"Install the extra: pip install 'cgpipe[{self.extra}]'"


FORMATS: tuple[PictureFormat, ...] = (
    PictureFormat(name="JPEG", title="JPEG", suffixes=(".jpg", ".jpeg", ".jpe", ".jfif")),
    PictureFormat(name="PNG", title="PNG", suffixes=(".png",), bits=16),
    PictureFormat(name="WEBP", title="WebP", suffixes=(".webp",)),
    PictureFormat(name="TIFF", title="TIFF", suffixes=(".tif", ".tiff"), bits=16),
    PictureFormat(name="BMP", title="BMP", suffixes=(".bmp", ".dib")),
    PictureFormat(name="AVIF", title="AVIF", suffixes=(".avif",), bits=12),
    PictureFormat(name="GIF", title="GIF", suffixes=(".gif",)),
    PictureFormat(name="JPEG2000", title="JPEG 2000", suffixes=(".jp2", ".jpx", ".jpf", ".j2k", ".j2c"), bits=16),
    PictureFormat(
        name="HEIF", title="HEIC", suffixes=(".heic", ".heif", ".hif"), bits=12, package="pillow_heif", extra="heif"
    ),
)
"""The formats that are read and written."""

PICTURE_SUFFIXES: Mapping[str, str] = {suffix: format.name for format in FORMATS for suffix in format.suffixes}
"""Format by file name suffix."""

BY_NAME: Mapping[str, PictureFormat] = {format.name: format for format in FORMATS}
"""Formats by Pillow's names."""


SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide")
"""Of microscope slides, which OpenSlide reads; most of them are TIFF inside."""


def picture_format(name: str | os.PathLike[str]) -> str | None:
    """The format of a file name by its suffix, in upper or lower case, or None."""
    return PICTURE_SUFFIXES.get(os.path.splitext(name)[1].lower())


def named_format(name: str) -> str:
    """The format that a user calls ``name``, such as ``jpg``, ``.JPG`` or ``tiff``.

    Raises:
        UsageError: no such format is known.
        MissingDependencyError: it needs a package that is not installed.
    """
    try:
        format = BY_NAME[PICTURE_SUFFIXES["." + name.lower().removeprefix(".")]]
    except KeyError:
        known = ", ".join(suffix[1:] for suffix in PICTURE_SUFFIXES)
        raise UsageError(f"Unknown picture format {name!r}: use one of {known}.") from None
    if not format.installed:
        raise MissingDependencyError(f"{format.title} needs the package {format.package}. {format.advice}.")
    return format.name


# --- by content ----------------------------------------------------------------------------------------------------

HEAD = 256
"""Leading bytes of a file by which its kind is recognised."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of a file by its first bytes.

    Args:
        title: name in messages.
        format: its name in :data:`FORMATS`; None: it is not read.
        advice: what to do if it cannot be read here; empty if it can.
    """

    title: str
    format: str | None
    advice: str = ""


_CONVERT = "Convert it to PNG first"
_CONVERT_DEEP = "Convert it to PNG or TIFF of 16 bits first"
_DEVELOP = "Develop it first, to TIFF or JPEG, with a program for camera raw"
_EXPORT = "Export it as PNG or TIFF first"

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0", "TIFF"),
    (rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG2000"),
)

_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (rb"(II\*\0|MM\0\*).{4}CR|FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0|FOVb|.{6}HEAPCCDR|\0MRM", "Camera raw", _DEVELOP),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", _CONVERT),
    (rb"8BPS", "Photoshop", _EXPORT),
    (rb"gimp xcf", "GIMP", _EXPORT),
    (rb"II\xbc", "JPEG XR", _CONVERT),
    (rb"\x76\x2f\x31\x01", "OpenEXR", _CONVERT),
    (rb"#\?(RADIANCE|RGBE)", "Radiance HDR", _CONVERT),
    (rb"SDPX|XPDS", "DPX", _CONVERT),
    (rb"qoif", "QOI", _CONVERT),
    (rb"DDS \x7c", "DDS", _CONVERT),
    (rb"AT&TFORM....DJV", "DjVu", _CONVERT),
    (rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s", "PNM", _CONVERT),
    (rb"FLIF", "FLIF", _CONVERT),
    (rb"SIMPLE  =", "FITS", _CONVERT_DEEP),
    (rb".{128}DICM", "DICOM", _CONVERT_DEEP),
)

_RAW_SUFFIXES = frozenset(
    "." + suffix
    for suffix in (
        *("3fr", "arw", "cr2", "dcr", "dng", "erf", "fff", "gpr", "iiq", "k25", "kdc", "mef", "mos", "nef", "nrw"),
        *("pef", "ptx", "raw", "rwl", "sr2", "srf", "srw"),
    )
)
"""Of camera raw files in a TIFF layout, whose first picture is a small preview."""


def kind_of(head: bytes, name: str | os.PathLike[str] = "") -> Kind | None:
    """The kind of a file by its first :data:`HEAD` bytes; None: not a picture, or of an unknown kind.

    Args:
        name: of the file: its suffix tells camera raw from other TIFF.
    """
    for pattern, title, advice in _FOREIGN:
        if re.match(pattern, head, re.DOTALL):
            return Kind(title, None, advice)
    for pattern, format in _SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            if format == "TIFF" and os.path.splitext(name)[1].lower() in _RAW_SUFFIXES:
                return CAMERA_RAW
            return _known(format)
    if os.path.splitext(name)[1].lower() == ".tga" and re.match(_TARGA, head, re.DOTALL):
        return Kind("Targa", None, _CONVERT)
    return _kind_by_brand(head) if head[4:8] == b"ftyp" else None


_TARGA = rb".[\0\1][\1-\3\x09-\x0b].{13}[\x08\x0f\x10\x18\x20]"
"""Its header has no signature: whether there is a palette, the type of the picture, and bits per pixel."""

CAMERA_RAW = Kind("Camera raw", None, _DEVELOP)


def kind_of_file(path: str | os.PathLike[str]) -> Kind | None:
    """Same as :func:`kind_of`; None also if the path cannot be opened or is not a file."""
    try:
        if not os.path.isfile(path):
            return None
        with open(path, "rb") as file:
            return kind_of(file.read(HEAD), path)
    except OSError:
        return None


def _known(format: str) -> Kind:
    known = BY_NAME[format]
    return Kind(known.title, format, "" if known.installed else known.advice)


def _kind_by_brand(head: bytes) -> Kind | None:
    """For files made of boxes, like MP4: by the brands in the first box, after its own brand and a version."""
    end = min(int.from_bytes(head[:4]), len(head))
    brands = (head[8:12], *(head[place : place + 4] for place in range(16, end, 4)))
    if brands[0] == b"crx ":
        return CAMERA_RAW
    if b"avif" in brands or b"avis" in brands:
        return _known("AVIF")
    return _known("HEIF") if any(brand in brands for brand in _HEIF_BRANDS) else None
