"""Thumbnails for a page, and larger pictures in place of formats that browsers do not show."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from cgpipe.errors import MediaError
from cgpipe.media.frames import Pixels, in_8_bits
from cgpipe.media.pictures.formats import kind_of_file
from cgpipe.media.pictures.planes import read_view
from cgpipe.media.pictures.read import is_animation
from cgpipe.storage import atomic_write, fetched

WIDTH, HEIGHT = 480, 240
"""Bounds of a thumbnail in pixels."""

LARGE = 2048
"""Long side, in pixels, of the picture that replaces one that browsers do not show."""

QUALITY = 82

SHOWN = frozenset(("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"))
"""Formats that every browser shows."""

Small = npt.NDArray[np.uint8]


class Seen(NamedTuple):
    """A picture for a page.

    Args:
        small: RGB, (height, width, 3), uint8, within :data:`WIDTH` and :data:`HEIGHT`.
        height, width: of the picture itself, in pixels.
        large: a larger one, if browsers do not show the picture's format; None otherwise.
    """

    small: Small
    height: int
    width: int
    large: Small | None


def see(path: Path) -> Seen:
    """Reads a picture for a page: upright, in 8 bits, the first frame of an animation.

    Raises:
        MediaError: it cannot be read.
    """
    with fetched(path) as here:
        kind = kind_of_file(here)
        shown = kind is not None and kind.format in SHOWN
        pixels, size = _read(here, reduced_to=HEIGHT if shown else None)
    return Seen(fitted(pixels, WIDTH, HEIGHT), *size, None if shown else fitted(pixels, LARGE, LARGE))


def _read(path: Path, reduced_to: int | None) -> tuple[Small, tuple[int, int]]:
    """A picture in 8 bits, composited on white, and its own height and width."""
    try:
        frame = read_view(path, reduced_to=reduced_to)
    except MediaError:
        if not is_animation(path):
            raise
        with Image.open(path) as image:
            first = np.asarray(image.convert("RGB"))
        return first, (first.shape[0], first.shape[1])
    return _on_white(in_8_bits(frame.pixels), frame.origin.alpha), frame.origin.size


def _on_white(pixels: Small, alpha: Pixels | None) -> Small:
    if alpha is None:
        return pixels
    share = (alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)[..., None]
    return (pixels * share + 255 * (1 - share)).round().astype(np.uint8)


def fitted(pixels: Small, width: int, height: int) -> Small:
    """A picture reduced to fit; smaller ones are returned unchanged."""
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    if scale >= 1:
        return pixels
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def change(before: Small, after: Small) -> float:
    """Mean absolute difference of two small pictures, in levels of 255."""
    if before.shape != after.shape:  # decoded at another fraction of their size
        before = cv2.resize(before, after.shape[1::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return float(cv2.absdiff(before, after).mean())


def save(path: Path, pixels: Small) -> None:
    """Writes a picture as JPEG; raises OSError on failure."""
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    with atomic_write(path) as partial:
        partial.write_bytes(data.tobytes())
