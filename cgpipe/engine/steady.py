"""Temporal smoothing of a translated video: the change of each frame is blended with those of earlier frames.

A generator sees each frame alone, so its output flickers. The *change* (translated minus original) of the previous
frame is warped along the optical flow of the originals and blended with that of the current frame, wherever the flow is
reliable (blind temporal consistency in the sense of arXiv 1808.00449, without a network). This happens at a small size;
only the correction is upsampled.

Blending restarts every :data:`RUN` frames, and the new run takes over gradually. So a frame depends on fewer than two
runs of frames before it, and a job that resumes in the middle gives the same result after repeating only those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from cgpipe.engine.flow import Levels, Plane, agreement, flow_between, places, sampled
from cgpipe.media.frames import Pixels, reduced

SIDE = 256
"""Short side, in pixels, at which flow is computed and changes are blended."""
RUN = 24
"""Frames from the start of one run of blending to the next, which takes over gradually."""
MOST = 0.95
"""Weight of the past at full strength: with 1 nothing would ever change."""
STEEPNESS = 200.0
"""How fast confidence falls with the difference of the originals, which is in [0, 1]."""
CUT = 0.4
"""Fraction of a frame that must be found in the previous one; less means a cut."""


def first_needed(index: int) -> int:
    """The first frame that must be processed for frame ``index`` to come out as in an uninterrupted job."""
    return max(0, (index // RUN - 1) * RUN)


@dataclass(frozen=True, slots=True)
class _Before:
    """The previous frame: its original, and its blended change of each run, the older run first."""

    original: Levels
    runs: tuple[Plane, ...]


class Steady:
    """Smooths the frames of one video, in order.

    Args:
        strength: 0 to 1: how much of the change comes from earlier frames.
        index: of the first frame, a value of :func:`first_needed`.
    """

    def __init__(self, strength: float, index: int = 0) -> None:
        self._share = MOST * strength
        self._index = index
        self._before: _Before | None = None

    def __call__(self, original: Pixels, translated: Pixels) -> Pixels:
        """The smoothed translation.

        Args:
            original: (height, width, 3), uint8 or uint16 RGB, or 4 channels with a mask, which also confines the
                correction.
            translated: (height, width, 3), of the same dtype.

        Returns:
            The smoothed translation, in its shape and dtype.
        """
        white = float(np.iinfo(translated.dtype).max)
        small = _reduced(original[..., :3], white)
        change = _reduced(translated, white) - small
        levels = cast(Levels, np.rint(small).astype(np.uint8))
        correction = self._blended(levels, change) - change
        self._index += 1
        return _corrected(original, translated, correction * np.float32(white / 255))

    def _blended(self, original: Levels, change: Plane) -> Plane:
        """The change of this frame, blended with earlier ones; at the small size, in levels of 255."""
        runs = self._runs(original, change)
        at = self._index % RUN
        if at == 0:  # The newer run has taken over; a new one starts.
            runs = (runs[-1], change)
        self._before = _Before(original, runs)
        weight = np.float32(at / RUN)
        blended: Plane = runs[0] + weight * (runs[1] - runs[0])
        return blended

    def _runs(self, original: Levels, change: Plane) -> tuple[Plane, ...]:
        before = self._before
        if before is None or before.original.shape != original.shape:
            return (change, change)
        flow, trust = _found(original, before.original)
        if trust.mean() < CUT:
            return (change, change)
        at, share = places(flow), self._share * trust[..., None]
        return tuple(change + share * (sampled(run, *at) - change) for run in before.runs)


def _found(here: Pixels, before: Pixels) -> tuple[Plane, Plane]:
    """Where each pixel was in the previous frame, (height, width, 2), and the confidence, 0 to 1, (height, width).

    Both are computed at half size, in a quarter of the time.
    """
    size = here.shape[1], here.shape[0]
    here, before = _halved(here), _halved(before)
    flow = flow_between(here, before, "fast")
    x, y = places(flow)
    apart = np.abs(here.astype(np.float32) - sampled(before, x, y)).mean(axis=2) / 255
    trust = agreement(flow, flow_between(before, here, "fast")) * np.exp(-STEEPNESS * np.square(apart))
    scale = np.array([size[0] / flow.shape[1], size[1] / flow.shape[0]], np.float32)
    return cast(Plane, cv2.resize(flow, size)) * scale, cast(Plane, cv2.resize(trust, size))


def _halved(pixels: Pixels) -> Pixels:
    return reduced(pixels, max(1, pixels.shape[0] // 2), max(1, pixels.shape[1] // 2))


def _reduced(pixels: Pixels, white: float) -> Plane:
    """Reduced to a short side of at most :data:`SIDE`, in levels of 255; float32."""
    height, width = pixels.shape[:2]
    small = pixels if pixels.flags.c_contiguous else pixels.copy()
    while min(small.shape[:2]) >= 2 * SIDE:  # Five times as fast as in one step.
        small = _halved(small)
    scale = min(1.0, SIDE / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if small.shape[1::-1] != size:
        small = reduced(small, size[1], size[0])
    levels: Plane = small.astype(np.float32) * np.float32(255 / white)
    return levels


def _corrected(original: Pixels, translated: Pixels, correction: Plane) -> Pixels:
    height, width = translated.shape[:2]
    if correction.shape[:2] != (height, width):
        correction = cast(Plane, cv2.resize(correction, (width, height)))
    if original.shape[2] == 4:
        correction = correction * (original[..., 3:].astype(np.float32) / np.float32(np.iinfo(original.dtype).max))
    depth = cv2.CV_8U if translated.dtype == np.uint8 else cv2.CV_16U
    # Adds, rounds and limits in one pass.
    return cast(Pixels, cv2.add(translated, correction, dtype=depth))
