"""Pictures larger than memory, and slides: read line by line into an unnamed file, and written from one.

TIFF (tiles, strips, pyramids, BigTIFF), JPEG and PNG go through libvips (the extra ``huge``), microscope slides through
OpenSlide (the extra ``slides``).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base

from cgpipe.errors import MediaError, UnsupportedFormatError
from cgpipe.media.frames import LUMA, Frame
from cgpipe.media.pictures.extras import PictureExtras, TiffLayout
from cgpipe.media.pictures.formats import BY_NAME, SLIDE_SUFFIXES
from cgpipe.media.pictures.tags import Tags, read_orientation, read_tags
from cgpipe.media.progress import Progress, Stage, StoppedError
from cgpipe.scratch import folder_of, is_scratch, release, scratch, scratch_from
from cgpipe.storage import PathLike, available_memory

if TYPE_CHECKING:
    import pyvips

_Array = npt.NDArray[Any]

BYTES_A_PIXEL = 24
"""Memory per pixel of an 8-bit picture from reading to writing, all copies counted; twice that for 16 bits."""

READ_WHOLE = 300_000_000
"""Pixels beyond which a picture is always read line by line, if possible."""

BY_LINES = ("TIFF", "JPEG", "PNG")
"""Formats that are read and written line by line."""

TILE = 256
"""Side in pixels of the tiles of a pyramid that had none."""

ROWS = 512
"""Lines of a slide that are read at a time."""

MASK_SIDE = 4096
"""Long side in pixels at which a mask's edges are softened."""

_COLOURS = ("srgb", "rgb", "rgb16", "b-w", "grey16")
_COMPRESSIONS = {"tiff_lzw": "lzw", "tiff_adobe_deflate": "deflate", "tiff_deflate": "deflate", "jpeg": "jpeg"}
_BIG_TIFF = 3_900_000_000
_MM_PER_INCH = 25.4


def is_too_large(pixels: int) -> bool:
    """Whether a picture of so many pixels exceeds the free memory, or is to be read line by line in any case."""
    memory = available_memory()
    whole = READ_WHOLE if memory is None else memory // BYTES_A_PIXEL
    return pixels > (min(READ_WHOLE, whole) if reads_by_lines() else whole)


def too_large(width: int, height: int) -> MediaError:
    """The error for a picture that does not fit in memory, with what to do."""
    pixels, memory = width * height, (available_memory() or 0) / 1e9
    return MediaError(
        f"It has {pixels / 1e6:.0f} megapixels, which takes about {pixels * BYTES_A_PIXEL / 1e9:.1f} GB of memory; "
        f"{memory:.1f} GB are free. TIFF, JPEG and PNG are translated in parts with an extra: "
        "pip install 'cgpipe[huge]'."
    )


def is_huge(path: PathLike) -> bool:
    """Whether a picture is to be read line by line: it is too large for memory, a pyramid, or a slide."""
    if is_slide(path):
        return True
    try:
        with _header(path) as image:
            return _is_pyramid(image) or is_too_large(image.width * image.height)
    except Exception:  # the reader reports why
        return False


def is_slide(path: PathLike) -> bool:
    """Whether the name is that of a microscope slide."""
    return os.path.splitext(path)[1].lower() in SLIDE_SUFFIXES


def read_huge(path: PathLike, folder: PathLike, progress: Progress) -> Frame[PictureExtras]:
    """Reads a picture upright, as RGB, into a file in ``folder``; its origin is a :class:`PictureExtras`.

    Args:
        progress: called with each part that is read.

    Raises:
        MediaError: it is damaged, of a kind that cannot be kept, or the disk is full.
        UnsupportedFormatError: the extra that reads it is not installed.
        StoppedError: the job was stopped.
    """
    read = _read_slide if is_slide(path) else _read_by_vips
    try:
        return read(path, folder, progress)
    except (MediaError, StoppedError):
        raise
    except OSError as error:
        raise MediaError(_no_disk(path, folder, error)) from error
    except Exception as error:  # libvips and OpenSlide have errors of their own
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1][:120]
        raise MediaError(f"The file is damaged or cut short ({line}). Copy it again from its source.") from error


