"""HEIC through the package pillow-heif, which comes with the extra ``heif``."""

from __future__ import annotations

import io
from types import ModuleType

import numpy as np
import numpy.typing as npt
from PIL import Image

from cgpipe.errors import UnsupportedFormatError
from cgpipe.media.pictures.formats import BY_NAME
from cgpipe.media.pictures.tags import Tags


def register() -> ModuleType:
    """Registers the package with Pillow and returns it.

    Raises:
        UnsupportedFormatError: the package is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise UnsupportedFormatError(f"HEIC pictures need an extra. {BY_NAME['HEIF'].advice}.") from error
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()
    return pillow_heif


def decoded(file: io.BufferedReader) -> npt.NDArray[np.uint16]:
    """The pixels of a file with more than 8 bits per channel, upright: (height, width, 3 or 4), as 16 bits."""
    place = file.tell()
    file.seek(0)
    picture = register().open_heif(file, convert_hdr_to_8bit=False)
    values = np.asarray(picture)
    file.seek(place)
    bits = picture.info["bit_depth"]
    whole = (values >> (16 - bits)).astype(np.uint32)
    white = (1 << bits) - 1
    pixels: npt.NDArray[np.uint16] = ((whole * 65535 + white // 2) // white).astype(np.uint16)
    return pixels if pixels.ndim == 3 else np.dstack([pixels] * 3)


def encoded(pixels: npt.NDArray[np.unsignedinteger], tags: Tags, quality: int) -> bytes:
    """A whole file, with 10 bits per channel if the pixels have 16."""
    package, out = register(), io.BytesIO()
    described = {"exif": tags.exif or b"", "xmp": tags.xmp or b"", "icc_profile": tags.icc or b""}
    kept: dict[str, bytes | int] = {name: value for name, value in described.items() if value}
    for chunk in tags.png_colour:
        if chunk.name == b"cICP" and len(chunk.content) == 4:
            kept["color_primaries"], kept["transfer_characteristics"] = chunk.content[:2]
    mode = "RGBA" if pixels.shape[2] == 4 else "RGB"
    if pixels.dtype == np.uint16:
        mode += ";16"
    picture = package.from_bytes(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels).tobytes())
    picture.save(out, quality=quality, **kept)
    return out.getvalue()
