"""What travels through the pipeline: frames, batches of frames, and failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from math import prod
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
class Jpeg(Generic[Origin]):
    """A picture as the content of a JPEG file, which a device decodes, or has encoded.

    Args:
        content: the whole file.
        size: height and width of the picture, upright.
        orientation: how its pixels lie in the file, 1 to 8, as in EXIF.
        halved: whether two lines in the file share one of chroma (4:2:0).
        origin: identifies the picture (see :data:`Origin`).
    """

    content: bytes | memoryview
    size: tuple[int, int]
    orientation: int = 1
    halved: bool = False
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class JpegBatch(Generic[Origin]):
    """JPEGs of one size, orientation and subsampling.

    Args:
        content: uint8, the files one after the other.
        lengths: bytes of each file.
        size, orientation, halved: see :class:`Jpeg`.
        origins: one per file, in the same order.
    """

    content: torch.Tensor
    lengths: tuple[int, ...]
    size: tuple[int, int]
    orientation: int = 1
    halved: bool = False
    origins: tuple[Origin, ...]

    def __len__(self) -> int:
        return len(self.origins)

    def contents(self) -> tuple[torch.Tensor, ...]:
        """The content of each file, uint8."""
        found: tuple[torch.Tensor, ...] = self.content.split(self.lengths)
        return found

    def singles(self) -> Iterator[JpegBatch[Origin]]:
        """A batch of each file."""
        for content, origin in zip(self.contents(), self.origins, strict=True):
            yield replace(self, content=content, lengths=(len(content),), origins=(origin,))

    def frames(self) -> Iterator[Jpeg[Origin]]:
        """The files one by one, sharing memory with the batch."""
        for content, origin in zip(self.contents(), self.origins, strict=True):
            yield Jpeg(
                content=content.numpy().data,
                size=self.size,
                orientation=self.orientation,
                halved=self.halved,
                origin=origin,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Generic[Origin]):
    """Stands for a frame that could not be decoded, translated or encoded, so that none is dropped silently.

    Args:
        origin: of the frame.
        reason: what was wrong, for the user.
    """

    origin: Origin
    reason: str


Coded = Frame[Origin] | Jpeg[Origin]
"""A picture, decoded or not."""
Decoded = Batch[Origin] | Failed[Origin]
"""What a translator takes and gives: batches of pixels, and failures."""
Batched = Batch[Origin] | JpegBatch[Origin] | Failed[Origin]
"""The same, and batches of files that a device decodes, or has encoded."""


class Source(Protocol[Origin]):
    """Yields frames in order, and a :class:`Failed` in place of each frame that failed."""

    def frames(self, first: int = 0) -> Iterable[Coded[Origin] | Failed[Origin]]:
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


def batched(
    items: Iterable[Coded[Origin] | Failed[Origin]], batch_size: int, *, pending_bytes: int = PENDING_BYTES
) -> Iterator[Batched[Origin]]:
    """Stacks pictures that are alike into batches of at most ``batch_size``; passes failures on at once.

    Alike are frames of one size and type, and JPEGs of one size, orientation and subsampling; each kind waits in a
    group of its own. When more than ``4 * batch_size`` pictures or ``pending_bytes`` of pixels wait, the largest group
    is passed on incomplete, so neither memory nor delay grows with the length of the stream. Order is kept within one
    kind.
    """
    groups: dict[_Kind, list[Coded[Origin]]] = {}
    for item in items:
        if isinstance(item, Failed):
            yield item
            continue
        kind = _kind(item)
        group = groups.setdefault(kind, [])
        group.append(item)
        if len(group) == batch_size:
            yield _stack(groups.pop(kind))
        elif _count(groups) >= 4 * batch_size or _bytes(groups) > pending_bytes:
            yield _stack(groups.pop(max(groups, key=lambda k: len(groups[k]))))
    for group in groups.values():
        yield _stack(group)


_Kind = tuple[tuple[int, ...], str | int, Planar | bool | None]


def _kind(item: Coded[Origin]) -> _Kind:
    """Equal for pictures that can be in one batch."""
    if isinstance(item, Jpeg):
        return item.size, item.orientation, item.halved
    return item.pixels.shape, item.pixels.dtype.str, item.planar


def _count(groups: Mapping[_Kind, Sized]) -> int:
    return sum(len(group) for group in groups.values())


def _bytes(groups: Mapping[_Kind, list[Coded[Origin]]]) -> int:
    """Bytes of the pixels, also of those that are still to be decoded."""
    return sum(
        len(group) * (first.pixels.nbytes if isinstance(first := group[0], Frame) else 3 * prod(first.size))
        for group in groups.values()
    )


def _stack(group: list[Coded[Origin]]) -> Batch[Origin] | JpegBatch[Origin]:
    frames = [item for item in group if isinstance(item, Frame)]
    if not frames:
        return _joined([item for item in group if isinstance(item, Jpeg)])
    # A single frame is not copied, unless its pixels are read-only, of which torch would warn.
    alone = len(frames) == 1 and frames[0].pixels.flags.writeable
    pixels = frames[0].pixels[None] if alone else np.stack([frame.pixels for frame in frames])
    origins = tuple(frame.origin for frame in frames)
    return Batch(pixels=torch.from_numpy(pixels), origins=origins, planar=frames[0].planar)


def _joined(jpegs: list[Jpeg[Origin]]) -> JpegBatch[Origin]:
    return JpegBatch(
        content=torch.frombuffer(bytearray().join(jpeg.content for jpeg in jpegs), dtype=torch.uint8),
        lengths=tuple(len(jpeg.content) for jpeg in jpegs),
        size=jpegs[0].size,
        orientation=jpegs[0].orientation,
        halved=jpegs[0].halved,
        origins=tuple(jpeg.origin for jpeg in jpegs),
    )
