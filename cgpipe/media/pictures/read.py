"""Reads picture files, with everything that the output must keep."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base

from cgpipe.errors import MediaError, UnsupportedFormatError
from cgpipe.media.frames import Frame
from cgpipe.media.pictures import boxes, heif, huge
from cgpipe.media.pictures.decode import TURNS, decoded
from cgpipe.media.pictures.depth import COLOUR_MODES, GRAY_MODES, bytes_of, depth, is_jpeg, is_lossless_webp
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.formats import BY_NAME, CAMERA_RAW, FORMATS, HEAD, kind_of, kind_of_file
from cgpipe.media.pictures.profiles import correct_gray
from cgpipe.media.pictures.tags import read_orientation, read_tags

TURNED = ("TIFF", "HEIF")
"""Formats whose decoders apply the orientation themselves."""

ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats of files that may hold an animation."""

TITLES = ", ".join(format.title for format in FORMATS)

_DNG_VERSION = 50706  # of camera raw by Adobe: the first picture in the file is a preview


def read_picture(
    path: str | os.PathLike[str], *, pixel_limit: int | None = None, reduced_to: int | None = None
) -> Frame[PictureExtras]:
    """Reads a picture upright, as RGB; its origin is a :class:`PictureExtras`.

    Formats are recognised by content, not by name. More than 8 bits per channel become 16 (CMYK becomes 8). CMYK, and
    gray with a profile, are converted to sRGB; RGB stays as it is and keeps its profile. Of several pictures in a JPEG
    file the first, which is the main one, is read.

    Args:
        pixel_limit: refuse larger pictures, by their header, before anything is decoded; None: those that do not fit in
            memory. Pillow's own limit is ignored here, and stays in force for the rest of the process.
        reduced_to: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as its short side is at least this
            many pixels.

    Raises:
        MediaError: the message is only the reason, since the caller knows the path. The file is missing, unreadable,
            empty, not a picture, damaged or truncated, too large, or of a kind that cannot be kept: several pages, an
            animation, 32-bit or floating-point channels.
        UnsupportedFormatError: it is a picture in a format that is not read here; the message says what to do.
    """
    if huge.is_slide(path):
        raise UnsupportedFormatError("Slides are read by an extra: pip install 'cgpipe[slides,huge]'.")
    with opened(Path(path)) as file, damage_refused(), _parsed(file, path, pixel_limit) as image:
        bits, gray = depth(image, file)
        _require_supported(image, bits)
        width, height = image.size
        inks = ("inks (CMYK became sRGB)",) if image.mode == "CMYK" else ()
        pixels = decoded(image, file, bits, reduced_to)
        if gray:
            correct_gray(pixels, image.info.get("icc_profile", b""))
        if image.format not in TURNED:
            orientation = read_orientation(image)
            pixels = TURNS[orientation](pixels)
            height, width = (height, width) if orientation < 5 else (width, height)
        tags, notes = read_tags(image, file, (height, width))
        extras = PictureExtras(
            format="JPEG" if is_jpeg(image) else str(image.format),
            size=(height, width),
            bits=bits,
            gray=gray,
            alpha=np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None,
            lossless=is_lossless_webp(file),
            tags=tags,
            notes=notes + inks,
        )
        return Frame(pixels=np.ascontiguousarray(pixels[..., :3]), origin=extras)


def check_picture(path: str | os.PathLike[str], *, pixel_limit: int | None = None, animated: bool = False) -> None:
    """Reads only a picture's header, to refuse an unreadable file before any work.

    Args:
        pixel_limit: most pixels that it, or a frame of an animation, may have.
        animated: it may be an animation.

    Raises:
        MediaError, UnsupportedFormatError: same as :func:`read_picture`, except for damage behind the header.
    """
    if huge.is_slide(path):
        raise UnsupportedFormatError("Slides are not read here.")
    with opened(Path(path)) as file, damage_refused(), _parsed(file, path, pixel_limit) as image:
        _require_supported(image, depth(image, file)[0], animated=animated)


