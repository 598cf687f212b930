"""How still a model's video holds: what changes from frame to frame beyond what moves.

The *warping error* is the mean difference of a frame and its predecessor, brought to it by the optical flow of the
source (DIS, arXiv 1603.03590), where forward and backward flow agree. Places where the source itself differs by ``d``
count ``exp(-50 d^2)`` (arXiv 1808.00449). The source's own is the floor that no translation can be below by holding
still; a translation that is sharper or of more contrast lies above it even when it moves perfectly.

*Stuck detail* is a cause that single frames show: fine detail of the change that does not come along when a frame is
shifted by a few pixels, since the network paints it in fixed places of its grid (arXiv 2106.12423).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cgpipe.engine.flow import agreement, flow_between, warped
from cgpipe.engine.translator import Translator
from cgpipe.errors import DataError
from cgpipe.media.frames import Frame, Pixels, reduced
from cgpipe.media.video import VideoSource
from cgpipe.models import Model

Translation = Callable[[Pixels], Pixels]
"""A picture (height, width, 3), uint8 RGB, to one of the same size."""

FRAMES = 48
"""Frames of a clip that are looked at."""
STEEPNESS = 50.0
"""Of the weight of a place by the source's own difference there, which is in [0, 1]."""
STILL = 2
"""Levels by which a pixel of the source may change and still be still."""
VISIBLE, GLARING = 8, 20
"""Levels by which a still pixel may change before it is seen, and before it is seen by everyone."""
SHIFTS = ((1, 2), (2, 5), (3, 3), (5, 6), (6, 1), (7, 4))
"""Lines and columns by which frames are shifted in turn, to other places in cells of 4 and of 8 pixels."""
SHIFTED_EVERY = 4
"""Frames from one that is shifted to the next."""
MARGIN = 16
"""Pixels along the borders that do not count when a frame is shifted."""
FINE = 1.2
"""Deviation, in pixels, of the blur without which fine detail is left: periods of up to about 6 pixels."""


@dataclass(frozen=True, kw_only=True)
class Steadiness:
    """How still a translated clip holds. All levels are of 255.

    Args:
        clip: name of the clip.
        frames: how many were looked at.
        width, height: in pixels, at which they were translated and compared.
        warping_error: of the translation, in levels.
        source_warping_error: of the source.
        sharpness: variance of the Laplacian of the translation, averaged over the frames.
        source_sharpness: that of the source.
        still: share, 0 to 1, of the source's pixels that hold still.
        visible: share of those whose translation changes by more than :data:`VISIBLE` levels.
        glaring: share of those whose translation changes by more than :data:`GLARING` levels.
        stuck: share of the power of the change's fine detail that a shift of the frame alters; 0: all of it comes
            along; 1: the details of both have nothing in common.
    """

    clip: str
    frames: int
    width: int
    height: int
    warping_error: float
    source_warping_error: float
    sharpness: float
    source_sharpness: float
    still: float
    visible: float
    glaring: float
    stuck: float

    @property
    def excess(self) -> float:
        """Levels by which the translation's warping error is above the source's."""
        return self.warping_error - self.source_warping_error

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON and for a model's card."""
        return asdict(self)


def to_markdown(clips: Iterable[Steadiness]) -> str:
    """A table, one row a clip."""
    flicker = f"still pixels changing by {VISIBLE}, {GLARING}"
    lines = [
        f"| video | warping error, source's | sharpness, source's | {flicker} | stuck detail |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.clip}, {row.frames} frames at {row.width}x{row.height} "
        f"| {row.warping_error:.2f}, {row.source_warping_error:.2f} "
        f"| {row.sharpness:.0f}, {row.source_sharpness:.0f} | {row.visible:.2%}, {row.glaring:.2%} "
        f"| {row.stuck:.0%} |"
        for row in clips
    ]
    return "\n".join(lines)


def measure_clip(model: Model, clip: Path | str, *, size: int = 256, frames: int = FRAMES) -> Steadiness:
    """Translates the first ``frames`` of a clip, reduced to a short side of ``size`` pixels, and compares them.

    Raises:
        MediaError: the clip cannot be read.
        DataError: it has fewer than two frames.
    """
    translator = Translator(model, size="full", precision="fp32", engine="eager")
    return measure_frames(translator, _small_frames(Path(clip), size, frames), clip=Path(clip).name)


