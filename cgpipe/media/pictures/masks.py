"""Masks: grayscale pictures that confine the change. White is translated, black keeps the original bit for bit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cgpipe.errors import MediaError, UsageError, reason_of
from cgpipe.media.frames import Frame, Origin, Pixels, in_8_bits
from cgpipe.media.pictures import huge
from cgpipe.media.pictures.formats import PICTURE_SUFFIXES, picture_format
from cgpipe.media.pictures.read import read_picture
from cgpipe.storage import LOCAL, fetched, shown, store_of

Mask = npt.NDArray[np.uint8]
"""Shape (height, width); 255 lets the whole change through, 0 nothing of it."""

SOFT_EDGE = 0.01
"""Width of the soft edge inside a white area, as a fraction of the picture's short side."""

NEARLY = 4
"""Tolerance around black and white, in levels: lossy formats seldom hit them exactly."""

ASPECT_TOLERANCE = 0.02
"""Relative difference that a mask's aspect ratio may have from its picture's."""


def fit(mask: Mask, height: int, width: int) -> Mask:
    """The mask at a picture's size, its edges soft.

    The soft edge lies inside the white area: black stays black, and white more than the edge's width away from black
    stays white. Grey areas keep their level, and edges that are wide already move inwards by half that width.

    Raises:
        TypeError: the mask is not uint8.
        ValueError: the mask does not have two dimensions.
        MediaError: the mask's aspect ratio differs from the picture's.
    """
    if mask.dtype != np.uint8:
        raise TypeError(f"A mask must be uint8, not {mask.dtype}.")
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"A mask must have shape (height, width), not {mask.shape}.")
    require_same_aspect(mask, height, width)
    reduces = mask.shape[0] > height
    resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA if reduces else cv2.INTER_LINEAR)
    levels = np.clip((np.arange(256) - NEARLY) * 255 / (255 - 2 * NEARLY), 0, 255).round().astype(np.uint8)
    clear = cv2.LUT(resized, levels)
    reach = max(1, round(SOFT_EDGE / 2 * min(height, width)))
    window = (2 * reach + 1, 2 * reach + 1)
    # The mean of local minima never exceeds the original value.
    least = cv2.erode(clear, np.ones(window, np.uint8))
    return np.asarray(cv2.blur(least, window, borderType=cv2.BORDER_REPLICATE), np.uint8)


def require_same_aspect(mask: Mask, height: int, width: int) -> None:
    """Raises MediaError if a mask's aspect ratio differs from that of a picture of this size."""
    if abs(mask.shape[1] * height / (mask.shape[0] * width) - 1) > ASPECT_TOLERANCE + 1 / min(height, width):
        raise MediaError(
            f"The mask is {mask.shape[1]}x{mask.shape[0]} pixels and the picture {width}x{height}: both must have the "
            "same aspect ratio."
        )


def confined(frame: Frame[Origin], mask: Mask) -> Frame[Origin]:
    """The frame with a mask of any size as its fourth channel.

    Raises:
        MediaError: the mask's aspect ratio differs from the frame's.
    """
    return replace(frame, pixels=with_mask(frame.pixels, fit(mask, *frame.pixels.shape[:2])))


def with_mask(pixels: Pixels, mask: Mask) -> Pixels:
    """Pixels (height, width, channels) and a mask of their size as one channel more, in the pixels' dtype."""
    if pixels.dtype == np.uint8:
        return np.asarray(cv2.merge([pixels, mask]), np.uint8)
    return np.asarray(cv2.merge([pixels, mask.astype(np.uint16) * np.uint16(257)]), np.uint16)


def read_mask(path: Path) -> Mask:
    """The lightness of a picture, upright; transparent pixels count as black.

    Raises:
        MediaError: the picture cannot be read.
    """
    try:
        with fetched(path) as here:
            frame = huge.read_reduced(here) if huge.is_huge(here) else read_picture(here)
    except (MediaError, OSError) as error:
        raise MediaError(f"The mask {shown(path)} cannot be used: {reason_of(error)}") from error
    lightness = lightness_of(frame.pixels)
    if frame.origin.alpha is None:
        return lightness
    opacity = in_8_bits(frame.origin.alpha)
    return np.rint(lightness * (opacity / np.float32(255))).astype(np.uint8)


def lightness_of(pixels: Pixels) -> Mask:
    """The lightness of RGB pixels, as a mask."""
    return np.asarray(cv2.cvtColor(in_8_bits(pixels), cv2.COLOR_RGB2GRAY), np.uint8)


class PictureMasks:
    """The masks of pictures: a folder with a mask of the same name for each, or one mask for all.

    Args:
        path: the folder or the mask.

    Raises:
        UsageError: the path does not exist.
        MediaError: the one mask for all cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._listed: dict[str, frozenset[str]] = {}
        store, place = store_of(path), os.fspath(path)
        if not store.exists(place):
            raise UsageError(f"There is no mask {shown(path)}: check the spelling.")
        self._one = None if store.is_folder(place) else read_mask(self.path)

    def confine(self, frame: Frame[Origin], place: Path) -> Frame[Origin]:
        """The picture with its mask as fourth channel; ``place`` is its path relative to the input folder.

        Raises:
            MediaError: it has no mask, or one that cannot be read or has another aspect ratio.
        """
        return confined(frame, self.read(place))

    def read(self, place: Path) -> Mask:
        """The mask of the picture at ``place``, in its own size.

        Raises:
            MediaError: there is none, or it cannot be read.
        """
        return read_mask(self.path_of(place)) if self._one is None else self._one

    def own(self, place: Path) -> tuple[Path, ...]:
        """The mask that belongs to the picture at ``place`` alone; empty if one mask serves all.

        Raises:
            MediaError: there is none.
        """
        return (self.path_of(place),) if self._one is None else ()

    def path_of(self, place: Path) -> Path:
        """The mask with the picture's name, or with its stem and the suffix of another picture format.

        Raises:
            MediaError: there is none.
        """
        if self._one is not None:
            return self.path
        named = self.path / place
        stem = named.with_suffix("") if picture_format(named) else named
        suffixes = [case for suffix in PICTURE_SUFFIXES for case in (suffix, suffix.upper())]
        for path in (named, *(stem.with_name(stem.name + suffix) for suffix in suffixes)):
            if self._has(path):
                return path
        raise MediaError(f"There is no mask {shown(stem)}.png for it, nor one in another format.")

    def _has(self, path: Path) -> bool:
        """Whether there is such a file; a distant folder is asked once for all that is in it."""
        folder, name = os.path.split(path)
        store = store_of(folder)
        if store is LOCAL:
            return path.is_file()
        if folder not in self._listed:
            self._listed[folder] = frozenset(store.names(folder, ""))
        return name in self._listed[folder]