def is_animation(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an animated GIF, PNG, WebP or AVIF."""
    kind = kind_of_file(path)
    if kind is None or kind.format not in ANIMATED:
        return False
    try:
        with Image.open(path, formats=(kind.format,)) as image:
            return getattr(image, "n_frames", 1) > 1
    except Exception:  # as above: the reader reports why
        return False


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """A picture's file; a MediaError says why it cannot be opened."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.listdir(path)  # a folder ends up here only if it could not be listed: this raises the reason
            raise MediaError("It is a folder, not a picture.")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would block forever
            raise MediaError("It is a pipe or a device. Save the picture to a file first.")
        if not status.st_size:
            raise MediaError("The file is empty. Copy it again from its source.")
        file = open(path, "rb")  # noqa: SIM115 - closed below, where errors are no longer of opening
    except OSError as error:
        raise MediaError(f"It cannot be opened: {error.strerror or error}.") from error
    with file:
        yield file


@contextmanager
def damage_refused() -> Iterator[None]:
    """Turns whatever a decoder raises into a MediaError."""
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        detail = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        short = detail[0].rsplit("error: ", 1)[-1][:120]
        raise MediaError(f"The file is damaged or cut short ({short}). Copy it again from its source.") from error


@contextmanager
def _parsed(file: io.BufferedReader, path: str | os.PathLike[str], pixel_limit: int | None) -> Iterator[Image.Image]:
    kind = _readable_kind(file, path)
    try:
        with without_pillows_limit():
            image = Image.open(file, formats=(kind,))
    except UnidentifiedImageError as error:
        raise MediaError(
            f"This {BY_NAME[kind].title} is damaged, cut short or unsupported. "
            "Copy it again, or save it with 8 or 16 bits per channel."
        ) from error
    except OSError as error:
        if not str(error).startswith("Unsupported BMP"):
            raise
        raise UnsupportedFormatError(f"This kind of BMP is not supported ({error}). Save it as PNG first.") from error
    with image:
        if pixel_limit is not None and image.width * image.height > pixel_limit:
            raise MediaError(f"It has more than {pixel_limit / 1e6:g} megapixels. Downscale it first.")
        if pixel_limit is None and huge.is_too_large(image.width * image.height):
            raise huge.too_large(*image.size)
        _require_pixels(image)
        if kind == "JPEG2000":
            image.info.update(boxes.described(file))
        yield image


_pillows_limit = Lock()


def _renew_lock() -> None:
    """A forked process would inherit a lock that none of its threads can release."""
    global _pillows_limit
    _pillows_limit = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def without_pillows_limit() -> Iterator[None]:
    """Lifts Pillow's pixel limit, a global of the process, while a header is read."""
    with _pillows_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _readable_kind(file: io.BufferedReader, path: str | os.PathLike[str]) -> str:
    """The format of a file, if it can be read here."""
    kind = kind_of(bytes(bytes_of(file, 0, HEAD)), path)
    if kind is None:
        raise MediaError(f"It is not a picture, is too damaged to recognise, or is in another format than {TITLES}.")
    if kind.format is None or kind.advice:
        raise UnsupportedFormatError(f"{kind.title} pictures are not supported. {kind.advice}.")
    if kind.format == "HEIF":
        heif.register()
    return kind.format


def _require_pixels(image: Image.Image) -> None:
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _DNG_VERSION in image.tag_v2:
        raise UnsupportedFormatError(f"{CAMERA_RAW.title} pictures are not supported. {CAMERA_RAW.advice}.")


def _require_supported(image: Image.Image, bits: int, *, animated: bool = False) -> None:
    depths = (1, 2, 4, 8, 10, 12, 16) if image.format in ("AVIF", "HEIF") else (1, 2, 4, 8, 16)
    if image.mode not in GRAY_MODES + COLOUR_MODES or bits not in depths:
        raise MediaError(
            f"Mode {image.mode} with {bits} bits per channel is unsupported. Convert it to 8- or 16-bit RGB first."
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and not is_jpeg(image):
        if image.format in ANIMATED:
            if animated:
                return
            raise MediaError(f"It is an animation of {frames} frames: use a still picture, or translate it as a video.")
        raise MediaError(f"It holds {frames} pictures. Save each to a file of its own first.")
    if isinstance(image, TiffImagePlugin.TiffImageFile) and bits == 16 and _in_planes(image):
        raise MediaError("Its 16-bit channels are in separate planes. Save it with interleaved channels first.")


def _in_planes(image: TiffImagePlugin.TiffImageFile) -> bool:
    tags = image.tag_v2
    return bool(tags.get(Base.SamplesPerPixel, 1) > 1 and tags.get(Base.PlanarConfiguration, 1) != 1)
