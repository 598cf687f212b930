"""What is known about a video before its frames are read, and what each frame carries."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import cast

import av
import cv2
import numpy as np
import numpy.typing as npt

from cgpipe.media.colour import Colour
from cgpipe.media.frames import Pixels
from cgpipe.storage import Stamp

Alpha = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Seconds = int | float | Fraction
LEAST_HELD = Fraction(1, 10)
"""Seconds for which a frame has to be on screen beyond a cut to be cut itself, and not kept whole or left out."""


def seconds(value: Seconds) -> Fraction:
    """An exact time: 0.4, which a float only approximates, becomes 2/5."""
    return Fraction(value).limit_denominator(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOrigin:
    """Identifies a frame of a video.

    Args:
        index: its position among the frames of the source, from 0.
        pts: presentation time, in units of ``time_base``; strictly increasing within a clip.
        time_base: seconds per unit.
        duration: how long it is shown, in the same units; None if the file does not say.
        key: whether it was a keyframe.
        filled: whether it replaces a lost frame by repeating a neighbour.
        alpha: shape (height, width), uint8 or full-range uint16; None if the frame is opaque.
    """

    index: int
    pts: int
    time_base: Fraction
    duration: int | None = None
    key: bool = False
    filled: bool = False
    alpha: Alpha | None = field(default=None, compare=False, repr=False)

    @property
    def time(self) -> Fraction:
        """Presentation time in seconds."""
        return self.pts * self.time_base


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """One stream of a container.

    Args:
        index: its index in the container.
        kind: "video", "cover" (a picture attached to the file), "audio", "subtitle", "data" or "attachment".
        codec: the decoder's name, or "" if there is none.
        language: as in the container, such as "eng"; None if it does not say.
    """

    index: int
    kind: str
    codec: str
    language: str | None = None

    def __str__(self) -> str:
        return " ".join(
            str(part) for part in (self.kind, self.index, self.codec, self.language) if part not in (None, "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """A video as its source yields it, and as its sink must write it.

    Args:
        path: file from which the other streams (audio, subtitles, chapters) can be read; None for a camera or a pipe.
        width: of the frames, in pixels, after rotation.
        height: the same.
        colour: how the code values of the file map to colours.
        time_base: seconds per unit of every frame's pts.
        rate: average frames per second; None if unknown.
        frames: estimated number of frames; None if the container does not say.
        sample_aspect_ratio: width to height of one pixel, after rotation.
        rotation: degrees counter-clockwise that the file asks for; already applied to the frames.
        start: the time, in seconds on the file's clock, that is zero in the output.
        end: where the cut ends, on the same clock; None at the end of the file.
        trimmed: whether the part before ``start`` is cut off.
        codec: name of the decoder.
        pix_fmt: libav's name of the decoded format.
        stream: index of the video stream in the container.
        streams: all streams of the container.
        alpha: whether the frames have alpha.
        interlaced: whether the file's frames hold two fields each.
        deinterlaced: whether they are deinterlaced while they are read.
        captions: whether closed captions (CEA-608 or 708) lie in the pictures' own data; they are not read.
        plays: how often an animation is shown, 0: endlessly; None: it is none.
        stamp: size and time of the file when it was opened; None if it is not a file.
    """

    path: str | None = None
    width: int
    height: int
    colour: Colour
    time_base: Fraction
    rate: Fraction | None = None
    frames: int | None = None
    sample_aspect_ratio: Fraction = Fraction(1)
    rotation: int = 0
    start: Fraction = Fraction(0)
    end: Fraction | None = None
    trimmed: bool = False
    codec: str = ""
    pix_fmt: str = ""
    stream: int = 0
    streams: tuple[StreamInfo, ...] = field(default=())
    alpha: bool = False
    interlaced: bool = False
    deinterlaced: bool = False
    captions: bool = False
    plays: int | None = None
    stamp: Stamp | None = None

    @property
    def duration(self) -> Fraction | None:
        """Estimated length in seconds, or None."""
        return self.frames / self.rate if self.frames is not None and self.rate else None

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices for the user about this clip."""
        told = [self.colour.notice] if self.colour.notice else []
        if self.interlaced:
            told.append(
                "The clip is interlaced and is deinterlaced (--no-deinterlace keeps its fields)."
                if self.deinterlaced
                else "The clip is interlaced and not deinterlaced: every frame keeps both fields."
            )
        if self.captions:
            told.append(
                "Closed captions within its pictures are dropped. To keep them, make a subtitle file of them first, "
                "with CCExtractor for instance."
            )
        return tuple(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedFrame:
    """A decoded frame and its time, in units of the stream's time base."""

    frame: av.VideoFrame
    pts: int
    duration: int | None = None
    key: bool = False
    filled: bool = False
    interlaced: bool = False


class Timeline:
    """Times of frames in the output: their own, counted from the clip's start, strictly increasing.

    Args:
        info: the clip; times are in units of its time base.
    """

    def __init__(self, info: VideoInfo) -> None:
        self._info = info
        self._last: int | None = None

    def place(self, origin: VideoOrigin) -> int:
        """The time of a frame in the output."""
        pts = round((origin.time - self._info.start) / self._info.time_base)
        self._last = pts if self._last is None else max(pts, self._last + 1)
        return self._last

    def length(self, origin: VideoOrigin) -> int | None:
        """How long the frame is shown, or None if its source does not say."""
        if origin.duration is None:
            return None
        return max(1, round(origin.duration * origin.time_base / self._info.time_base))


@dataclass(slots=True)
class Damage:
    """Damage found in a clip, counted while it is read.

    Args:
        bad_packets: packets of the picture that could not be decoded.
        filled: lost frames that were replaced by repeats of their neighbours.
        missing: frames that the container promised beyond the end of the file.
        bad_sound: packets of audio and other streams that were dropped.
        changed: whether the file was replaced or changed while it was read.
    """

    bad_packets: int = 0
    filled: int = 0
    missing: int = 0
    bad_sound: int = 0
    changed: bool = False

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    def __add__(self, other: Damage) -> Damage:
        return Damage(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})


