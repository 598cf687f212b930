"""A camera as a source of frames."""

from __future__ import annotations

import time
from fractions import Fraction

import cv2
import numpy as np

from cgpipe.errors import MediaError
from cgpipe.media.colour import RGB, Colour
from cgpipe.media.frames import Frame
from cgpipe.media.video.clip import VideoInfo, VideoOrigin
from cgpipe.media.video.interfaces import Pass, Source

PREFIX = "camera:"


class CameraSource(Source):
    """A local camera, read once, through OpenCV (PyAV's build has no camera input).

    Args:
        spec: ``camera:0`` for the first camera, or ``camera:`` and the path of a device.
        fps: frames per second to request; by default the camera's own rate.
        end: seconds to record; by default until it is closed.

    Raises:
        MediaError: there is no such camera, or it returns no picture.
    """

    def __init__(self, spec: str, *, fps: float | Fraction | None = None, end: float | Fraction | None = None) -> None:
        super().__init__()
        device = spec.removeprefix(PREFIX)
        self._name = spec
        self._end = end
        self._camera = cv2.VideoCapture(int(device) if device.isdigit() else device)
        if fps is not None:
            self._camera.set(cv2.CAP_PROP_FPS, float(fps))
        found, picture = self._camera.read()
        if not found:
            self._camera.release()
            raise MediaError(f"{spec} is not available: there is no such camera, or another program is using it.")
        rate = self._camera.get(cv2.CAP_PROP_FPS)
        height, width = picture.shape[:2]
        self.info = VideoInfo(
            width=width,
            height=height,
            colour=Colour(matrix=RGB, full_range=True),
            time_base=Fraction(1, 1000),
            rate=Fraction(rate).limit_denominator(1001) if rate > 0 else None,
            frames=None if end is None or rate <= 0 else max(1, round(float(end) * rate)),
            codec="camera",
            pix_fmt="bgr24",
        )

    def close(self) -> None:
        super().close()
        self._camera.release()

    def _read(self, first: int) -> Pass:
        started = time.monotonic()
        index, last = 0, -1
        while True:
            elapsed = time.monotonic() - started
            if self._end is not None and elapsed >= self._end:
                return
            found, picture = self._camera.read()
            if not found:
                return
            last = max(round(1000 * elapsed), last + 1)
            if index >= first:
                origin = VideoOrigin(index=index, pts=last, time_base=self.info.time_base)
                pixels = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
                yield Frame(pixels=pixels, origin=origin)
            index += 1