def _read_by_vips(path: PathLike, folder: PathLike, progress: Progress) -> Frame[PictureExtras]:
    vips = _vips()
    with _header(path) as image, open(path, "rb") as file:
        orientation = read_orientation(image)
        size = (image.height, image.width) if orientation < 5 else (image.width, image.height)
        tags, notes = read_tags(image, file, size)
        format, layout = str(image.format), _layout(image)
    # Lines from top to bottom need no memory; a picture that is turned is unpacked by libvips to a file of its own.
    access = "sequential" if orientation == 1 else "random"
    whole = vips.Image.new_from_file(os.fspath(path), access=access, fail_on="truncated").autorot()
    gray, rgb = whole.bands < 3, _as_rgb(whole)
    dtype = np.dtype(np.uint16 if rgb.format == "ushort" else np.uint8)

    def fill(descriptor: int) -> None:
        with _told(rgb, progress, "read"):
            rgb.rawsave_target(vips.Target.new_to_descriptor(descriptor))

    values = scratch_from(fill, (rgb.height, rgb.width, rgb.bands), dtype, folder)
    return _frame(values, format, gray, tags, notes, layout)


def read_reduced(path: PathLike) -> Frame[PictureExtras]:
    """A picture upright, as 8-bit RGB, its long side reduced to :data:`MASK_SIDE`; for masks."""
    small = _as_rgb(_vips().Image.thumbnail(os.fspath(path), MASK_SIDE, height=MASK_SIDE, size="down"))
    return _frame(small.cast("uchar").numpy(), "TIFF", False, Tags(), (), TiffLayout())


def _as_rgb(image: pyvips.Image) -> pyvips.Image:
    if image.interpretation not in _COLOURS or image.format not in ("uchar", "ushort") or image.bands > 4:
        raise MediaError(
            f"It has {image.bands} channels of kind {image.interpretation} ({image.format}). "
            "Convert it to 8- or 16-bit RGB first."
        )
    if image.bands > 2:
        return image
    alpha = [image[1]] if image.bands == 2 else []
    gray = image[0]
    joined: pyvips.Image = gray.bandjoin([gray, gray, *alpha])
    return joined


def _read_slide(path: PathLike, folder: PathLike, progress: Progress) -> Frame[PictureExtras]:
    """The first level of a slide; areas that were not scanned are white."""
    slides = _openslide()
    with slides.OpenSlide(os.fspath(path)) as slide:
        width, height = slide.dimensions
        values = scratch((height, width, 3), np.uint8, folder)
        for top in range(0, height, ROWS):
            rows = min(ROWS, height - top)
            for left in range(0, width, 8 * ROWS):
                columns = min(8 * ROWS, width - left)
                part = slide.read_region((left, top), 0, (columns, rows))
                ground = Image.new("RGBA", part.size, "white")
                ground.alpha_composite(part)
                values[top : top + rows, left : left + columns] = np.asarray(ground)[..., :3]
            release(torch.from_numpy(values))
            progress.reached("read", (top + rows) / height)
        tags = Tags(dpi=_slide_resolution(slide.properties), icc=_slide_profile(slide))
    notes = ("a slide's label and overview",)
    return _frame(values, "TIFF", False, tags, notes, TiffLayout(tile=TILE, pyramid=True, compression="jpeg"))


