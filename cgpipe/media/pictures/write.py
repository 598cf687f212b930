"""Writes picture files: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.frames import Pixels
from cgpipe.media.pictures import huge
from cgpipe.media.pictures.embed import into_jpeg
from cgpipe.media.pictures.encode import GRAY, QUALITY, encode
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.formats import BY_NAME, named_format, picture_format
from cgpipe.media.pictures.planes import gray_of
from cgpipe.media.pictures.stacks import encoded_stack
from cgpipe.media.pictures.tags import Tags
from cgpipe.media.progress import Progress
from cgpipe.storage import Publish, atomic_write, shown

_Array = npt.NDArray[np.unsignedinteger]
"""uint8 or uint16: NumPy's types cannot express that a function returns the type it was given."""


def write_picture(
    path: str | os.PathLike[str],
    pixels: Pixels,
    extras: PictureExtras | None = None,
    *,
    gray: bool = False,
    format: str | None = None,
    quality: int | None = None,
    publish: Publish = os.replace,
    progress: Progress | None = None,
) -> None:
    """Writes a picture file to ``path``: whole, or not at all.

    Gray is written as gray to :data:`~cgpipe.media.pictures.encode.GRAY`, and as RGB to other formats and with alpha.
    Channels beyond RGB and alpha are a stack, for TIFF alone. PNG, TIFF and JPEG 2000 hold 16 bits per channel, AVIF
    and HEIC get 10, the others 8. JPEG has no alpha: the picture is composited on white. BMP keeps only the resolution.
    TIFF is not compressed: on photographs that would save a tenth of the size and take ten times as long.

    Args:
        pixels: shape (height, width, channels), uint8 or uint16: gray, RGB, RGB with alpha, or a stack.
        extras: what the picture was read with; None: there is nothing to keep.
        gray: write RGB as gray.
        format: a name for :func:`~cgpipe.media.pictures.formats.named_format`; None: by the suffix of ``path``, or else
            the format that was read.
        quality: of lossy formats, 1 to 100; 100 is lossless for WebP. None: :data:`QUALITY`, or lossless if the picture
            was read from lossless WebP.
        publish: moves the finished file into place.
        progress: called with a picture that is written line by line.

    Raises:
        MediaError: the format cannot hold the picture (too many channels, or a side is too long), or the file cannot be
            written.
        UsageError: the format or the quality is invalid.
    """
    extras = extras or PictureExtras(format=picture_format(path) or "PNG", size=pixels.shape[:2])
    kind = format_to_write(path, extras, format)
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"The quality must be between 1 and 100, not {quality}.")
    quality = quality or (100 if kind == "WEBP" and extras.lossless else QUALITY)
    by_lines = huge.is_written_here(pixels)
    encoded = b"" if by_lines else _encoded(kind, gray_of(pixels) if gray else pixels, extras, quality)
    with _written(path, publish) as temporary:
        if by_lines:
            huge.write_huge(temporary, pixels, extras, kind, quality, progress or Progress(), gray=gray)
        else:
            temporary.write_bytes(encoded)


def format_to_write(path: str | os.PathLike[str], extras: PictureExtras, format: str | None = None) -> str:
    """The name of the format in which :func:`write_picture` writes to ``path``."""
    return named_format(format) if format else picture_format(path) or extras.format


def write_jpeg(
    path: str | os.PathLike[str], content: bytes | memoryview, tags: Tags, *, publish: Publish = os.replace
) -> None:
    """Writes a JPEG that is encoded already, with its tags: whole, or not at all.

    Args:
        content: the file, which begins with a JFIF segment.

    Raises:
        MediaError: the file cannot be written.
    """
    with _written(path, publish) as temporary:
        temporary.write_bytes(into_jpeg(content, tags))


@contextmanager
def _written(path: str | os.PathLike[str], publish: Publish) -> Iterator[Path]:
    try:
        with atomic_write(path, publish=publish) as temporary:
            yield temporary
    except OSError as error:
        raise MediaError(f"{shown(path)} cannot be written: {error.strerror or error}.") from error


def _encoded(kind: str, pixels: Pixels, extras: PictureExtras, quality: int) -> bytes:
    channels = pixels.shape[2]
    if channels in (1, 3):
        tags = replace(extras.tags, icc=None) if channels == 1 else extras.tags  # a profile of RGB
        return encode(kind, _composed(pixels, extras.alpha, kind), tags, quality)
    if channels == 4 and extras.stack is None:
        return encode(kind, _composed(pixels[..., :3], pixels[..., 3], kind), extras.tags, quality)
    if kind != "TIFF":
        raise MediaError(
            f"{channels} channels can be written as TIFF alone, not as {BY_NAME[kind].title}: use --format tiff."
        )
    return encoded_stack(pixels, extras.tags, extras.stack or "pages")


def _composed(pixels: _Array, alpha: _Array | None, kind: str) -> _Array:
    """The encoder's input: (height, width, 1, 3 or 4), in the bit depth that the format holds."""
    if pixels.shape[2] == 1 and (alpha is not None or kind not in GRAY):
        pixels = pixels.repeat(3, axis=2)
    pixels = _in_depth(pixels, pixels.dtype if BY_NAME[kind].bits > 8 else np.dtype(np.uint8))
    if alpha is None:
        return pixels
    alpha = _in_depth(alpha, pixels.dtype)
    if kind != "JPEG":
        return np.dstack([pixels, alpha])
    white = np.iinfo(pixels.dtype).max
    opacity = alpha[..., None].astype(np.float32) / white
    return np.rint(pixels * opacity + white * (1 - opacity)).astype(pixels.dtype)


def _in_depth(values: _Array, dtype: np.dtype[np.unsignedinteger]) -> _Array:
    if values.dtype == dtype:
        return values
    if dtype == np.uint8:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values.astype(np.uint16) * np.uint16(257)
