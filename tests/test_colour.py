"""Colour: code values to RGB and back, against the formulas of the standards."""

from __future__ import annotations

from dataclasses import replace

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from clips import picture

from cgpipe.media.colour import BT709, BT2020, HLG, PQ, RGB, SMPTE170M, Colour, FromRgb, ToRgb

WEIGHTS = {BT709: (0.2126, 0.0722), SMPTE170M: (0.299, 0.114), BT2020: (0.2627, 0.0593)}
COLOURS = [(200, 30, 60), (12, 180, 240), (128, 128, 128), (255, 255, 255), (0, 0, 0)]
SPACES = [(matrix, full) for matrix in WEIGHTS for full in (False, True)]


def code_values(rgb: tuple[int, int, int], matrix: int, full_range: bool, depth: int) -> list[int]:
    """Y, Cb and Cr as ITU-R BT.601, BT.709 and BT.2020 define them."""
    red, green, blue = (value / 255 for value in rgb)
    kr, kb = WEIGHTS[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = [(blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)]
    unit, top = 2 ** (depth - 8), 2**depth - 1
    if full_range:
        values = [luma * top, *(value * top + 128 * unit for value in chroma)]
    else:
        values = [(219 * luma + 16) * unit, *((224 * value + 128) * unit for value in chroma)]
    return [min(round(value), top) for value in values]


def flat_frame(rgb: tuple[int, int, int], matrix: int, full_range: bool, depth: int = 8) -> av.VideoFrame:
    dtype = np.uint8 if depth == 8 else np.uint16
    planes = np.stack([np.full((32, 48), value, dtype) for value in code_values(rgb, matrix, full_range, depth)])
    frame = av.VideoFrame(48, 32, "yuv444p" if depth == 8 else "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((32, plane.line_size // values.itemsize), dtype)
        rows[:, :48] = values
        plane.update(rows.tobytes())
    frame.colorspace = matrix
    frame.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
    return frame


@pytest.mark.parametrize(("matrix", "full_range"), SPACES)
@pytest.mark.parametrize("depth", [8, 10])
def test_code_values_become_the_rgb_of_the_standard(matrix: int, full_range: bool, depth: int) -> None:
    for rgb in COLOURS:
        frame = flat_frame(rgb, matrix, full_range, depth)
        pixels = ToRgb(Colour.of(frame), 48, 32)(frame)
        scale = 1 if depth == 8 else 257
        assert pixels.dtype == (np.uint8 if depth == 8 else np.uint16)
        assert np.abs(pixels / scale - rgb).max() <= 1


@pytest.mark.parametrize(("matrix", "full_range"), SPACES)
def test_rgb_becomes_the_code_values_of_the_standard(matrix: int, full_range: bool) -> None:
    convert = FromRgb(Colour(matrix=matrix, full_range=full_range), "yuv444p")
    for rgb in COLOURS:
        planes = convert(np.full((32, 48, 3), rgb, np.uint8)).to_ndarray()
        assert np.abs(planes[:, 5, 5].astype(int) - code_values(rgb, matrix, full_range, 8)).max() <= 1


@pytest.mark.parametrize("size", [(96, 64), (97, 65), (130, 50)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv420p10le", "yuv444p", "gbrp", "bgr0", "gray10le"])
def test_there_and_back(pix_fmt: str, size: tuple[int, int]) -> None:
    width, height = size
    pixels = picture(3, width, height)
    if pix_fmt.startswith("gray"):
        pixels[:] = pixels.mean(2, keepdims=True)
    colour = Colour.guess(height).written_as(pix_fmt, height)
    frame = FromRgb(colour, pix_fmt)(pixels)
    read = Colour.of(frame)
    back = ToRgb(read, width, height)(frame)
    assert back.shape == pixels.shape
    assert back.flags.c_contiguous
    error = np.abs(back / (1 if back.dtype == np.uint8 else 257) - pixels)
    assert error.mean() <= 1.2


def test_ten_bits_are_kept() -> None:
    ramp = np.linspace(0, 65535, 1024).astype(np.uint16)
    pixels = np.repeat(np.tile(ramp, (16, 1))[..., None], 3, -1)
    colour = Colour(matrix=BT709, full_range=False, depth=10)
    back = ToRgb(colour, 1024, 16)(FromRgb(colour, "yuv420p10le")(pixels))
    assert len(np.unique(back[8, :, 1])) > 800
    assert np.abs(back.astype(int) - pixels).max() < 65535 / 800


@pytest.mark.parametrize(("height", "matrix"), [(719, SMPTE170M), (720, BT709), (480, SMPTE170M), (1080, BT709)])
def test_untagged_is_guessed_from_the_height(height: int, matrix: int) -> None:
    colour = Colour.of(av.VideoFrame(320, height, "yuv420p"))
    assert (colour.matrix, colour.full_range, colour.guessed) == (matrix, False, True)


def test_rgb_sources_get_a_matrix_when_written_as_yuv() -> None:
    colour = Colour.of(av.VideoFrame(64, 48, "bgra"))
    assert colour.matrix == RGB
    written = colour.written_as("yuv420p", 48)
    assert (written.matrix, written.full_range) == (SMPTE170M, False)
    assert Colour.guess(48).written_as("gbrp", 48).matrix == RGB


TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""From linear RGB in BT.709, as ITU-R BT.2087 has it."""


def hdr_patches(signal: np.ndarray, transfer: int) -> np.ndarray:
    """Patches of a signal in BT.2020, (N, 3) from 0 to 1, coded in 10 bits and read: (N, 3), on the scale of 255."""
    pixels = np.tile(signal.repeat(16, 0) * 65535, (32, 1, 1)).astype(np.uint16)
    frame = FromRgb(Colour(matrix=BT2020, full_range=False, depth=10), "yuv420p10le")(pixels)
    frame.color_trc, frame.color_primaries = transfer, BT2020
    read = ToRgb(Colour.of(frame), 16 * len(signal), 32)(frame)
    assert read.dtype == np.uint16
    return read[16, 8::16] / 257


def pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084."""
    power = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def on_screen(nits: np.ndarray) -> np.ndarray:
    """ITU-R BT.1886, white as in BT.2408; on the scale of 255."""
    return 255 * np.clip(nits / 203, 0, 1) ** (1 / 2.4)


@pytest.mark.slow
def test_hdr_is_brought_to_what_an_ordinary_screen_shows() -> None:
    grey = np.array([0.0, 5.0, 50.0, 100.0, 203.0, 1000.0])[:, None].repeat(3, 1)
    nits = np.concatenate([grey, [[160, 30, 12], [6, 20, 120]]])  # and a red and a blue of BT.709
    assert np.abs(hdr_patches(pq(nits @ TO_BT2020.T), PQ) - on_screen(nits)).max() < 4


@pytest.mark.slow
def test_hlg_is_brought_to_what_an_ordinary_screen_shows() -> None:
    signal = np.array([0.0, 0.25, 0.5, 0.75, 1.0])[:, None].repeat(3, 1)
    nits = np.array([0.0, 9.61, 50.7, 203.2, 1000.0])[:, None]  # by ITU-R BT.2100, on a screen of 1000 nits
    assert np.abs(hdr_patches(signal, HLG) - on_screen(nits)).max() < 4


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_is_said_to_be_hdr_and_written_as_bt709(transfer: int) -> None:
    colour = Colour(matrix=BT2020, primaries=BT2020, transfer=transfer, full_range=False, depth=10)
    assert colour.is_hdr
    assert "HDR" in str(colour.notice)
    written = colour.written_as("yuv420p", 32)
    assert (written.matrix, written.transfer, written.primaries) == (BT709, BT709, BT709)
    assert replace(colour, transfer=BT709).notice is None
