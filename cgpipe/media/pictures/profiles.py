"""Colour management: gray and CMYK to sRGB through their embedded profile."""

from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from cgpipe.media.pictures.tags import profile_space

_Array = npt.NDArray[np.unsignedinteger]  # uint8 or uint16


def from_cmyk(image: Image.Image) -> Image.Image:
    """RGB through the profile, as print programs do; without a usable profile, by plain subtraction."""
    profile = image.info.get("icc_profile", b"")
    if profile_space(profile) == "CMYK":
        with suppress(ImageCms.PyCMSError):
            return _to_srgb(image, profile)
    return image.convert("RGB")


def correct_gray(pixels: _Array, profile: bytes) -> None:
    """Converts gray from the tone curve of its profile, if it has one, to that of sRGB, in place."""
    if profile_space(profile) != "GRAY":
        return
    ramp = np.arange(256, dtype=np.uint8)
    with suppress(ImageCms.PyCMSError):
        # Unoptimised, since the short cuts of colour management are 10 steps off in the dark.
        curve: _Array = np.array(_to_srgb(Image.fromarray(ramp[None]), profile, ImageCms.Flags.NOOPTIMIZE))[0, :, 1]
        if pixels.dtype == np.uint16:
            curve = np.rint(257 * np.interp(np.arange(65536) / 257, ramp, curve)).astype(np.uint16)
        pixels[..., :3] = curve[pixels[..., :3]]


def _to_srgb(image: Image.Image, profile: bytes, flags: ImageCms.Flags = ImageCms.Flags.NONE) -> Image.Image:
    converted: Image.Image | None = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=flags | ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # which it is only when converting in place
    return converted