def _slide_resolution(properties: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
        return 1000 * _MM_PER_INCH / across, 1000 * _MM_PER_INCH / down
    except (KeyError, ValueError, ZeroDivisionError):
        return None


def _slide_profile(slide: Any) -> bytes | None:
    profile = getattr(slide, "color_profile", None)
    return None if profile is None else bytes(profile.tobytes())


def _frame(
    values: _Array, format: str, gray: bool, tags: Tags, notes: tuple[str, ...], layout: TiffLayout
) -> Frame[PictureExtras]:
    height, width, channels = values.shape
    alpha = None if channels < 4 else _opacity_of(values, folder_of(torch.from_numpy(values)))
    extras = PictureExtras(
        format=format,
        size=(height, width),
        bits=8 * values.itemsize,
        gray=gray,
        alpha=alpha,
        tags=tags,
        notes=notes,
        layout=layout,
    )
    return Frame(pixels=values[..., :3], origin=extras)


def _opacity_of(values: _Array, folder: PathLike | None) -> _Array:
    """The fourth channel, (height, width), in a file of its own."""
    alpha = scratch(values.shape[:2], values.dtype, folder)
    for top in range(0, len(values), ROWS):
        alpha[top : top + ROWS] = values[top : top + ROWS, :, 3]
        release(torch.from_numpy(alpha), torch.from_numpy(values))
    return alpha


def _layout(image: Image.Image) -> TiffLayout:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return TiffLayout()
    compression = _COMPRESSIONS.get(str(image.info.get("compression")), "none")
    return TiffLayout(
        tile=int(image.tag_v2.get(Base.TileWidth, 0)), pyramid=_is_pyramid(image), compression=compression
    )


def _is_pyramid(image: Image.Image) -> bool:
    """Whether the other pictures in a TIFF are reduced copies of the first."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    if Base.SubIFDs in image.tag_v2:
        return True
    count = getattr(image, "n_frames", 1)
    sizes = [image.size]
    for index in range(1, count):
        image.seek(index)
        sizes.append(image.size)
    image.seek(0)
    return count > 1 and all(_is_reduced(small, large) for large, small in pairwise(sizes))


def _is_reduced(small: tuple[int, int], large: tuple[int, int]) -> bool:
    factors = [large[axis] / small[axis] for axis in (0, 1)]
    return 1.5 < factors[0] < 17 and abs(factors[0] / factors[1] - 1) < 0.05 + 2 / min(small)


@contextmanager
def _header(path: PathLike) -> Iterator[Image.Image]:
    from cgpipe.media.pictures.read import opened, without_pillows_limit

    with opened(Path(path)) as file:
        with without_pillows_limit():
            image = Image.open(file, formats=BY_LINES)
        with image:
            yield image


# --- masks ---------------------------------------------------------------------------------------------------------


def confined_by_lines(
    frame: Frame[PictureExtras], mask: npt.NDArray[np.uint8], folder: PathLike
) -> Frame[PictureExtras]:
    """The frame with a mask as its fourth channel, in a file of its own.

    Edges are softened at :data:`MASK_SIDE` pixels and upsampled, to save memory.

    Raises:
        MediaError: the mask's aspect ratio differs from the picture's.
    """
    from cgpipe.media.pictures.masks import fit

    height, width = frame.pixels.shape[:2]
    share = min(1.0, MASK_SIDE / max(height, width))
    small = fit(mask, max(1, round(height * share)), max(1, round(width * share)))
    values = scratch((height, width, 4), frame.pixels.dtype, folder)
    white = 257 if frame.pixels.itemsize == 2 else 1
    for top in range(0, height, ROWS):
        rows = slice(top, min(top + ROWS, height))
        values[rows, :, :3] = frame.pixels[rows]
        values[rows, :, 3] = _brought_up(small, height, width, rows).astype(values.dtype) * white
        release(torch.from_numpy(values), torch.from_numpy(frame.pixels))
    return replace(frame, pixels=values)


def _brought_up(small: npt.NDArray[np.uint8], height: int, width: int, rows: slice) -> npt.NDArray[np.uint8]:
    """Some lines of a mask at a picture's size, bilinear."""
    places = np.clip((np.arange(rows.start, rows.stop) + 0.5) * len(small) / height - 0.5, 0, len(small) - 1)
    lower = places.astype(int)
    upper = np.minimum(lower + 1, len(small) - 1)
    first, last = int(lower[0]), int(upper[-1])
    wide = cv2.resize(small[first : last + 1], (width, last + 1 - first), interpolation=cv2.INTER_LINEAR)
    share = (places - lower)[:, None].astype(np.float32)
    mixed: _Array = np.rint(wide[lower - first] * (1 - share) + wide[upper - first] * share)
    return mixed.astype(np.uint8)


# --- out -----------------------------------------------------------------------------------------------------------


def is_written_here(pixels: _Array) -> bool:
    """Whether pixels lie in a file, and so are written line by line."""
    return is_scratch(torch.from_numpy(pixels))


def write_huge(
    path: Path,
    pixels: _Array,
    extras: PictureExtras,
    kind: str,
    quality: int,
    progress: Progress,
    *,
    gray: bool = False,
) -> None:
    """Writes a picture line by line.

    Args:
        path: the temporary file, with a suffix of the format.
        pixels: RGB (height, width, 3), for which :func:`is_written_here` holds.
        kind: the format.
        progress: called with each part that is written.
        gray: write its luma, in one channel; with opacity, in three.

    Raises:
        StoppedError: the job was stopped.
        MediaError: the format cannot be written line by line, or cannot hold so large a picture.
    """
    if kind not in BY_LINES:
        raise MediaError(f"So large a picture is not written as {BY_NAME[kind].title}: use --format tiff, png or jpg.")
    height, width = pixels.shape[:2]
    if kind == "JPEG" and max(height, width) > 65500:
        raise MediaError(f"JPEG cannot hold {width}x{height} pixels: use --format tiff.")
    vips = _vips()
    image = _held(vips, pixels)
    if gray:
        luma = image.recomb([[*LUMA]]).rint().cast(image.format)
        image = luma if extras.alpha is None else luma.bandjoin([luma, luma])
    if extras.alpha is not None:
        alpha = _held(vips, extras.alpha[..., None])
        image = image.bandjoin(alpha.cast(image.format, shift=True))
    elif gray:
        extras = replace(extras, tags=replace(extras.tags, icc=None))  # a profile of RGB
    image = image.copy(interpretation=_interpretation(image))
    try:
        with _told(image, progress, "write", pixels, extras.alpha):
            _WRITERS[kind](image, os.fspath(path), extras, quality)
    except vips.Error as error:
        line = (str(error).strip().splitlines() or ["unknown"])[-1][:120]
        raise MediaError(f"It cannot be written as {BY_NAME[kind].title} ({line}).") from error


def _held(vips: Any, values: _Array) -> pyvips.Image:
    height, width, bands = values.shape
    format = "ushort" if values.itemsize == 2 else "uchar"
    held: pyvips.Image = vips.Image.new_from_memory(values.data, width, height, bands, format)
    return held


def _interpretation(image: pyvips.Image) -> str:
    deep = image.format == "ushort"
    if image.bands == 1:
        return "grey16" if deep else "b-w"
    return "rgb16" if deep else "srgb"


@contextmanager
def _told(image: pyvips.Image, progress: Progress, stage: Stage, *arrays: _Array | None) -> Iterator[None]:
    """Reports each percent that libvips computes of an image; pages of arrays that it has read leave memory.

    Raises:
        StoppedError: the job was stopped.
    """
    held = [torch.from_numpy(values) for values in arrays if values is not None]
    last = 0

    def progressed(_: Any, now: Any) -> None:
        nonlocal last
        if now.percent > last:
            last = now.percent
            release(*held)
            try:
                progress.reached(stage, last / 100)
            except StoppedError:  # which libvips would swallow
                image.set_kill(True)

    image.set_progress(True)
    image.signal_connect("eval", progressed)
    try:
        yield
    except Exception:
        if progress.stopped.is_set():
            raise StoppedError from None
        raise
    progress.reached(stage, 1)


def _described(image: pyvips.Image, tags: Tags) -> pyvips.Image:
    """A copy with the tags of the picture's file."""
    import pyvips

    across, down = (value / _MM_PER_INCH for value in tags.dpi or (_MM_PER_INCH, _MM_PER_INCH))
    described: pyvips.Image = image.copy(xres=across, yres=down)
    blobs = {"icc-profile-data": tags.icc, "xmp-data": tags.xmp, "exif-data": tags.exif, "iptc-data": tags.iptc}
    for name, content in blobs.items():
        if content:
            described.set_type(pyvips.GValue.blob_type, name, content)
    if text := _description(tags):
        described.set_type(pyvips.GValue.gstr_type, "image-description", text)
    return described


def _description(tags: Tags) -> str:
    exif = Image.Exif()
    if tags.exif:
        exif.load(tags.exif)
    return str(exif.get(Base.ImageDescription, ""))


def takes_big_tiff(width: int, height: int, bytes_a_pixel: int, *, pyramid: bool) -> bool:
    """Whether a TIFF may exceed the 4.29 GB that offsets of 32 bits reach."""
    return width * height * bytes_a_pixel * (4 / 3 if pyramid else 1) > _BIG_TIFF


def _write_tiff(image: pyvips.Image, path: str, extras: PictureExtras, quality: int) -> None:
    layout = extras.layout or TiffLayout()
    channels = image.bands * (2 if image.format == "ushort" else 1)
    compression = layout.compression
    if compression == "jpeg" and channels not in (1, 3):
        compression = "deflate"
    _described(image, extras.tags).tiffsave(
        path,
        tile=bool(layout.tile) or layout.pyramid,
        tile_width=layout.tile or TILE,
        tile_height=layout.tile or TILE,
        pyramid=layout.pyramid,
        compression=compression,
        predictor="horizontal" if compression in ("lzw", "deflate") else "none",
        Q=quality,
        bigtiff=takes_big_tiff(image.width, image.height, channels, pyramid=layout.pyramid),
        resunit="inch" if extras.tags.dpi else "cm",
    )


def _write_jpeg(image: pyvips.Image, path: str, extras: PictureExtras, quality: int) -> None:
    if image.format == "ushort":
        image = image.cast("uchar", shift=True)
        image = image.copy(interpretation=_interpretation(image))
    if image.bands == 4:
        image = image.flatten(background=[255, 255, 255])
    _described(image, extras.tags).jpegsave(path, Q=quality, subsample_mode="off")


def _write_png(image: pyvips.Image, path: str, extras: PictureExtras, quality: int) -> None:
    _described(image, extras.tags).pngsave(path, compression=1, filter="sub")


_WRITERS: dict[str, Callable[[Any, str, PictureExtras, int], None]] = {
    "TIFF": _write_tiff,
    "JPEG": _write_jpeg,
    "PNG": _write_png,
}


# --- extras --------------------------------------------------------------------------------------------------------


def reads_by_lines() -> bool:
    """Whether the extra ``huge`` is installed."""
    return find_spec("pyvips") is not None


def _vips() -> Any:
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise UnsupportedFormatError(
            "Pictures larger than memory and pyramids are read by an extra: pip install 'cgpipe[huge]'."
        ) from error
    pyvips.cache_set_max(0)  # a picture is never read twice
    return pyvips


def _openslide() -> Any:
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise UnsupportedFormatError("Slides are read by an extra: pip install 'cgpipe[slides,huge]'.") from error
    _vips()  # which writes them
    return openslide


def _no_disk(path: PathLike, folder: PathLike, error: OSError) -> str:
    free = shutil.disk_usage(folder).free / 1e9
    return f"It cannot be unpacked in {folder} ({error.strerror or error}; {free:.1f} GB are free there)."
