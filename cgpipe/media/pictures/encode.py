"""Encodes pictures, with their tags, to bytes.

OpenCV encodes or, where that is faster or keeps more, Pillow. For TIFF neither keeps both 16 bits and the tags: there
Pillow writes the directory, and the raw pixels follow. (OpenCV before 4.13 writes BMP whose alpha other programs do not
see.)
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base

from cgpipe.errors import MediaError
from cgpipe.media.frames import Pixels
from cgpipe.media.pictures import heif, jpeg2000
from cgpipe.media.pictures.embed import add_to_tiff, into_bmp, into_jpeg, into_png
from cgpipe.media.pictures.formats import BY_NAME
from cgpipe.media.pictures.tags import Tags

GRAY = ("JPEG", "PNG", "TIFF", "BMP")
"""Formats that are written with one channel; in others gray is RGB."""
QUALITY = 95
"""Of lossy formats. JPEG and AVIF keep chroma at full resolution (4:4:4): 6 dB for 30% more bytes in JPEG."""


def encode(kind: str, pixels: Pixels, tags: Tags, quality: int = QUALITY) -> bytes:
    """Encodes a whole file.

    Args:
        kind: the name of one of :data:`~cgpipe.media.pictures.formats.FORMATS`.
        pixels: shape (height, width, 3 or 4), RGB and alpha, or 1 for gray in :data:`GRAY`; uint8, or uint16 if the
            format holds more than 8 bits. JPEG takes no alpha.
        tags: written as far as the format can hold them.
        quality: of lossy formats, 1 to 100; at 100 WebP and JPEG 2000 are lossless.

    Raises:
        MediaError: the format cannot hold so large a picture.
        UnsupportedFormatError: a package for it is not installed.
    """
    try:
        return _ENCODERS[kind](pixels, tags, quality)
    except (cv2.error, ValueError, OSError) as error:
        height, width = pixels.shape[:2]
        title = BY_NAME[kind].title
        raise MediaError(f"{width}x{height} pixels cannot be written as {title}. Choose another format.") from error


def _encoded_jpeg(pixels: Pixels, tags: Tags, quality: int) -> bytes:
    full_colour = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    return into_jpeg(_encoded_by_opencv(".jpg", pixels, cv2.IMWRITE_JPEG_QUALITY, quality, *full_colour), tags)


def _encoded_png(pixels: Pixels, tags: Tags, _quality: int) -> bytes:
    # OpenCV's defaults, one filter and run lengths: setting any level takes twice the time and saves 6%.
    return into_png(_encoded_by_opencv(".png", pixels), tags)


def _encoded_bmp(pixels: Pixels, tags: Tags, _quality: int) -> bytes:
    return into_bmp(_encoded_by_opencv(".bmp", pixels), tags)


def _encoded_by_opencv(suffix: str, pixels: Pixels, *parameters: int) -> bytes:
    orders = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    ordered = cv2.cvtColor(pixels, orders[pixels.shape[2]]) if pixels.shape[2] > 1 else pixels
    done, encoded = cv2.imencode(suffix, ordered, parameters)
    if not done:
        raise ValueError("OpenCV refuses it")
    return encoded.tobytes()


def _encoded_webp(pixels: Pixels, tags: Tags, quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(
        out,
        "WEBP",
        quality=quality,
        lossless=quality == 100,
        # The highest effort that costs no time; for lossless files, 2 would take four times as long.
        method=0 if quality == 100 else 2,
        icc_profile=tags.icc or b"",
        exif=tags.exif or b"",
        xmp=tags.xmp or b"",
    )
    return out.getvalue()


def _encoded_tiff(pixels: Pixels, tags: Tags, _quality: int) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    add_to_tiff(directory, tags)
    channels = pixels.shape[2]
    return encoded_samples(pixels, directory, photometric=2 if channels > 1 else 1, extra=(2,) * (channels == 4))


def encoded_samples(
    pixels: Pixels, directory: TiffImagePlugin.ImageFileDirectory_v2, *, photometric: int, extra: tuple[int, ...]
) -> bytes:
    """A TIFF file of one page, uncompressed, with samples side by side.

    Args:
        pixels: (height, width, samples).
        directory: the tags that describe the picture.
        photometric: photometric interpretation: 1 for gray, 2 for RGB.
        extra: kinds of the samples beyond these.
    """
    height, width, channels = pixels.shape
    content = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    directory[Base.ImageWidth], directory[Base.ImageLength] = width, height
    directory[Base.BitsPerSample] = (8 * pixels.itemsize,) * channels
    directory[Base.Compression], directory[Base.PhotometricInterpretation] = 1, photometric
    directory[Base.SamplesPerPixel], directory[Base.PlanarConfiguration] = channels, 1
    directory[Base.RowsPerStrip], directory[Base.StripByteCounts] = height, len(content)
    directory[Base.StripOffsets] = 0  # behind the directory: Pillow adds its length
    if extra:
        directory[Base.ExtraSamples] = extra if len(extra) > 1 else extra[0]
    out = io.BytesIO()
    directory.save(out)
    return out.getvalue() + content


def _encoded_avif(pixels: Pixels, tags: Tags, quality: int) -> bytes:
    described = {"exif": tags.exif or b"", "xmp": tags.xmp or b"", "icc_profile": tags.icc or b""}
    if pixels.dtype == np.uint16:
        return _encoded_deep_avif(pixels, described, quality)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "AVIF", quality=quality, subsampling="4:4:4", **described)
    return out.getvalue()


def _encoded_deep_avif(pixels: Pixels, described: Mapping[str, bytes], quality: int) -> bytes:
    """10 bits per channel, which Pillow does not write."""
    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    values = ((cv2.cvtColor(pixels, order).astype(np.uint32) * 1023 + 32767) // 65535).astype(np.uint16)
    kinds = {"exif": cv2.IMAGE_METADATA_EXIF, "xmp": cv2.IMAGE_METADATA_XMP, "icc_profile": cv2.IMAGE_METADATA_ICCP}
    kept = {kinds[name]: content.removeprefix(b"Exif\0\0") for name, content in described.items() if content}
    blocks = [np.frombuffer(content, np.uint8) for content in kept.values()]
    parameters = (cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, quality)
    done, encoded = cv2.imencodeWithMetadata(".avif", values, list(kept), blocks, parameters)
    if not done:
        raise ValueError("OpenCV refuses it")
    return encoded.tobytes()


def _encoded_gif(pixels: Pixels, tags: Tags, _quality: int) -> bytes:
    """256 colours, dithered; pixels that are less than half opaque become transparent."""
    opaque = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
    clear = pixels[..., 3] < 128 if pixels.shape[2] == 4 else None
    colours = opaque.quantize(256 if clear is None else 255)
    indexed = opaque.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
    options: dict[str, int] = {}
    if clear is not None:
        indexed = _with_transparent_places(indexed, clear)
        options["transparency"] = 255
    out = io.BytesIO()
    indexed.save(out, "GIF", comment=b"\n".join(tags.comments), **options)
    return out.getvalue()


def _with_transparent_places(indexed: Image.Image, clear: npt.NDArray[np.bool_]) -> Image.Image:
    places = np.where(clear, 255, np.asarray(indexed)).astype(np.uint8)
    result = Image.fromarray(places, "P")
    palette = indexed.getpalette() or []
    result.putpalette(palette[:765] + [0] * (768 - len(palette[:765])))
    return result


_ENCODERS: Mapping[str, Callable[[Pixels, Tags, int], bytes]] = {
    "JPEG": _encoded_jpeg,
    "PNG": _encoded_png,
    "WEBP": _encoded_webp,
    "TIFF": _encoded_tiff,
    "BMP": _encoded_bmp,
    "AVIF": _encoded_avif,
    "GIF": _encoded_gif,
    "JPEG2000": jpeg2000.encoded,
    "HEIF": heif.encoded,
}
