"""8-bit planar YUV, the format of most clips, to RGB and back: one product with the standard's matrix.

libswscale's fast paths for these formats round every channel down, and its exact ones take three times as long as this:
a tenth of a whole 1920x1080 job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cgpipe.media.frames import Pixels
from cgpipe.media.planar import Planar

if TYPE_CHECKING:
    import av
    from av.video.plane import VideoPlane

FORMATS = ("yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p")
READ_FORMATS = (*FORMATS, "nv12")
"""These and 4:2:0 as hardware decodes it, with its chroma in one plane."""

LUMA_WEIGHTS: Mapping[int, tuple[float, float]] = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""Weights of red and blue in luma, by H.273 matrix coefficients."""


@lru_cache
def to_rgb_matrix(matrix: int, full_range: bool) -> NDArray[np.float64]:
    """The matrix (3, 4) from 8-bit Y, Cb, Cr and 1 to R, G and B in 0 to 255."""
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    luma, chroma, black = (1.0, 2.0, 0) if full_range else (255 / 219, 2 * 255 / 224, 16)
    to_red, to_blue = chroma * (1 - red), chroma * (1 - blue)
    product = np.array([[luma, 0, to_red], [luma, -to_blue * blue / green, -to_red * red / green], [luma, to_blue, 0]])
    return np.column_stack([product, product @ (-black, -128, -128)])


@lru_cache
def from_rgb_matrix(matrix: int, full_range: bool) -> NDArray[np.float64]:
    """The matrix (3, 4) from R, G, B and 1, in 0 to 255, to 8-bit Y, Cb and Cr."""
    forward = to_rgb_matrix(matrix, full_range)
    product = np.linalg.inv(forward[:, :3])
    return np.column_stack([product, -product @ forward[:, 3]])


Turn = Callable[[Pixels], Pixels]


def _as_it_is(pixels: Pixels) -> Pixels:
    return pixels


def planar_of(pix_fmt: str, height: int, width: int, matrix: int, full_range: bool) -> Planar:
    """The layout of frames in one of :data:`READ_FORMATS`."""
    import av  # only for videos: pictures start without

    layout = av.VideoFormat(pix_fmt, 2, 2)
    down, across = 2 // layout.chroma_height(2), 2 // layout.chroma_width(2)
    return Planar(height=height, width=width, down=down, across=across, matrix=matrix, full_range=full_range)


def has_layout(frame: av.VideoFrame, planar: Planar) -> bool:
    """Whether a frame's planes are those of a layout."""
    if frame.format.name not in READ_FORMATS:
        return False
    return planar_of(frame.format.name, frame.height, frame.width, planar.matrix, planar.full_range) == planar


def planes_of(frame: av.VideoFrame, planar: Planar, turn: Turn = _as_it_is) -> Pixels:
    """The bytes (1, bytes, 1) of a frame in one of :data:`READ_FORMATS`.

    Args:
        planar: the layout that the frame has when each of its planes is turned.
        turn: takes and gives (height, width, 1).
    """
    packed = np.empty((1, sum(planar.sizes), 1), np.uint8)
    for rows, values in zip(_parts(packed, planar), _values(frame), strict=True):
        rows[:] = turn(values[..., None])[..., 0]
    return packed


def frame_of_planes(packed: Pixels, planar: Planar, pix_fmt: str) -> av.VideoFrame:
    """Such bytes as a frame in one of :data:`FORMATS`."""
    import av

    frame = av.VideoFrame(planar.width, planar.height, pix_fmt)
    for plane, values in zip(frame.planes, _parts(packed, planar), strict=True):
        _rows(plane)[:] = values
    return frame


def _parts(packed: Pixels, planar: Planar) -> Iterator[NDArray[np.uint8]]:
    """Views of the planes, each (height, width)."""
    parts = np.split(packed.reshape(-1), np.cumsum(planar.sizes)[:-1])
    for part, shape in zip(parts, planar.shapes, strict=True):
        yield np.asarray(part, np.uint8).reshape(shape)


def rgb_of(frame: av.VideoFrame, matrix: NDArray[np.float64]) -> Pixels:
    """A frame in one of :data:`READ_FORMATS` as RGB, (height, width, 3) uint8, by a matrix (3, 4)."""
    luma, *chroma = _values(frame)
    yuv = cv2.merge([luma, *(_enlarged(plane, luma) for plane in chroma)])
    return np.asarray(cv2.transform(yuv, matrix), np.uint8)


def frame_of(pixels: Pixels, pix_fmt: str, matrix: NDArray[np.float64]) -> av.VideoFrame:
    """RGB, (height, width, 3) uint8, as a frame in one of :data:`FORMATS`, by a matrix (3, 4)."""
    height, width = pixels.shape[:2]
    import av

    frame = av.VideoFrame(width, height, pix_fmt)
    for plane, values in zip(frame.planes, cv2.split(cv2.transform(pixels, matrix)), strict=True):
        rows = _rows(plane)
        rows[:] = _reduced(np.asarray(values, np.uint8), rows)
    return frame


def _values(frame: av.VideoFrame) -> list[NDArray[np.uint8]]:
    """Luma and the two planes of chroma."""
    if frame.format.name != "nv12":
        return [_rows(plane) for plane in frame.planes]
    luma, both = frame.planes
    memory: Any = both
    pairs = np.frombuffer(memory, np.uint8).reshape(both.height, -1)[:, : 2 * both.width]
    return [_rows(luma), *np.asarray(cv2.split(pairs.reshape(both.height, -1, 2)), np.uint8)]


def _rows(plane: VideoPlane) -> NDArray[np.uint8]:
    """A view of a plane's values, (height, width)."""
    memory: Any = plane  # of the buffer protocol, which numpy's types know of some classes only
    return np.frombuffer(memory, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def _enlarged(chroma: NDArray[np.uint8], luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A chroma plane at the size of luma; each sample sits in the middle of the pixels that share it."""
    if chroma.shape == luma.shape:
        return chroma
    down, across = (-(-whole // part) for whole, part in zip(luma.shape, chroma.shape, strict=True))
    whole = cv2.resize(chroma, None, fx=across, fy=down, interpolation=cv2.INTER_LINEAR)
    return np.asarray(whole, np.uint8)[: luma.shape[0], : luma.shape[1]]


def _reduced(values: NDArray[np.uint8], rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Values averaged down to the size of a plane."""
    if values.shape == rows.shape:
        return values
    down, across = (-(-whole // part) for whole, part in zip(values.shape, rows.shape, strict=True))
    (height, width), (lines, columns) = values.shape, rows.shape
    below, right = lines * down - height, columns * across - width
    if below or right:
        values = np.asarray(cv2.copyMakeBorder(values, 0, below, 0, right, cv2.BORDER_REPLICATE), np.uint8)
    return np.asarray(cv2.resize(values, (columns, lines), interpolation=cv2.INTER_AREA), np.uint8)
