"""Picture files: JPEG, PNG, WebP, TIFF and BMP in, with all that must be given back, and whole files out.

Pillow reads the header and the tags, and decodes all but two kinds: JPEG, for which OpenCV takes half the time, and
16 bits a channel, of which Pillow keeps 8. OpenCV 4.12 is the first that refuses a JPEG cut short. (torchvision would
decode JPEG as fast, but gives up its decoders, and the one for PNG brings the process down on a damaged file.) Both
libraries release the interpreter's lock and can be called from several threads.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.encoders import QUALITY, encode
from cgpipe.media.files import atomic_write, named_format, picture_format
from cgpipe.media.frames import Frame, Pixels
from cgpipe.media.tags import Tags, profile_space, read_orientation, read_tags

PIXEL_LIMIT = 300_000_000
"""Pictures of more pixels are taken for decompression bombs."""

_Array = npt.NDArray[Any]  # uint8 or uint16: numpy's types cannot say that a function keeps which of the two

_GRAY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "YCbCr", "CMYK")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureExtras:
    """What was in a picture file beside the RGB pixels.

    Args:
        format: ``JPEG``, ``PNG``, ``WEBP``, ``TIFF`` or ``BMP``.
        size: height and width in the file, upright; the pixels' own, unless they were read reduced.
        bits: bits a channel in the file, 1 to 16.
        gray: the file holds no colour.
        alpha: opacity, shape (height, width), of the pixels' type; None if the file has none.
        tags: profile, EXIF, XMP and resolution, as they fit upright RGB pixels.
    """

    format: str
    size: tuple[int, int]
    bits: int = 8
    gray: bool = False
    alpha: Pixels | None = None
    tags: Tags = field(default_factory=Tags)


# --- reading -------------------------------------------------------------------------------------------------------


def read_picture(
    path: str | os.PathLike[str], *, pixel_limit: int = PIXEL_LIMIT, reduced_to: int | None = None
) -> Frame:
    """Reads a picture upright, as RGB, its origin being :class:`PictureExtras`.

    PNG and TIFF of 16 bits a channel keep them (CMYK is brought to 8). CMYK becomes sRGB through its profile, and so
    does gray that has one; RGB stays as it is and keeps its profile. Of several pictures in a JPEG file the first is
    read, which is the main one.

    Args:
        pixel_limit: refuse larger pictures, by their header, before anything is decoded. Pillow's own limit, one
            number for the whole process, is raised to this one where it is lower.
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
        pixels = _decoded(image, file, bits, reduced_to)
        if gray:
            _correct_gray(pixels, image.info.get("icc_profile", b""))
        if image.format != "TIFF":  # whose decoders turn it themselves
            orientation = read_orientation(image)
            pixels = _TURNS[orientation](pixels)
            height, width = (height, width) if orientation < 5 else (width, height)
        extras = PictureExtras(
            format="JPEG" if _is_jpeg(image) else str(image.format),
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
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, pixel_limit)
    try:
        image = Image.open(file, formats=("JPEG", "PNG", "WEBP", "TIFF", "BMP"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large from error
    except UnidentifiedImageError as error:
        raise MediaError(
            "not a picture, or one too damaged to know it, or of another kind than JPEG, PNG, WebP, TIFF and BMP"
            " with 8 or 16 bits; convert it first"
        ) from error
    with image:
        if image.width * image.height > pixel_limit:
            raise too_large
        yield image


def _is_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")


def _depth(image: Image.Image, file: io.BufferedReader) -> tuple[int, bool]:
    """Bits a channel, and whether there is but one channel beside the opacity."""
    if image.format == "PNG":  # of 16 bits Pillow shows neither the depth nor that gray with opacity is gray
        bits, colour_type = _bytes_of(file, 24, 2)
        return bits, colour_type in (0, 4)
    gray = image.mode in _GRAY_MODES
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(Base.BitsPerSample, (1,)))), gray
    return 1 if image.mode == "1" else 8, gray


def _require_supported(image: Image.Image, bits: int) -> None:
    if image.mode not in _GRAY_MODES + _COLOUR_MODES or bits not in (1, 2, 4, 8, 16):
        raise MediaError(f"{bits} bits a channel of kind {image.mode}; convert it to RGB of 8 or 16 bits first")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and not _is_jpeg(image):
        raise MediaError(f"{frames} pictures in one file, pages or an animation; save them one by one first")
    if isinstance(image, TiffImagePlugin.TiffImageFile) and bits == 16 and _in_planes(image):
        raise MediaError("16 bits a channel in separate planes; save it with interleaved channels first")


def _in_planes(image: TiffImagePlugin.TiffImageFile) -> bool:
    tags = image.tag_v2
    return bool(tags.get(Base.SamplesPerPixel, 1) > 1 and tags.get(Base.PlanarConfiguration, 1) != 1)


def _bytes_of(file: io.BufferedReader, start: int = 0, count: int | None = None) -> bytearray:
    """Bytes of the file, by default all of them; Pillow's place in it is kept."""
    place = file.tell()
    content = bytearray(file.seek(0, io.SEEK_END) if count is None else count)
    file.seek(start)
    file.readinto(content)
    file.seek(place)
    return content


def _decoded(image: Image.Image, file: io.BufferedReader, bits: int, reduced_to: int | None) -> _Array:
    """_Array of shape (height, width, 3 or 4): RGB, and opacity where there is any."""
    if image.mode == "CMYK":
        return np.array(_from_cmyk(image))
    if bits == 16:
        return _decoded_deep(image, file)
    if _is_jpeg(image) and not _reduced(image, reduced_to):
        return _decoded_by_opencv(file, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, np.uint8)
    if image.has_transparency_data:
        return np.array(image.convert("RGBA"))
    return np.array(image.convert("RGB"))  # which only decodes what is RGB already


