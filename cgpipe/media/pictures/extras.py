"""What a picture file holds beside its RGB pixels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from cgpipe.media.frames import Pixels, at_size
from cgpipe.media.pictures.tags import Tags, sized

StackKind = Literal["pages", "samples"]
"""How a TIFF holds channels beyond gray, RGB and opacity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffLayout:
    """How the pixels are laid out in a TIFF that is read and written line by line.

    Args:
        tile: side of its tiles in pixels; 0: strips.
        pyramid: whether reduced copies follow the picture.
        compression: libvips' name.
    """

    tile: int = 0
    pyramid: bool = False
    compression: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureExtras:
    """What a picture file holds beside its pixels.

    Args:
        format: the name of one of :data:`~cgpipe.media.pictures.formats.FORMATS`.
        size: height and width in the file, upright; those of the pixels, unless they were read reduced.
        bits: bits per channel in the file, 1 to 16.
        gray: whether the file is grayscale.
        alpha: alpha, shape (height, width), of the pixels' dtype; None if the file has none.
        lossless: whether the file is lossless WebP, so that the output must be lossless too.
        tags: profile, EXIF, XMP, resolution and so on, adapted to upright RGB pixels.
        notes: what the file holds and its translation will not, as text.
        layout: of a picture that was read line by line.
        stack: of a TIFF stack: how it holds its channels.
    """

    format: str
    size: tuple[int, int]
    bits: int = 8
    gray: bool = False
    alpha: Pixels | None = None
    lossless: bool = False
    tags: Tags = field(default_factory=Tags)
    notes: tuple[str, ...] = ()
    layout: TiffLayout | None = None
    stack: StackKind | None = None

    def at_size(self, height: int, width: int) -> PictureExtras:
        """The same for pixels that were enlarged: opacity and what the tags say of the size go with them."""
        if self.size == (height, width):
            return self
        alpha = None if self.alpha is None else at_size(self.alpha, height, width)
        return replace(self, size=(height, width), alpha=alpha, tags=sized(self.tags, height, width))
