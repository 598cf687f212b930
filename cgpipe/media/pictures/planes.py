"""Pictures with as many channels as a network takes."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import cast

import cv2
import numpy as np

from cgpipe.errors import MediaError
from cgpipe.media.frames import Frame, Pixels, contiguous
from cgpipe.media.pictures.extras import PictureExtras
from cgpipe.media.pictures.read import read_picture
from cgpipe.media.pictures.stacks import find_stack, read_stack


def read_planes(path: str | os.PathLike[str], channels: int) -> Frame[PictureExtras]:
    """Reads a picture with so many channels, (height, width, channels), uint8 or uint16.

    Three are RGB. One is gray, or the luma of RGB. Four are RGB and opacity, which is white where the file has none.
    Any number but three is also read from a TIFF stack of that many channels.

    Raises:
        MediaError: as :func:`~cgpipe.media.pictures.read.read_picture`, or the file has other channels.
        UnsupportedFormatError: likewise.
    """
    stack = find_stack(path) if channels not in (1, 3) else None
    if stack is not None:
        if stack.channels != channels:
            raise MediaError(f"It has {stack.channels} {_NAMES[stack.kind]}, but {channels} channels are needed.")
        return read_stack(path, stack)
    frame = read_picture(path)
    if channels == 3:
        return frame
    if channels == 1:
        return replace(frame, pixels=gray_of(frame.pixels))
    if channels == 4:
        opaque = _with_opacity(frame.pixels, frame.origin.alpha)
        return Frame(pixels=opaque, origin=replace(frame.origin, alpha=None))
    has = "1 channel (gray)" if frame.origin.gray else "3 channels (RGB)"
    raise MediaError(f"It has {has}, but {channels} are needed: save it as a TIFF of {channels} pages or channels.")


def read_view(path: str | os.PathLike[str], *, reduced_to: int | None = None) -> Frame[PictureExtras]:
    """A picture to look at: as by :func:`~cgpipe.media.pictures.read.read_picture`, of a TIFF stack three channels.

    Raises:
        MediaError, UnsupportedFormatError: it cannot be read.
    """
    stack = find_stack(path)
    if stack is None:
        return read_picture(path, reduced_to=reduced_to)
    frame = read_stack(path, stack)
    first = frame.pixels[..., :3] if stack.channels > 2 else frame.pixels[..., :1].repeat(3, axis=2)
    return replace(frame, pixels=contiguous(first))


def gray_of(pixels: Pixels) -> Pixels:
    """The luma of RGB (height, width, 3) as (height, width, 1), in the same type; of gray the exact values."""
    if pixels.shape[2] == 1:
        return pixels
    return cast(Pixels, cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None])


_NAMES = {"pages": "pages", "samples": "channels"}


def _with_opacity(pixels: Pixels, alpha: Pixels | None) -> Pixels:
    white = np.full(pixels.shape[:2], np.iinfo(pixels.dtype).max, pixels.dtype)
    return cast(Pixels, np.dstack([pixels, white if alpha is None else alpha]))