# PyAV frees the name of a colour profile twice where side data is asked for, which ends the process. Only the decoder
# of PNG gives names, in these pixel formats; the rotation can be had without.
_FORMATS_OF_PNG = frozenset(
    {"rgb24", "rgba", "pal8", "gray", "ya8", "monob", "rgb48be", "rgba64be", "gray16be", "ya16be"}
)


@dataclass(frozen=True, slots=True)
class Orientation:
    """Rotates and mirrors pictures by a display matrix, in steps of 90 degrees.

    Pixels are rotated once, while reading, and the matrix is dropped: the network sees people and horses upright,
    originals and translations match side by side, and the result is right also in containers and players without
    rotation (WebM, GIF, pictures).
    """

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """The orientation that a decoded frame asks for."""
        if frame.format.name in _FORMATS_OF_PNG:
            return cls.turned(frame.rotation)
        try:
            matrix = struct.unpack("=9i", bytes(frame.side_data["DISPLAYMATRIX"]))  # type: ignore[typeddict-item]
        except KeyError:
            return cls()
        except ValueError:  # side data of a kind that PyAV has no name for, such as EXIF
            return cls.turned(frame.rotation)
        a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
        transpose = abs(b) > abs(a)
        return cls(transpose, (c if transpose else a) < 0, (b if transpose else d) < 0)

    @classmethod
    def turned(cls, degrees: int) -> Orientation:
        """The orientation of a picture that must be rotated counter-clockwise by a multiple of 90 degrees."""
        quarters = round(degrees / 90) % 4
        return cls(quarters % 2 == 1, quarters in (2, 3), quarters in (1, 2))

    def __call__(self, pixels: Pixels) -> Pixels:
        """The picture upright: (height, width, channels), or with height and width swapped."""
        if self == Orientation():
            return pixels
        turned = cv2.transpose(pixels) if self.transpose else pixels
        if self.mirror_x or self.mirror_y:
            turned = cv2.flip(turned, -1 if self.mirror_x and self.mirror_y else int(self.mirror_x))
        # OpenCV drops the last axis of a single channel.
        return cast(Pixels, turned.reshape(*turned.shape[:2], -1))


def describe(stream: av.stream.Stream) -> StreamInfo:
    """What a container says of one of its streams."""
    kind = "cover" if is_cover(stream) else stream.type
    codec = stream.codec_context.name if stream.codec_context is not None else ""
    language = stream.metadata.get("language", "und")
    return StreamInfo(index=stream.index, kind=kind, codec=codec, language=None if language == "und" else language)


def is_cover(stream: av.stream.Stream) -> bool:
    """Whether a video stream is a picture attached to the file, not a moving one."""
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return stream.type == "video" and bool(stream.disposition & still)
