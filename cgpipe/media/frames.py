"""What travels through the pipeline: frames, batches of frames, and failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch

from cgpipe.media.planar import Planar

Origin = TypeVar("Origin")
"""Identifies a frame and carries what its sink needs; opaque to everything but its source and its sink."""
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

LUMA = (0.299, 0.587, 0.114)
"""Luma weights of red, green and blue (ITU-R BT.601), as in Pillow and the reference projects."""

PENDING_BYTES = 256 << 20
"""Bytes of pixels that may wait for others of their size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(Generic[Origin]):
    """One decoded picture.

    Args:
        pixels: RGB, shape (height, width, 3), uint8, or uint16 if the source has more than 8 bits per channel; or the
            channels that a model of other pictures takes or gives. A mask (see :mod:`cgpipe.media.pictures.masks`) is
            one channel more.
        origin: identifies the frame (see :data:`Origin`).
        planar: the pixels are planes of YUV, (1, bytes, 1), laid out like this; None: they are as above.
    """

    pixels: Pixels
    origin: Origin
    planar: Planar | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"Pixels must be uint8 or uint16, not {self.pixels.dtype}.")
        if self.pixels.ndim != 3 or 0 in self.pixels.shape:
            raise ValueError(f"Pixels must have shape (height, width, channels), not {self.pixels.shape}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[Origin]):
    """Frames of one size and type, stacked.

    Args:
        pixels: shape (count, height, width, channels), uint8 or uint16; see :class:`Frame`.
        origins: one per frame, in the same order.
        planar: the same for all; see :class:`Frame`.
    """

    pixels: torch.Tensor
    origins: tuple[Origin, ...]
    planar: Planar | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype not in (torch.uint8, torch.uint16):
            raise TypeError(f"Pixels must be uint8 or uint16, not {self.pixels.dtype}.")
        if self.pixels.ndim != 4:
            raise ValueError(
                f"Pixels must have shape (count, height, width, channels), not {tuple(self.pixels.shape)}."
            )
        if len(self.origins) != len(self.pixels):
            raise ValueError(f"There are {len(self.pixels)} frames but {len(self.origins)} origins.")

    def __len__(self) -> int:
        return len(self.origins)

    def frames(self) -> Iterator[Frame[Origin]]:
        """The frames one by one, sharing memory with the batch, which must be on the CPU."""
        for pixels, origin in zip(self.pixels.numpy(), self.origins, strict=True):
            yield Frame(pixels=pixels, origin=origin, planar=self.planar)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Generic[Origin]):
    """Stands for a frame that could not be decoded, translated or encoded, so that none is dropped silently.

    Args:
        origin: of the frame.
        reason: what was wrong, for the user.
    """

    origin: Origin
    reason: str


class Source(Protocol[Origin]):
    """Yields frames in order, and a :class:`Failed` in place of each frame that failed."""

    def frames(self, first: int = 0) -> Iterable[Frame[Origin] | Failed[Origin]]:
        """The frames from index ``first`` on."""


class Sink(Protocol[Origin]):
    """Receives translated frames in order."""

    def write(self, frame: Frame[Origin]) -> None:
        """Receives a frame."""

    def fail(self, failed: Failed[Origin]) -> None:
        """Receives the failure of a frame, in its place."""


def in_8_bits(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """Pixels of 8 bits a channel; of 16 the upper ones."""
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels.astype(np.uint8, copy=False)


def contiguous(pixels: Pixels) -> Pixels:
    """The same without holes, as libraries in C take it."""
    return cast(Pixels, np.ascontiguousarray(pixels))


def reduced(pixels: Pixels, height: int, width: int) -> Pixels:
    """Pixels, or an opacity (height, width), at a smaller size, each the mean of what it covers."""
    return cast(Pixels, cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA))


def at_size(pixels: Pixels, height: int, width: int) -> Pixels:
    """Pixels, or an opacity (height, width), enlarged to another size, bicubic; of that size already, themselves."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return cast(Pixels, cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC))


_Kind = tuple[tuple[int, ...], str, Planar | None]
"""Shape, dtype and layout: frames that are alike in them can be stacked."""


def batched(
    items: Iterable[Frame[Origin] | Failed[Origin]], batch_size: int, *, pending_bytes: int = PENDING_BYTES
) -> Iterator[Batch[Origin] | Failed[Origin]]:
    """Stacks frames of equal size and type into batches of at most ``batch_size``; passes failures on at once.

    Each size waits in a group of its own. When more than ``4 * batch_size`` frames or ``pending_bytes`` of pixels wait,
    the largest group is passed on incomplete, so neither memory nor delay grows with the length of the stream. Order is
    kept within one size.
    """
    groups: dict[_Kind, list[Frame[Origin]]] = {}
    for item in items:
        if not isinstance(item, Frame):
            yield item
            continue
        key = (item.pixels.shape, item.pixels.dtype.str, item.planar)
        group = groups.setdefault(key, [])
        group.append(item)
        if len(group) == batch_size:
            yield _stack(groups.pop(key))
        elif _count(groups) >= 4 * batch_size or _bytes(groups) > pending_bytes:
            yield _stack(groups.pop(max(groups, key=lambda k: len(groups[k]))))
    for group in groups.values():
        yield _stack(group)


def _count(groups: Mapping[_Kind, Sized]) -> int:
    return sum(len(group) for group in groups.values())


def _bytes(groups: Mapping[_Kind, list[Frame[Origin]]]) -> int:
    return sum(len(group) * group[0].pixels.nbytes for group in groups.values())


def _stack(frames: list[Frame[Origin]]) -> Batch[Origin]:
    # A single frame is not copied, unless its pixels are read-only, of which torch would warn.
    alone = len(frames) == 1 and frames[0].pixels.flags.writeable
    pixels = frames[0].pixels[None] if alone else np.stack([frame.pixels for frame in frames])
    origins = tuple(frame.origin for frame in frames)
    return Batch(pixels=torch.from_numpy(pixels), origins=origins, planar=frames[0].planar)
