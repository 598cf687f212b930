"""What was in a picture file beside the RGB pixels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cgpipe.media.frames import Pixels, at_size
from cgpipe.media.pictures.tags import Tags, sized


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffLayout:
    """How the pixels lie in a TIFF that is read and written by lines.

    Args:
        tile: side in pixels of its tiles; 0: it is in strips.
        pyramid: with reduced pictures behind.
        compression: as libvips calls it.
    """

    tile: int = 0
    pyramid: bool = False
    compression: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureExtras:
    """What was in a picture file beside the RGB pixels.

    Args:
        format: the name of one of :data:`~cgpipe.media.pictures.formats.FORMATS`.
        size: height and width in the file, upright; the pixels' own, unless they were read reduced.
        bits: bits a channel in the file, 1 to 16.
        gray: the file holds no colour.
        alpha: opacity, shape (height, width), of the pixels' type; None if the file has none.
        lossless: the file is WebP that lost nothing, and so shall be what is written in its place.
        tags: profile, EXIF, XMP, resolution and so on, as they fit upright RGB pixels.
        notes: what the file holds and a translation does not, as text.
        layout: of a picture that was read by lines.
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

    def at_size(self, height: int, width: int) -> PictureExtras:
        """The same for pixels that were enlarged: opacity and what the tags say of the size go with them."""
        if self.size == (height, width):
            return self
        alpha = None if self.alpha is None else at_size(self.alpha, height, width)
        return replace(self, size=(height, width), alpha=alpha, tags=sized(self.tags, height, width))
