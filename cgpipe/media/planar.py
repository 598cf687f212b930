"""8-bit planar YUV as one run of bytes: what most clips hold, at half the bytes of RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Planar:
    """How such bytes are laid out, and what they mean: luma, then the two planes of chroma, line by line.

    Args:
        height: of the picture, in lines.
        width: the same, in pixels.
        down: lines that share a line of chroma: 1 or 2.
        across: pixels of a line that share a sample of chroma: 1 or 2.
        matrix: H.273 matrix coefficients.
        full_range: whether luma runs over 0 to 255 rather than 16 to 235.
    """

    height: int
    width: int
    down: int
    across: int
    matrix: int
    full_range: bool

    @property
    def can_turn(self) -> bool:
        """Whether a picture can be turned and mirrored plane by plane: chroma then falls on the same pixels."""
        return self.down == self.across and self.is_whole

    @property
    def is_whole(self) -> bool:
        """Whether all samples of chroma stand for as many pixels: at odd sides the last ones do not."""
        return not (self.height % self.down or self.width % self.across)

    def transposed(self) -> Planar:
        """The layout of a picture with rows and columns exchanged, if it can turn."""
        return replace(self, height=self.width, width=self.height)

    @property
    def pix_fmt(self) -> str:
        """libav's name of the format that has these planes."""
        return {(2, 2): "yuv420p", (1, 2): "yuv422p", (1, 1): "yuv444p"}[self.down, self.across]

    @property
    def chroma(self) -> tuple[int, int]:
        """Height and width of a plane of chroma."""
        return -(-self.height // self.down), -(-self.width // self.across)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each plane."""
        return (self.height, self.width), self.chroma, self.chroma

    @property
    def sizes(self) -> tuple[int, ...]:
        """Bytes of each plane."""
        return tuple(height * width for height, width in self.shapes)
