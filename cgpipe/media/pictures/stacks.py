"""TIFF stacks: pictures whose channels are pages, or samples beyond gray, RGB and opacity.

Microscopes, scanners and satellites write them. OpenCV reads pages; samples need the extra ``stacks``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base

from cgpipe.errors import MediaError, UnsupportedFormatError
from cgpipe.media.frames import Frame, Pixels, contiguous
from cgpipe.media.pictures.depth import bytes_of
from cgpipe.media.pictures.embed import add_to_tiff
from cgpipe.media.pictures.encode import encoded_samples
from cgpipe.media.pictures.extras import PictureExtras, StackKind
from cgpipe.media.pictures.formats import kind_of_file
from cgpipe.media.pictures.quiet import c_warnings_hidden
from cgpipe.media.pictures.read import damage_refused, opened
from cgpipe.media.pictures.tags import DESCRIPTIVE, Tags, with_text

_Directory = TiffImagePlugin.ImageFileDirectory_v2

MOST_PAGES = 4096
"""Pages of a file that are looked at."""

_OWN_SAMPLES = {0: 1, 1: 1, 2: 3}
"""Samples of a gray or an RGB pixel, by photometric interpretation; other kinds of colour make no stack."""
_NO_CHANNEL = 0b101
"""Bits of the kind of a page: a reduced copy, and a mask."""
_ALPHA = (1, 2)
"""Extra samples that are opacity, premultiplied or not."""


@dataclass(frozen=True, slots=True)
class Stack:
    """How many channels a TIFF file holds, and how."""

    channels: int
    kind: StackKind


def find_stack(path: str | os.PathLike[str]) -> Stack | None:
    """The stack in a file; None if it is no TIFF, has just gray, RGB and opacity, or is damaged."""
    kind = kind_of_file(path)
    if kind is None or kind.format != "TIFF":
        return None
    try:
        with open(path, "rb") as file:
            return _stack(list(_directories(file)))
    except Exception:  # damaged: the reader of pictures says how
        return None


def read_stack(path: str | os.PathLike[str], stack: Stack) -> Frame[PictureExtras]:
    """Reads all channels, (height, width, channels), uint8 or uint16; its origin is a :class:`PictureExtras`.

    Raises:
        MediaError: it cannot be read, or its channels differ in size or are neither 8 nor 16 bits deep.
        UnsupportedFormatError: the extra that reads it is not installed.
    """
    with opened(Path(path)) as file, damage_refused():
        directory = next(_directories(file))
        planes = _pages(file, stack.channels) if stack.kind == "pages" else _samples(file)
        if planes.dtype not in (np.uint8, np.uint16):
            raise MediaError(f"Its channels are of type {planes.dtype}. Save them as 8 or 16 bits without sign first.")
        extras = PictureExtras(
            format="TIFF", size=planes.shape[:2], bits=8 * planes.itemsize, tags=_tags(directory), stack=stack.kind
        )
        return Frame(pixels=contiguous(planes), origin=extras)


def encoded_stack(planes: Pixels, tags: Tags, kind: StackKind) -> bytes:
    """A TIFF file with the channels of (height, width, channels) as pages or as samples, uncompressed."""
    directory = _Directory(b"II*\0\0\0\0\0")
    add_to_tiff(directory, tags)
    if kind == "samples":
        return encoded_samples(planes, directory, photometric=1, extra=(0,) * (planes.shape[2] - 1))
    first, *others = (Image.fromarray(contiguous(planes[..., channel])) for channel in range(planes.shape[2]))
    out = io.BytesIO()
    first.save(out, "TIFF", save_all=True, append_images=others, tiffinfo=directory)
    return out.getvalue()


def _directories(file: io.BufferedReader) -> Iterator[_Directory]:
    """The directory of each page."""
    head = file.read(8)
    head += file.read(8) if 43 in head[2:4] else b""
    place = _Directory(head).next
    for _ in range(MOST_PAGES):
        if not place:
            return
        page = _Directory(head)
        file.seek(place)
        page.load(file)
        yield page
        place = page.next


def _stack(pages: Sequence[_Directory]) -> Stack | None:
    samples = {_samples_of(page) for page in pages}
    if len(pages) > 1:
        whole = samples == {1} and not any(page.get(Base.NewSubfileType, 0) & _NO_CHANNEL for page in pages)
        return Stack(len(pages), "pages") if whole else None
    (count,) = samples
    own = _OWN_SAMPLES.get(pages[0].get(Base.PhotometricInterpretation, 1), count)
    alpha = pages[0].get(Base.ExtraSamples, (0,))[:1] in ((one,) for one in _ALPHA)
    return Stack(count, "samples") if count > own + alpha else None


def _samples_of(page: _Directory) -> int:
    return int(page.get(Base.SamplesPerPixel, 1))


def _pages(file: io.BufferedReader, count: int) -> Pixels:
    with c_warnings_hidden():
        _, planes = cv2.imdecodemulti(np.frombuffer(bytes_of(file), np.uint8), cv2.IMREAD_UNCHANGED)
    if len(planes) != count:
        raise ValueError(f"{len(planes)} of {count} pages can be decoded")
    if len({plane.shape for plane in planes}) > 1:
        raise MediaError("Its pages differ in size. Save pictures of other sizes to files of their own first.")
    return cast(Pixels, np.dstack(planes))


def _samples(file: io.BufferedReader) -> Pixels:
    if find_spec("tifffile") is None:
        raise UnsupportedFormatError(
            "TIFF with this many channels in a page is read by an extra: pip install 'cgpipe[stacks]'."
        )
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        planes: Pixels = page.asarray()
        return np.moveaxis(planes, 0, -1) if page.axes.startswith("S") else planes


def _tags(directory: _Directory) -> Tags:
    """What the first page's directory says of the picture."""
    exif = Image.Exif()
    exif.update({tag: directory[tag] for tag in DESCRIPTIVE if tag in directory})
    unit = {2: 1.0, 3: 2.54}.get(directory.get(Base.ResolutionUnit, 2))
    sides = [directory.get(tag) for tag in (Base.XResolution, Base.YResolution)]
    dpi = tuple(float(side) * unit for side in sides if side) if unit else ()
    return Tags(
        exif=with_text(exif).tobytes() if exif else None,
        xmp=directory.get(Base.XMLPacket),
        dpi=(dpi[0], dpi[1]) if len(dpi) == 2 and min(dpi) > 1 else None,
    )
