"""Pixels of an opened picture.

Pillow reads the header and the tags, and decodes all but two kinds: JPEG, for which OpenCV takes half the time, and
16 bits a channel, of which Pillow keeps 8. OpenCV 4.12 is the first that refuses a JPEG cut short. (torchvision would
decode JPEG as fast, but gives up its decoders, and the one for PNG brings the process down on a damaged file.) Both
libraries release the interpreter's lock and can be called from several threads.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base

from cgpipe.media.pictures import heif, png
from cgpipe.media.pictures.depth import bytes_of, is_jpeg
from cgpipe.media.pictures.profiles import from_cmyk
from cgpipe.media.pictures.quiet import c_warnings_hidden

_Array = npt.NDArray[np.unsignedinteger]
"""uint8 or uint16: NumPy's types cannot express that a function returns the type it was given."""


def decoded(image: Image.Image, file: io.BufferedReader, bits: int, reduced_to: int | None) -> _Array:
    """Array of shape (height, width, 3 or 4): RGB, and alpha if there is one."""
    if image.mode == "CMYK":
        return np.array(from_cmyk(image))
    if bits > 8:
        return heif.decoded(file) if image.format == "HEIF" else _decoded_deep(image, file, bits)
    if is_jpeg(image) and not _reduced(image, reduced_to):
        return _decoded_by_opencv(file, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, np.uint8)
    if image.has_transparency_data:
        return np.array(image.convert("RGBA"))
    return np.array(image.convert("RGB"))  # which only decodes what is RGB already


def _reduced(image: Image.Image, reduced_to: int | None) -> bool:
    """Lets the image be decoded at a fraction of its size, if wanted and possible."""
    size = image.size
    if reduced_to:
        image.draft(None, (reduced_to, reduced_to))
    return image.size != size


def _decoded_by_opencv(file: io.BufferedReader, flags: int, dtype: type[np.unsignedinteger]) -> _Array:
    content = bytes_of(file)
    if png.ends_in_a_chunk(content):  # OpenCV would ask for as much memory as the chunk says that it holds
        raise ValueError("it ends within a chunk")
    with c_warnings_hidden():  # of libjpeg and others, which know no name of a file
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if decoded is None or decoded.dtype != dtype:
        raise ValueError("its pixels cannot be decoded")
    return np.asarray(decoded, dtype)


def _decoded_deep(image: Image.Image, file: io.BufferedReader, bits: int) -> _Array:
    """More than 8 bits per channel, as 16."""
    decoded = _decoded_by_opencv(file, cv2.IMREAD_UNCHANGED, np.uint16)
    channels = decoded.shape[2] if decoded.ndim == 3 else 1
    pixels = np.asarray(cv2.cvtColor(decoded, _TO_RGB[channels]), np.uint16)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _true_values(pixels, image.tag_v2)
    if image.format == "PNG" and channels == 1:
        return _with_transparent_gray(pixels, image.info.get("transparency"))
    return pixels if bits == 16 else whole_range(pixels, bits)


def _true_values(pixels: _Array, tags: TiffImagePlugin.ImageFileDirectory_v2) -> _Array:
    """Two peculiarities of TIFF that OpenCV leaves to us: inverted gray and premultiplied alpha."""
    if tags.get(Base.PhotometricInterpretation) == 0:
        pixels = 65535 - pixels
    if tags.get(Base.ExtraSamples) == (1,):
        opacity = np.maximum(pixels[..., 3:].astype(np.float32), 1) / 65535
        pixels[..., :3] = np.minimum(np.rint(pixels[..., :3] / opacity), 65535)
    return pixels


def _with_transparent_gray(pixels: _Array, transparent: int | None) -> _Array:
    """A PNG may declare one gray value transparent, which OpenCV ignores in 16 bits."""
    if transparent is None:
        return pixels
    return np.dstack([pixels, np.where(pixels[..., 0] == transparent, 0, 65535).astype(np.uint16)])


def whole_range(pixels: _Array, bits: int) -> _Array:
    """Values of ``bits`` bits scaled to the range of 16: white stays white."""
    return ((pixels.astype(np.uint32) * 65535 + (1 << bits) // 2) // ((1 << bits) - 1)).astype(np.uint16)


_TO_RGB = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}

TURNS: Mapping[int, Callable[[Any], Any]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""How pixels of each EXIF orientation are turned upright."""
