"""Masks of videos: one picture for all frames, or a video with a mask for each frame."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from cgpipe.errors import MediaError, UsageError
from cgpipe.media.frames import Failed, Frame, Origin
from cgpipe.media.pictures.formats import picture_format
from cgpipe.media.pictures.masks import Mask, confined, fit, lightness_of, read_mask, with_mask
from cgpipe.media.pictures.read import is_animation
from cgpipe.media.video.clip import VideoInfo
from cgpipe.media.video.interfaces import Pass
from cgpipe.media.video.opening import open_source
from cgpipe.media.video.sequences import is_sequence
from cgpipe.options import Cut

SPARE_FRAMES = 2
"""Tolerance, in frames, of the length that a container states."""


class VideoMask:
    """The masks of a video's frames: one picture for all, or a video or sequence with a mask for each frame.

    A context manager, which closes the video.

    Args:
        path: the picture, the video, or the folder or numbered pattern of pictures.
        info: of the video to translate.
        cut: the cut of that video.
        name: what messages call the mask; by default its path.

    Raises:
        UsageError: the path does not exist.
        MediaError: it cannot be read, or has another aspect ratio than the video, or clearly fewer frames.
    """

    def __init__(self, path: str | os.PathLike[str], info: VideoInfo, cut: Cut = Cut(), *, name: str = "") -> None:
        place = os.fspath(path)
        self.name = name or place
        sequence = is_sequence(place)
        if not (sequence or os.path.exists(place)):
            raise UsageError(f"There is no mask {self.name}: check the spelling.")
        self._source = None
        self._one = None
        self._still = False
        if picture_format(place) and not sequence and not is_animation(place):
            self._one = fit(read_mask(Path(place)), info.height, info.width)
            return
        if sequence:
            cut = replace(cut, fps=cut.fps or (float(info.rate) if info.rate else None))
        self._source = open_source(place, cut=cut, name=name or None)
        # A GIF or clip with a single frame counts as one picture.
        self._still = self._source.info.frames == 1 and not sequence
        try:
            self._check(info, self._source.info)
        except BaseException:
            self._source.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._source is not None:
            self._source.close()

    def confine(
        self, frames: Iterable[Frame[Origin] | Failed[Origin]], first: int = 0
    ) -> Iterator[Frame[Origin] | Failed[Origin]]:
        """The frames, starting at index ``first``, each with its mask as fourth channel.

        Raises:
            MediaError: the mask ends before the frames do.
        """
        if self._source is None:
            assert self._one is not None
            for item in frames:
                yield replace(item, pixels=with_mask(item.pixels, self._one)) if isinstance(item, Frame) else item
            return
        with closing(self._source.frames(first)) as masks:
            one = self._next(self._source.frames()) if self._still else None
            for item in frames:
                if isinstance(item, Frame):
                    yield confined(item, self._next(masks) if one is None else one)
                else:
                    yield item

    def _next(self, masks: Pass) -> Mask:
        mask = next(masks, None)
        if isinstance(mask, Frame):
            return lightness_of(mask.pixels)
        reason = f" ({mask.reason})" if mask else ""
        raise MediaError(
            f"The mask {self.name} ends before the video does{reason}: make it as long, or give one picture for all "
            "frames."
        )

    def _check(self, video: VideoInfo, mask: VideoInfo) -> None:
        fit(np.zeros((mask.height, mask.width), np.uint8), video.height, video.width)
        if not self._still and video.frames and mask.frames and mask.frames < video.frames - SPARE_FRAMES:
            raise MediaError(
                f"The mask {self.name} has {mask.frames} frames and the video {video.frames}: make it as long, or give "
                "one picture for all frames."
            )