def _reduced(image: Image.Image, reduced_to: int | None) -> bool:
    """Sets the image to be decoded at a fraction of its size, if that is wanted and possible."""
    size = image.size
    if reduced_to:
        image.draft(None, (reduced_to, reduced_to))
    return image.size != size


def _decoded_by_opencv(file: io.BufferedReader, flags: int, dtype: type[np.unsignedinteger[Any]]) -> _Array:
    decoded: _Array | None = cv2.imdecode(np.frombuffer(_bytes_of(file), np.uint8), flags)
    if decoded is None or decoded.dtype != dtype:
        raise ValueError("its pixels cannot be decoded")
    return decoded


def _decoded_deep(image: Image.Image, file: io.BufferedReader) -> _Array:
    """16 bits a channel; OpenCV leaves two peculiarities of TIFF, inverted gray and premultiplied alpha, to us."""
    decoded = _decoded_by_opencv(file, cv2.IMREAD_UNCHANGED, np.uint16)
    pixels: _Array = cv2.cvtColor(decoded, _TO_RGB[decoded.shape[2] if decoded.ndim == 3 else 1])
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        if image.tag_v2.get(Base.PhotometricInterpretation) == 0:
            pixels = 65535 - pixels
        if image.tag_v2.get(Base.ExtraSamples) == (1,):
            opacity = np.maximum(pixels[..., 3:].astype(np.float32), 1) / 65535
            pixels[..., :3] = np.minimum(np.rint(pixels[..., :3] / opacity), 65535)
    return pixels


_TO_RGB = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}

_TURNS: Mapping[int, Callable[[Any], Any]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""What makes pixels of an EXIF orientation upright."""


def _from_cmyk(image: Image.Image) -> Image.Image:
    """RGB through the profile, as print programs do it; without a usable one by plain subtraction."""
    profile = image.info.get("icc_profile", b"")
    if profile_space(profile) == "CMYK":
        with suppress(ImageCms.PyCMSError):
            return _to_srgb(image, profile)
    return image.convert("RGB")


def _correct_gray(pixels: _Array, profile: bytes) -> None:
    """Brings gray from the tone curve of its profile, if it has one, to that of sRGB."""
    if profile_space(profile) != "GRAY":
        return
    ramp = np.arange(256, dtype=np.uint8)
    with suppress(ImageCms.PyCMSError):
        # Unoptimised, since the short cuts of colour management are 10 steps off in the dark.
        curve: _Array = np.array(_to_srgb(Image.fromarray(ramp[None]), profile, ImageCms.Flags.NOOPTIMIZE))[0, :, 1]
        if pixels.dtype == np.uint16:
            curve = np.rint(257 * np.interp(np.arange(65536) / 257, ramp, curve)).astype(np.uint16)
        pixels[..., :3] = curve[pixels[..., :3]]


def _to_srgb(image: Image.Image, profile: bytes, flags: ImageCms.Flags = ImageCms.Flags.NONE) -> Image.Image:
    converted: Image.Image | None = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=flags | ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # which it is only when converting in place
    return converted


# --- writing -------------------------------------------------------------------------------------------------------


def write_picture(
    path: str | os.PathLike[str],
    pixels: Pixels,
    extras: PictureExtras | None = None,
    *,
    format: str | None = None,
    quality: int | None = None,
) -> None:
    """Writes a whole picture file under ``path``, or none.

    PNG and TIFF hold 16 bits, the others get 8. JPEG has no opacity: there the picture is laid on white. BMP holds
    the resolution only. TIFF is not compressed, which on photographs would save a tenth and take ten times as long.

    Args:
        pixels: RGB, shape (height, width, 3), uint8 or uint16.
        extras: what the picture was read with; None: nothing to give back.
        format: as :func:`~cgpipe.media.files.named_format` knows it; None: by the name's suffix, and where that says
            nothing, the format that was read.
        quality: of JPEG and WebP, 1 to 100, at 100 WebP loses nothing; None: :data:`QUALITY`.

    Raises:
        MediaError: the picture cannot be encoded in this format (too long a side), or the file not written.
        UsageError: an unknown format or quality.
    """
    extras = extras or PictureExtras(format=picture_format(path) or "PNG", size=pixels.shape[:2])
    kind = named_format(format) if format else picture_format(path) or extras.format
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality {quality} is not between 1 and 100")
    encoded = encode(kind, _composed(pixels, extras.alpha, kind), extras.tags, quality or QUALITY)
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(encoded)
    except OSError as error:
        raise MediaError(f"{path} cannot be written: {error.strerror or error}") from error


def _composed(pixels: _Array, alpha: _Array | None, kind: str) -> _Array:
    """What the encoder of this format takes: (height, width, 3 or 4), in the depth that the format holds."""
    pixels = _in_depth(pixels, pixels.dtype if kind in ("PNG", "TIFF") else np.dtype(np.uint8))
    if alpha is None:
        return pixels
    alpha = _in_depth(alpha, pixels.dtype)
    if kind != "JPEG":
        return np.dstack([pixels, alpha])
    white = np.iinfo(pixels.dtype).max
    opacity = alpha[..., None].astype(np.float32) / white
    return np.rint(pixels * opacity + white * (1 - opacity)).astype(pixels.dtype)


def _in_depth(values: _Array, dtype: np.dtype[Any]) -> _Array:
    if values.dtype == dtype:
        return values
    if dtype == np.uint8:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values.astype(np.uint16) * np.uint16(257)
