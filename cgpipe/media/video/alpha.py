"""Alpha: from decoded frames, and into frames for an encoder that keeps it."""

from __future__ import annotations

from typing import Any, cast

import av
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from cgpipe.media.colour import Colour, FromRgb, ToPalette
from cgpipe.media.frames import Pixels, at_size, reduced
from cgpipe.media.planar import Planar
from cgpipe.media.video.clip import Alpha

_Values = NDArray[np.unsignedinteger]
# Formats whose decoders add an opaque alpha that the file does not have.
_OFTEN_OPAQUE = ("bgra", "rgba", "argb", "abgr", "pal8")


def has_alpha(pix_fmt: str) -> bool:
    """Whether a pixel format has alpha."""
    layout = av.VideoFormat(pix_fmt)
    return layout.has_palette or any(component.is_alpha for component in layout.components)


def has_alpha_mode(stream: av.stream.Stream) -> bool:
    """Whether a WebM says that alpha is stored beside the packets of a stream."""
    return any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())


def is_transparent(frame: av.VideoFrame) -> bool:
    """Whether a clip that begins with this frame has alpha worth keeping."""
    name = frame.format.name
    if not has_alpha(name):
        return False
    return name not in _OFTEN_OPAQUE or bool((alpha_of(frame) < 255).any())


def alpha_of(frame: av.VideoFrame) -> Alpha:
    """The alpha of a frame whose format has it: (height, width), uint8 or full-range uint16."""
    bits = max(component.bits for component in frame.format.components)
    if frame.format.name.startswith("yuva"):
        values = _rows(frame.planes[3], bits)
    else:
        packed = frame.reformat(format="rgba" if bits <= 8 else "rgba64le").to_ndarray()
        values, bits = cast(_Values, packed[..., 3]), 8 * packed.itemsize
    alpha: Alpha = _scaled(values, bits, 8 if bits <= 8 else 16)
    return alpha


def with_alpha(pixels: Pixels, alpha: Alpha) -> Pixels:
    """RGB (height, width, 3) and its alpha as (height, width, 4), in the pixels' dtype."""
    depth = 8 * pixels.itemsize
    return np.dstack([pixels, _scaled(alpha, 8 * alpha.itemsize, depth)])


class ToFrame:
    """Converts RGB arrays, with their alpha, to frames for an encoder.

    Args:
        colour: what the frames are to be tagged with.
        pix_fmt: libav's name of the pixel format; if it has no alpha, that of the arrays is dropped.
        width: of the frames, if it differs from that of the arrays.
    """

    def __init__(self, colour: Colour, pix_fmt: str, *, width: int) -> None:
        self._pix_fmt, self._width = pix_fmt, width
        self._palette = ToPalette()
        self._from_rgb = FromRgb(colour, pix_fmt.replace("yuva", "yuv"), width=width)
        self._scaler = VideoReformatter()

    def __call__(self, pixels: Pixels, alpha: Alpha | None, planar: Planar | None = None) -> av.VideoFrame:
        """A frame; ``pixels`` is RGB of shape (height, width, 3), uint8 or full-range uint16, or planes."""
        if self._pix_fmt == "pal8":
            height = len(pixels)
            opacity = None if alpha is None else fitted(alpha, self._width, height)
            return self._palette(at_size(pixels, height, self._width), opacity)
        if not has_alpha(self._pix_fmt):
            return self._from_rgb(pixels, planar)
        opacity = np.full(pixels.shape[:2], np.iinfo(pixels.dtype).max, pixels.dtype) if alpha is None else alpha
        if self._pix_fmt.startswith("yuva"):
            return add_alpha(self._from_rgb(pixels), self._pix_fmt, opacity)
        whole = with_alpha(pixels, opacity)
        frame = av.VideoFrame.from_numpy_buffer(whole, "rgba" if whole.itemsize == 1 else "rgba64le")
        return self._scaler.reformat(frame, format=self._pix_fmt, width=self._width)


def add_alpha(frame: av.VideoFrame, pix_fmt: str, alpha: Alpha) -> av.VideoFrame:
    """A planar YUV frame in the format ``pix_fmt``, which is its own plus alpha."""
    result = av.VideoFrame(frame.width, frame.height, pix_fmt)
    bits = max(component.bits for component in result.format.components)
    for mine, theirs in zip(result.planes, frame.planes, strict=False):
        _rows(mine, bits)[:] = _rows(theirs, bits)
    _rows(result.planes[3], bits)[:] = _scaled(fitted(alpha, frame.width, frame.height), 8 * alpha.itemsize, bits)
    result.colorspace, result.color_range = frame.colorspace, frame.color_range
    return result


def fitted(alpha: Alpha, width: int, height: int) -> Alpha:
    """Alpha resized."""
    if alpha.shape == (height, width):
        return alpha
    return reduced(alpha, height, width)


def _rows(plane: VideoPlane, bits: int) -> _Values:
    """A view of a plane's values, (height, width)."""
    memory: Any = plane  # as in cgpipe.media.yuv
    values: _Values = np.frombuffer(memory, np.uint8 if bits <= 8 else np.dtype("<u2"))
    return values.reshape(-1, plane.line_size // values.itemsize)[: plane.height, : plane.width]


def _scaled(values: _Values, bits: int, wanted: int) -> _Values:
    """Values scaled from ``bits`` bits to ``wanted``; white stays white."""
    dtype = np.uint8 if wanted <= 8 else np.uint16
    if bits == wanted:
        return np.ascontiguousarray(values, dtype)
    white, highest = (1 << bits) - 1, (1 << wanted) - 1
    return ((values.astype(np.uint32) * highest + white // 2) // white).astype(dtype)
