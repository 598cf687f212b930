"""Picture files in: JPEG, PNG, WebP, TIFF and BMP, with all that must be given back."""

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

from cgpipe.errors import MediaError
from cgpipe.media.frames import Frame
from cgpipe.media.pictures.decode import TURNS, bytes_of, decoded, is_jpeg
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.profiles import correct_gray
from cgpipe.media.pictures.tags import read_orientation, read_tags

PIXEL_LIMIT = 300_000_000
"""Pictures of more pixels are taken for decompression bombs."""

_GRAY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK")


def read_picture(
    path: str | os.PathLike[str], *, pixel_limit: int = PIXEL_LIMIT, reduced_to: int | None = None
) -> Frame:
    """Reads a picture upright, as RGB, its origin being :class:`PictureExtras`.

    PNG and TIFF of 16 bits a channel keep them (CMYK is brought to 8). CMYK becomes sRGB through its profile, and so
    does gray that has one; RGB stays as it is and keeps its profile. Of several pictures in a JPEG file the first is
    read, which is the main one.

    Args:
        pixel_limit: refuse larger pictures, by their header, before anything is decoded. Pillow's own limit does not
            count, and stays as it is for the rest of the process.
        reduced_to: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as its short side is at least this.

    Raises:
        MediaError: with the reason alone, for the caller knows the path. The file is missing, not to be read, empty,
            no picture, damaged or cut short, too large, or of a kind that cannot be kept: several pages, an
            animation, 32 bits or floating point a channel.
    """
    with _opened(Path(path)) as file, _damage_refused(), _parsed(file, pixel_limit) as image:
        bits, gray = _depth(image, file)
        _require_supported(image, bits)
        width, height = image.size
        pixels = decoded(image, file, bits, reduced_to)
        if gray:
            correct_gray(pixels, image.info.get("icc_profile", b""))
        if image.format != "TIFF":  # whose decoders turn it themselves
            orientation = read_orientation(image)
            pixels = TURNS[orientation](pixels)
            height, width = (height, width) if orientation < 5 else (width, height)
        extras = PictureExtras(
            format="JPEG" if is_jpeg(image) else str(image.format),
            size=(height, width),
            bits=bits,
            gray=gray,
            alpha=np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None,
            tags=read_tags(image, (height, width)),
        )
        return Frame(pixels=np.ascontiguousarray(pixels[..., :3]), origin=extras)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.listdir(path)  # a folder stands for a picture only where it could not be listed: say why
            raise MediaError("a folder, not a picture")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise MediaError("a pipe or device, not a file; save the picture to a file first")
        if not status.st_size:
            raise MediaError("the file is empty; copy it again from where it came from")
        file = open(path, "rb")  # noqa: SIM115 - closed below, where errors are no longer of opening
    except OSError as error:
        raise MediaError(f"cannot be opened: {error.strerror or error}") from error
    with file:
        yield file


@contextmanager
def _damage_refused() -> Iterator[None]:
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # damaged files make the decoders raise nearly anything
        detail = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        short = detail[0].rsplit("error: ", 1)[-1][:120]
        raise MediaError(f"damaged or cut short ({short}); copy it again from where it came from") from error


@contextmanager
def _parsed(file: io.BufferedReader, pixel_limit: int) -> Iterator[Image.Image]:
    too_large = MediaError(f"more than {pixel_limit / 1e6:g} megapixels; if it is no bomb, reduce it first")
    try:
        with _without_pillows_limit():
            image = Image.open(file, formats=("JPEG", "PNG", "WEBP", "TIFF", "BMP"))
    except UnidentifiedImageError as error:
        raise MediaError(
            "not a picture, or one too damaged to know it, or of another kind than JPEG, PNG, WebP, TIFF and BMP"
            " with 8 or 16 bits; convert it first"
        ) from error
    with image:
        if image.width * image.height > pixel_limit:
            raise too_large
        yield image


_pillows_limit = Lock()


def _renew_lock() -> None:
    """In a forked process nobody would release a lock that a thread of the first one held."""
    global _pillows_limit
    _pillows_limit = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Pillow's limit, one number for the whole process, is set aside while a header is read."""
    with _pillows_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _depth(image: Image.Image, file: io.BufferedReader) -> tuple[int, bool]:
    """Bits a channel, and whether there is but one channel beside the opacity."""
    if image.format == "PNG":  # of 16 bits Pillow shows neither the depth nor that gray with opacity is gray
        bits, colour_type = bytes_of(file, 24, 2)
        return bits, colour_type in (0, 4)
    gray = image.mode in _GRAY_MODES
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(Base.BitsPerSample, (1,)))), gray
    return 1 if image.mode == "1" else 8, gray


def _require_supported(image: Image.Image, bits: int) -> None:
    if image.mode not in _GRAY_MODES + _COLOUR_MODES or bits not in (1, 2, 4, 8, 16):
        raise MediaError(f"{bits} bits a channel of kind {image.mode}; convert it to RGB of 8 or 16 bits first")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and not is_jpeg(image):
        raise MediaError(f"{frames} pictures in one file, pages or an animation; save them one by one first")
    if isinstance(image, TiffImagePlugin.TiffImageFile) and bits == 16 and _in_planes(image):
        raise MediaError("16 bits a channel in separate planes; save it with interleaved channels first")


def _in_planes(image: TiffImagePlugin.TiffImageFile) -> bool:
    tags = image.tag_v2
    return bool(tags.get(Base.SamplesPerPixel, 1) > 1 and tags.get(Base.PlanarConfiguration, 1) != 1)
