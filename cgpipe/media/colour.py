"""Colour: what a video's code values mean, and conversion to RGB and back.

The numbers are those of ITU-T H.273 (which libav and every container use): matrix coefficients, primaries and
transfer characteristics. libswscale has an enumeration of its own for matrices, used only where it is called.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict, cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from PIL import Image

from cgpipe.media import yuv
from cgpipe.media.frames import Pixels, contiguous, in_8_bits
from cgpipe.media.planar import Planar

UNSPECIFIED = 2
RGB, BT709, BT470BG, SMPTE170M, SMPTE240M, BT2020 = 0, 1, 5, 6, 7, 9
PQ, HLG = 16, 18

_SCALER_MATRIX = {
    BT709: Colorspace.ITU709,
    4: Colorspace.FCC,
    BT470BG: Colorspace.ITU601,
    SMPTE170M: Colorspace.ITU601,
    SMPTE240M: Colorspace.SMPTE240M,
    BT2020: Colorspace.BT2020,
}

# Without these two flags libswscale shares one chroma sample between two pixels and rounds downwards: every channel
# comes back about 1.2 of 255 too dark, more than half of the error allowed for a whole round trip. Above 8 bits the
# bilinear path with full chroma is wrong for 4:2:0 (errors of 90 of 255 in green); the bicubic one is right.
_TO_RGB = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_TO_DEEP_RGB = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_FROM_RGB = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
# In 16 bits, libswscale takes 255 * 256 for the white of YUV, not 65535.
_SCALER_WHITE = np.uint16(65280)


@dataclass(frozen=True, slots=True, kw_only=True)
class Colour:
    """How the code values of a stream map to colours.

    Args:
        matrix: H.273 matrix coefficients: 1 is BT.709, 5 and 6 are BT.601, 9 is BT.2020; 0 stands for RGB itself.
        full_range: whether luma runs over 0 to 255 rather than 16 to 235 (or the same in more bits).
        primaries: H.273 colour primaries; 2 where nothing is said.
        transfer: H.273 transfer characteristics; 2 where nothing is said.
        depth: bits a channel.
        guessed: whether the matrix was not tagged, and was guessed from the height.
    """

    matrix: int
    full_range: bool
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    depth: int = 8
    guessed: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Colour:
        """The colour of a decoded frame; missing tags are guessed as players do (BT.709 from 720 lines up)."""
        layout = frame.format
        colour = cls.guess(frame.height)
        colour = replace(colour, depth=max(component.bits for component in layout.components))
        if layout.is_rgb or layout.has_palette:
            return replace(colour, matrix=RGB, full_range=True)
        if frame.colorspace in _SCALER_MATRIX:
            colour = replace(
                colour,
                matrix=frame.colorspace,
                primaries=frame.color_primaries,
                transfer=frame.color_trc,
                guessed=False,
            )
        elif frame.color_trc in (PQ, HLG):
            colour = replace(colour, matrix=BT2020, primaries=frame.color_primaries, transfer=frame.color_trc)
        gray = len(layout.components) == 1 and frame.color_range == ColorRange.UNSPECIFIED
        full = frame.color_range == ColorRange.JPEG or layout.name.startswith("yuvj") or gray
        return replace(colour, full_range=full)

    @classmethod
    def guess(cls, height: int) -> Colour:
        """What players assume of an untagged picture of ``height`` lines: limited range, BT.709 or BT.601."""
        if height >= 720:
            return cls(matrix=BT709, primaries=BT709, transfer=BT709, full_range=False, guessed=True)
        primaries = BT470BG if height == 576 else SMPTE170M
        return cls(matrix=SMPTE170M, primaries=primaries, transfer=SMPTE170M, full_range=False, guessed=True)

    @property
    def is_hdr(self) -> bool:
        """Whether the transfer is PQ or HLG, which must be tone-mapped for an SDR screen or network."""
        return self.transfer in (PQ, HLG)

    @property
    def notice(self) -> str | None:
        """A notice for the user about this colour, if any."""
        if self.is_hdr:
            kind = "PQ" if self.transfer == PQ else "HLG"
            return (
                f"The clip is HDR ({kind}). The networks work on SDR, so it is tone-mapped to BT.709 (highlights above "
                "203 nits are clipped), and the output is SDR."
            )
        return None

    def written_as(self, pix_fmt: str, height: int) -> Colour:
        """The output colour for frames of this colour, encoded in the pixel format ``pix_fmt``.

        The same, with three exceptions: HDR has been tone-mapped to BT.709, an RGB source needs a matrix when it is
        encoded as YUV (limited range, as players expect), and an RGB format has no matrix.
        """
        layout = av.VideoFormat(pix_fmt)
        depth = max(component.bits for component in layout.components)
        if layout.is_rgb or layout.has_palette:
            return replace(self, matrix=RGB, full_range=True, depth=depth)
        if self.is_hdr:
            colour = replace(Colour.guess(720), full_range=self.full_range)
        elif self.matrix == RGB:
            colour = Colour.guess(height)
        else:
            colour = self
        return replace(colour, depth=depth)

    def planar(self, pix_fmt: str, height: int, width: int) -> Planar | None:
        """The layout of frames of this colour as planes; None if a matrix alone does not turn them into RGB."""
        if not _is_plain(self) or pix_fmt not in yuv.READ_FORMATS:
            return None
        return yuv.planar_of(pix_fmt, height, width, self.matrix, self.full_range)

    def tag(self, context: VideoCodecContext) -> None:
        """Sets the four tags on an encoder's context, which writes them to the bit stream and the container."""
        context.colorspace = self.matrix
        context.color_range = ColorRange.JPEG if self.full_range else ColorRange.MPEG
        context.color_primaries = self.primaries
        context.color_trc = self.transfer


