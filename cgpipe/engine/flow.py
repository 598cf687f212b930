"""Optical flow between frames: where each pixel was, and where the flow is reliable.

Frames are (height, width, 3) RGB of one size; flow is computed between uint8 frames. Flows are (height, width, 2),
float32: x and y in pixels.
"""

from __future__ import annotations

from typing import Literal, cast

import cv2
import numpy as np
import numpy.typing as npt

from cgpipe.media.frames import Pixels

Plane = npt.NDArray[np.float32]
Levels = npt.NDArray[np.uint8]

PRESETS = {"medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST}


def flow_between(here: Pixels, there: Pixels, preset: Literal["medium", "fast"] = "medium") -> Plane:
    """Where each pixel of ``here`` is found in ``there``: dense inverse search (DIS, arXiv 1603.03590)."""
    greys = [cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in (here, there)]
    flow = cv2.DISOpticalFlow.create(PRESETS[preset]).calc(*greys, None)  # type: ignore[call-overload]
    return cast(Plane, flow)


def places(flow: Plane) -> tuple[Plane, Plane]:
    """The coordinates, x and y, that ``flow`` points to; both (height, width)."""
    height, width = flow.shape[:2]
    x = np.arange(width, dtype=np.float32) + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    return x, y


def sampled(pixels: npt.NDArray[np.uint8 | np.uint16 | np.float32], x: Plane, y: Plane) -> Plane:
    """(height, width, channels) sampled at ``x`` and ``y``, bilinear, with borders repeated; float32."""
    moved = cv2.remap(pixels.astype(np.float32, copy=False), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cast(Plane, moved)


def warped(pixels: npt.NDArray[np.uint8 | np.uint16 | np.float32], flow: Plane) -> Plane:
    """Warps (height, width, channels) along ``flow``: each pixel comes from where the flow points; float32."""
    return sampled(pixels, *places(flow))


def agreement(forth: Plane, back: Plane) -> npt.NDArray[np.bool_]:
    """Where forward and backward flow cancel (arXiv 1604.08610) and stay inside the frame; (height, width)."""
    height, width = forth.shape[:2]
    x, y = places(forth)
    returned = sampled(back, x, y)
    agree = _squares(forth + returned) < 0.01 * (_squares(forth) + _squares(returned)) + 0.5
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    both: npt.NDArray[np.bool_] = agree & inside
    return both


def _squares(flow: Plane) -> Plane:
    x, y = flow[..., 0], flow[..., 1]
    length: Plane = x * x + y * y
    return length
