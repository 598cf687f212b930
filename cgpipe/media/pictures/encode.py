"""Picture formats out: JPEG, PNG, WebP, TIFF and BMP with their tags, as bytes.

Encoding goes through OpenCV, except for WebP, which Pillow makes faster, and TIFF, where neither keeps both 16 bits
and the tags: there Pillow writes the directory, and the pixels follow as they are. (OpenCV before 4.13 writes BMP so
that others do not see the opacity.)
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import cv2
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base

from cgpipe.errors import MediaError
from cgpipe.media.frames import Pixels
from cgpipe.media.pictures.tags import Tags, add_to_tiff, into_bmp, into_jpeg, into_png

QUALITY = 95
"""Of JPEG and WebP. JPEG keeps colour at full resolution (4:4:4): on photographs that is 6 dB for 30% more bytes."""


def encode(kind: str, pixels: Pixels, tags: Tags, quality: int = QUALITY) -> bytes:
    """A whole file.

    Args:
        kind: ``JPEG``, ``PNG``, ``WEBP``, ``TIFF`` or ``BMP``.
        pixels: shape (height, width, 3 or 4), RGB and opacity; uint8, for PNG and TIFF also uint16. JPEG takes 3.
        tags: written as far as the format has a place for them.
        quality: of JPEG and WebP, 1 to 100; at 100 WebP loses nothing.

    Raises:
        MediaError: the format cannot hold so large a picture.
    """
    try:
        return _ENCODERS[kind](pixels, tags, quality)
    except (cv2.error, ValueError, OSError) as error:
        height, width = pixels.shape[:2]
        raise MediaError(f"{width}x{height} pixels cannot be written as {kind}; choose another format") from error


def _encoded_jpeg(pixels: Pixels, tags: Tags, quality: int) -> bytes:
    full_colour = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    return into_jpeg(_encoded_by_opencv(".jpg", pixels, cv2.IMWRITE_JPEG_QUALITY, quality, *full_colour), tags)


def _encoded_png(pixels: Pixels, tags: Tags, _quality: int) -> bytes:
    # OpenCV's own settings, one filter and run lengths: any level given takes twice the time and saves 6%.
    return into_png(_encoded_by_opencv(".png", pixels), tags)


def _encoded_bmp(pixels: Pixels, tags: Tags, _quality: int) -> bytes:
    return into_bmp(_encoded_by_opencv(".bmp", pixels), tags)


def _encoded_by_opencv(suffix: str, pixels: Pixels, *parameters: int) -> bytes:
    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    done, encoded = cv2.imencode(suffix, cv2.cvtColor(pixels, order), parameters)
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
        # The highest that costs no time; where nothing may be lost, 2 would take four times as long.
        method=0 if quality == 100 else 2,
        icc_profile=tags.icc or b"",
        exif=tags.exif or b"",
        xmp=tags.xmp or b"",
    )
    return out.getvalue()


def _encoded_tiff(pixels: Pixels, tags: Tags, _quality: int) -> bytes:
    height, width, channels = pixels.shape
    content = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II*\0\0\0\0\0")
    directory[Base.ImageWidth], directory[Base.ImageLength] = width, height
    directory[Base.BitsPerSample] = (8 * pixels.itemsize,) * channels
    directory[Base.Compression], directory[Base.PhotometricInterpretation] = 1, 2
    directory[Base.SamplesPerPixel], directory[Base.PlanarConfiguration] = channels, 1
    directory[Base.RowsPerStrip], directory[Base.StripByteCounts] = height, len(content)
    directory[Base.StripOffsets] = 0  # behind the directory: Pillow adds its length
    if channels == 4:
        directory[Base.ExtraSamples] = 2
    add_to_tiff(directory, tags)
    out = io.BytesIO()
    directory.save(out)
    return out.getvalue() + content


_ENCODERS: Mapping[str, Callable[[Pixels, Tags, int], bytes]] = {
    "JPEG": _encoded_jpeg,
    "PNG": _encoded_png,
    "WEBP": _encoded_webp,
    "TIFF": _encoded_tiff,
    "BMP": _encoded_bmp,
}