class _Scaling(TypedDict, total=False):
    """Arguments of libav's scaler."""

    width: int | None
    height: int | None
    format: str
    src_colorspace: int | None
    dst_colorspace: int | None
    src_color_range: int
    dst_color_range: int
    dst_color_trc: int
    dst_color_primaries: int
    interpolation: int


class ToRgb:
    """Converts decoded frames to RGB arrays of one size: 8-bit planar YUV by :mod:`cgpipe.media.yuv`, everything else
    by libswscale.

    One scaler is kept for the whole stream: libav allocates a context for every frame otherwise, and memory grows.

    Args:
        colour: that of the stream.
        width: pixels of every array given back; frames of another size, which a stream may hold, are scaled to it.
        height: the same, in lines.
    """

    def __init__(self, colour: Colour, width: int, height: int) -> None:
        self._scaler = VideoReformatter()
        deep = colour.depth > 8 or colour.is_hdr
        self._matrix = yuv.to_rgb_matrix(colour.matrix, colour.full_range) if _is_plain(colour) else None
        self._white_is_low = deep and not (colour.is_hdr or colour.full_range)
        self._settings: _Scaling = {
            "width": width,
            "height": height,
            "format": "rgb48le" if deep else "rgb24",
            "src_colorspace": _SCALER_MATRIX.get(colour.matrix),
            "src_color_range": ColorRange.JPEG if colour.full_range else ColorRange.MPEG,
            "dst_color_range": ColorRange.JPEG,
            "interpolation": _TO_DEEP_RGB if deep else _TO_RGB,
        }
        if colour.is_hdr:
            self._settings |= {"dst_color_trc": ColorTrc.BT709, "dst_color_primaries": ColorPrimaries.BT709}

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """RGB of shape (height, width, 3): uint8, or full-range uint16 if the stream has more than 8 bits."""
        same_size = (frame.width, frame.height) == (self._settings["width"], self._settings["height"])
        if self._matrix is not None and same_size and frame.format.name in yuv.READ_FORMATS:
            return yuv.rgb_of(frame, self._matrix)
        pixels = cast(Pixels, self._scaler.reformat(frame, **self._settings).to_ndarray())
        if self._white_is_low:
            pixels = np.minimum(pixels, _SCALER_WHITE)
            pixels += pixels >> 8
        return contiguous(pixels)  # where lines are padded, the array has holes


