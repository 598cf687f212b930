"""One training picture: read, brought to its size, cropped and flipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from cgpipe.data.direction import Domain
from cgpipe.data.pictures import Half, Place, path_of
from cgpipe.data.settings import PictureSettings
from cgpipe.errors import MediaError
from cgpipe.media.frames import in_8_bits
from cgpipe.media.pictures.planes import read_planes
from cgpipe.models import Model

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""(height, width, channels), 0 to 255; float32 where a picture has more than 8 bits."""

FULL_RANGE = 65535
LIGHT = 0.7
"""Fraction of the recoloured pictures that become lighter."""
PROBED = 48
"""Pictures of a set that are read to find which of their 16 bits are used."""


@dataclass(frozen=True, slots=True)
class ValueRange:
    """Values of 16-bit pictures that are black and white to the networks."""

    low: int = 0
    high: int = FULL_RANGE

    @property
    def is_partial(self) -> bool:
        """Whether not all 16 bits are used."""
        return (self.low, self.high) != (0, FULL_RANGE)

    def scaled(self, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
        """The same from 0 to 255; what lies outside is clipped."""
        scaled = (pixels.astype(np.float32) - self.low) * np.float32(255 / (self.high - self.low))
        return scaled.clip(0, 255, out=scaled)


def read_pixels(picture: Place, channels: int = 3) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """A picture, or a half of one, as it is stored: (height, width, channels), upright.

    Raises:
        MediaError: it cannot be read, or is too narrow to be halved.
    """
    pixels = read_planes(path_of(picture), channels).pixels
    if not isinstance(picture, Half):
        return pixels
    half = pixels.shape[1] // 2
    if not half:
        raise MediaError("The picture is one pixel wide and has no halves.")
    return pixels[:, -half:] if picture.right else pixels[:, :half]


def read_named(picture: Place, channels: int = 3) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """The same; the message of an error names the picture."""
    with naming(picture):
        return read_pixels(picture, channels)


@contextmanager
def naming(picture: Place) -> Iterator[None]:
    """Names a picture in the message of a MediaError."""
    try:
        yield
    except MediaError as error:
        raise MediaError(f"{path_of(picture)}: {error}") from error


@dataclass(frozen=True, slots=True)
class Form:
    """How the pictures of a domain are read: their channels, and the values of those with 16 bits."""

    channels: int = 3
    values: ValueRange | None = None


RGB = Form()


def forms_of(model: Model) -> tuple[Form, Form]:
    """How pictures for a model, and real ones of what it makes, are read."""
    card = model.card
    taken, given = model.generator.channels
    seen, made = (card.value_range(domain) for domain in (card.source, card.target))
    return Form(taken, ValueRange(*seen) if seen else None), Form(given, ValueRange(*made) if made else None)


def ranges_on_card(ranges: Mapping[Domain, ValueRange], source: str, target: str) -> dict[str, dict[str, list[int]]]:
    """What a card's ``made_by`` says of the ranges (see :meth:`ModelCard.value_range`); nothing without 16 bits."""
    names = {"a": source, "b": target}
    told = {names[domain]: [values.low, values.high] for domain, values in ranges.items()}
    return {"value_range": told} if told else {}


def load_pixels(picture: Place, values: ValueRange | None = None, channels: int = 3) -> Pixels:
    """A picture with so many channels, upright: uint8, or float32 of the same range where it has 16 bits.

    Raises:
        MediaError: it cannot be read; the message names it.
    """
    pixels = read_named(picture, channels)
    return (values or ValueRange()).scaled(pixels) if pixels.dtype == np.uint16 else in_8_bits(pixels)


def load_8_bits(picture: Place, values: ValueRange | None = None, channels: int = 3) -> npt.NDArray[np.uint8]:
    """The same, rounded to 8 bits."""
    pixels = load_pixels(picture, values, channels)
    return pixels if pixels.dtype == np.uint8 else pixels.round().astype(np.uint8)  # type: ignore[return-value]


def find_range(pictures: Sequence[Place], channels: int = 3) -> ValueRange | None:
    """The bits that the 16-bit pictures of a set use, by a sample of them; None where there are none.

    Scanners store 10, 12 or 14 bits in files of 16: such pictures would be all but black.
    """
    step = max(1, len(pictures) // PROBED)
    brightest = [value for picture in pictures[::step] if (value := _brightest(picture, channels)) is not None]
    return ValueRange(high=2 ** max(brightest).bit_length() - 1) if any(brightest) else None


def _brightest(picture: Place, channels: int) -> int | None:
    """The largest value of a 16-bit picture; None for others, and for what cannot be read."""
    try:
        pixels = read_pixels(picture, channels)
    except MediaError:
        return None
    return int(pixels.max()) if pixels.dtype == np.uint16 else None


def to_network_range(pixels: Pixels | torch.Tensor) -> torch.Tensor:
    """Pixels (..., height, width, C) from 0 to 255 as float32 (..., C, height, width) in [-1, 1]."""
    return torch.as_tensor(pixels).movedim(-1, -3).to(torch.float32, copy=True).div_(127.5).sub_(1)


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """(H, W, C) at another size: bicubic, and along each side that shrinks antialiased, as Pillow does it."""
    made: Pixels = _resized(torch.from_numpy(pixels), height, width).numpy()
    return made


def _resized(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The same for a tensor, which becomes float32 on a GPU."""
    if pixels.shape[:2] == (height, width):
        return pixels
    planes = pixels.movedim(-1, 0)[None]
    if pixels.dtype != torch.uint8:
        made = _interpolated(planes, height, width).clamp_(0, 255)
    elif pixels.device.type == "cpu":
        made = _interpolated(planes, height, width)
    else:
        made = interpolated_like_integers(planes, height, width)
    return made[0].movedim(0, -1)


def interpolated_like_integers(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, C, H, W) of uint8 at another size, in float32: across, then down, rounded after each, as on a CPU.

    Values differ by up to 2 from there, one in a hundred by 1.
    """
    across = _interpolated(planes.float(), planes.shape[2], width).round_().clamp_(0, 255)
    return _interpolated(across, height, width).round_().clamp_(0, 255)


def _interpolated(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(planes, (height, width), mode="bicubic", align_corners=False, antialias=True)


def augment(
    pixels: Pixels, settings: PictureSettings, random: np.random.Generator, *, multiple: int = 1, least: int = 1
) -> Pixels:
    """Resizes a picture (height, width, channels), crops it at random and flips it, as ``settings`` say.

    Without a crop, the sides become the nearest multiples of ``multiple``, of a picture enlarged to ``least`` pixels if
    it is smaller.
    """
    (picture,) = augment_alike([torch.from_numpy(pixels)], settings, random, multiple=multiple, least=least)
    made: Pixels = picture.numpy()
    return made


def augment_alike(
    pictures: Sequence[torch.Tensor],
    settings: PictureSettings,
    random: np.random.Generator,
    *,
    multiple: int = 1,
    least: int = 1,
) -> list[torch.Tensor]:
    """The same for pictures of one scene, on any device: all get the size, the crop and the flip of the first."""
    height, width = _loaded_size(pictures[0].shape[0], pictures[0].shape[1], settings, random)
    if not settings.crops:
        scale = max(1.0, -(-least // multiple) * multiple / min(height, width))
        height, width = (max(1, round(scale * side / multiple)) * multiple for side in (height, width))
    pictures = [_resized(pixels, height, width) for pixels in pictures]
    if settings.crops:
        top = int(random.integers(0, height - settings.crop_height, endpoint=True))
        left = int(random.integers(0, width - settings.crop_width, endpoint=True))
        bottom, right = top + settings.crop_height, left + settings.crop_width
        pictures = [pixels[top:bottom, left:right] for pixels in pictures]
    flipped = random.random() < 0.5 and settings.flip
    return [pixels.flip(1) if flipped else pixels for pixels in pictures]


def recolour(pixels: torch.Tensor, mask: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Recolours a subject: lighter and grayer more often than not, since pale subjects are the rarer, else darker.

    Args:
        pixels: (height, width, C); of 4 channels the last is opacity, which stays.
        mask: (height, width, 1), 255 on the subject, 0 elsewhere.
        random: decides the colour.
    """
    if pixels.shape[2] == 4:
        return torch.cat([recolour(pixels[..., :3], mask, random), pixels[..., 3:]], dim=2)
    light = random.random() < LIGHT
    grayness = random.uniform(0.5, 1.0) if light else random.uniform(0.0, 0.7)
    gamma = random.uniform(0.3, 0.7) if light else random.uniform(1.2, 2.2)
    # A gamma alone leaves the shadows of a brown coat; those of a white one are pale.
    haze = random.uniform(0.0, 0.65) if light else 0.0
    values = pixels.float() / 255
    gray = values.mean(dim=2, keepdim=True)
    changed = (values + grayness * (gray - values)) ** gamma
    changed = changed + haze * (1 - changed)
    # Narrower edges now and then: a halo would tell that the coat is painted.
    share = (mask.float() / 255) ** random.uniform(1.0, 4.0)
    mixed = 255 * (values + share * (changed - values))
    return mixed if pixels.dtype == torch.float32 else mixed.round().to(torch.uint8)


def _loaded_size(height: int, width: int, settings: PictureSettings, random: np.random.Generator) -> tuple[int, int]:
    """Height and width to which a picture of this size is brought before the crop."""
    load_height = settings.load_height
    if settings.load_min:
        load_height = int(random.integers(settings.load_min, settings.load_height, endpoint=True))
    load_width = round(settings.load_width * load_height / settings.load_height)
    if settings.preprocess == "resize_and_crop":
        return load_height, max(settings.crop_width, load_width)
    scale = 1.0
    if settings.preprocess.startswith("scale_width"):
        scale = load_width / width
    elif settings.preprocess.startswith("scale_shortest"):
        scale = load_height / min(height, width)
    if settings.crops:
        scale = max(scale, settings.crop_height / height, settings.crop_width / width)
    return round(height * scale), round(width * scale)