def measure_frames(translation: Translation, frames: Iterable[Pixels], *, clip: str = "frames") -> Steadiness:
    """Translates frames one by one, and compares each with the one before it.

    Args:
        translation: what makes each frame; called for shifted frames, too.
        frames: (height, width, 3), uint8 RGB, all of one size.
        clip: what they are called in the result.

    Raises:
        DataError: they are fewer than two.
    """
    sums, sharpness, powers, count = np.zeros(6), np.zeros(2), np.zeros(2), 0
    before: tuple[Pixels, Pixels] | None = None
    shape = (0, 0)
    for source in frames:
        now = source, translation(source)
        sharpness += [_sharpness(pixels) for pixels in now]
        if count % SHIFTED_EVERY == 0:
            powers += _shifted(translation, now, SHIFTS[count // SHIFTED_EVERY % len(SHIFTS)])
        if before is not None:
            sums += _compared(before, now)
        before, count, shape = now, count + 1, (source.shape[0], source.shape[1])
    if count < 2:
        found = "one frame" if count else "no frame"
        raise DataError(f"{clip} has {found}: at least two are needed to tell how still it holds.")
    weight, of_source, of_result, still, visible, glaring = sums.tolist()
    of_source_sharpness, of_result_sharpness = (sharpness / count).tolist()
    return Steadiness(
        clip=clip,
        frames=count,
        width=shape[1],
        height=shape[0],
        warping_error=of_result / max(weight, 1e-9),
        source_warping_error=of_source / max(weight, 1e-9),
        sharpness=of_result_sharpness,
        source_sharpness=of_source_sharpness,
        still=still / ((count - 1) * shape[0] * shape[1]),
        visible=visible / max(still, 1.0),
        glaring=glaring / max(still, 1.0),
        stuck=float(powers[0] / max(powers[1], 1e-9)),
    )


def _compared(before: tuple[Pixels, Pixels], now: tuple[Pixels, Pixels]) -> npt.NDArray[np.float64]:
    """Sums: weights, weighted differences of source and result, still pixels, and visible and glaring ones of them."""
    flow = flow_between(now[0], before[0])
    agree = agreement(flow, flow_between(before[0], now[0]))
    of_source, of_result = (
        np.abs(new.astype(np.float32) - warped(old, flow)).mean(axis=2) for old, new in zip(before, now, strict=True)
    )
    weight = agree * np.exp(-STEEPNESS * np.square(of_source / 255))
    changes = [
        np.abs(new.astype(np.int16) - old.astype(np.int16)).max(axis=2) for old, new in zip(before, now, strict=True)
    ]
    still = changes[0] <= STILL
    counts = [still.sum(), (still & (changes[1] > VISIBLE)).sum(), (still & (changes[1] > GLARING)).sum()]
    return np.array([weight.sum(), (weight * of_source).sum(), (weight * of_result).sum(), *counts], np.float64)


def _shifted(translation: Translation, now: tuple[Pixels, Pixels], shift: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Sums of squares: of what a shift of a frame alters in the change's fine detail, and of that of both changes."""
    source, made = now
    (height, width), (down, right) = source.shape[:2], shift
    moved = np.ascontiguousarray(np.pad(source, ((0, down), (0, right), (0, 0)), mode="reflect")[down:, right:])
    inner = (slice(MARGIN + by, side - MARGIN) for side, by in zip((height, width), shift, strict=True))
    moved_inner = (slice(MARGIN, side - MARGIN - by) for side, by in zip((height, width), shift, strict=True))
    here, there = _fine(source, made)[*inner], _fine(moved, translation(moved))[*moved_inner]
    return np.array([np.square(here - there).sum(), np.square(here).sum() + np.square(there).sum()], np.float64)


def _fine(source: Pixels, made: Pixels) -> npt.NDArray[np.float32]:
    """The fine detail of the change."""
    change = made.astype(np.float32) - source
    return np.asarray(change - cv2.GaussianBlur(change, (0, 0), FINE), np.float32)


def _sharpness(pixels: Pixels) -> float:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _small_frames(clip: Path, size: int, count: int) -> Iterator[Pixels]:
    with VideoSource(clip) as source:
        frames = (item.pixels for item in source if isinstance(item, Frame))
        for pixels in islice(frames, count):
            levels = pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257.0).astype(np.uint8)
            yield _reduced(levels, size)


def _reduced(pixels: Pixels, size: int) -> Pixels:
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    if scale >= 1:
        return pixels
    return reduced(pixels, round(height * scale), round(width * scale))