class FromRgb:
    """Converts RGB arrays to frames for an encoder, in the same two ways.

    Args:
        colour: what the frames are to be tagged with.
        pix_fmt: libav's name of the pixel format.
        width: of the frames, if it differs from that of the arrays, which are then scaled.
    """

    def __init__(self, colour: Colour, pix_fmt: str, *, width: int | None = None) -> None:
        self._to_yuv = colour.matrix != RGB
        self._colour, self._pix_fmt, self._width = colour, pix_fmt, width
        plain = _is_plain(colour) and pix_fmt in yuv.FORMATS
        self._matrix = yuv.from_rgb_matrix(colour.matrix, colour.full_range) if plain else None
        matrix = _SCALER_MATRIX.get(colour.matrix)
        full = ColorRange.JPEG if colour.full_range else ColorRange.MPEG
        steps = [pix_fmt]
        if colour.full_range and pix_fmt in ("yuv420p", "yuv422p", "yuv444p"):
            # Straight to 8 bits of full range, libswscale rounds chroma down: blue is 0.9 of 255 too dark.
            steps.insert(0, f"{pix_fmt}14le")
        self._steps: list[tuple[VideoReformatter, _Scaling]] = []
        source_range, source_matrix = ColorRange.JPEG, None
        for step in steps:
            settings: _Scaling = {
                "format": step,
                "width": width,
                "src_colorspace": source_matrix,
                "dst_colorspace": matrix,
                "src_color_range": source_range,
                "dst_color_range": full,
                "interpolation": _FROM_RGB,
            }
            self._steps.append((VideoReformatter(), settings))
            source_range, source_matrix = full, matrix

    def __call__(self, pixels: Pixels, planar: Planar | None = None) -> av.VideoFrame:
        """A frame; ``pixels`` is RGB of shape (height, width, 3), uint8 or full-range uint16, or planes."""
        whole = contiguous(pixels)
        if planar is not None:
            return self._tagged(yuv.frame_of_planes(whole, planar, self._pix_fmt))
        if self._matrix is not None and whole.dtype == np.uint8 and self._width in (None, whole.shape[1]):
            return self._tagged(yuv.frame_of(whole, self._pix_fmt, self._matrix))
        if whole.dtype == np.uint16 and self._to_yuv:
            whole = whole - (whole >> 8)
        frame = av.VideoFrame.from_numpy_buffer(whole, "rgb24" if whole.dtype == np.uint8 else "rgb48le")
        for scaler, settings in self._steps:
            frame = scaler.reformat(frame, **settings)
        return frame

    def _tagged(self, frame: av.VideoFrame) -> av.VideoFrame:
        frame.colorspace = self._colour.matrix
        frame.color_range = ColorRange.JPEG if self._colour.full_range else ColorRange.MPEG
        return frame


def _is_plain(colour: Colour) -> bool:
    """Whether the colour is 8-bit YUV that a matrix converts to RGB and back."""
    return colour.depth == 8 and colour.matrix in yuv.LUMA_WEIGHTS and not colour.is_hdr


class ToPalette:
    """Converts RGB arrays to frames of 256 colours, each with its own palette, for GIF."""

    def __call__(self, pixels: Pixels, alpha: Pixels | None = None) -> av.VideoFrame:
        """A frame of the same size; ``pixels`` is RGB of shape (height, width, 3), uint8 or uint16.

        Pixels that are less than half opaque in ``alpha``, (height, width), get the palette's last entry.
        """
        image = Image.fromarray(in_8_bits(pixels)).quantize(
            256 if alpha is None else 255, dither=Image.Dither.FLOYDSTEINBERG
        )
        colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        palette = np.full((256, 4), 255, np.uint8)
        palette[: len(colours), 1:] = colours
        indices = np.asarray(image)
        if alpha is not None:
            indices = np.where(alpha <= np.iinfo(alpha.dtype).max // 2, np.uint8(255), indices)
            palette[255, 0] = 0
        return av.VideoFrame.from_ndarray((indices, palette), format="pal8")  # type: ignore[arg-type]  # it takes both
