"""Copies photos into folders by the colours of skies and leaves: days and sunsets, summer and autumn.

python train/sort_photos.py datasets/monet2photo/trainB sorted
cgpipe train --config train/day2sunset.toml --domain-a sorted/day --domain-b sorted/sunset ...

Look through the folders, and delete what does not belong, such as dunes among sunsets and deserts among autumn.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from cgpipe.data.loading import load_8_bits
from cgpipe.data.pictures import find_pictures
from cgpipe.errors import CgpipeError

SIDE = 128
"""Sides at which photos are looked at."""
ROUGH = 25
"""Local mean of the absolute Laplacian, in levels of 255, from which leaves and grass begin, and skies end."""


class Colours(NamedTuple):
    """What a photo is sorted by. Its sky is its upper half; shares are 0 to 1.

    Args:
        glow: share of the sky that is red, orange, yellow or violet.
        blue: share of the sky that is blue.
        warm: share of the photo that is red to orange.
        green: share of the photo that is green.
        dark: share of the photo that is dark.
        lightness: mean, 0 to 100.
        saturation: mean, 0 to 1.
        texture: mean absolute Laplacian of the sky, in levels of 255: high for trees and walls.
        red_leaves: share of the photo that is rough and red to yellow.
        green_leaves: share of the photo that is rough and green.
    """

    glow: float
    blue: float
    warm: float
    green: float
    dark: float
    lightness: float
    saturation: float
    texture: float
    red_leaves: float
    green_leaves: float


def is_day(photo: Colours) -> bool:
    """A smooth sky without the colours of a sunset, neither night nor fog."""
    sky = photo.glow < 0.05 and photo.warm < 0.2 and photo.texture < 14
    return sky and 36 < photo.lightness < 75 and photo.saturation > 0.12 and photo.dark < 0.35


def is_sunset(photo: Colours) -> bool:
    """A smooth sky in the colours of a sunset, over land that is no meadow."""
    sky = photo.glow > 0.28 and photo.blue < 0.35 and photo.texture < 14
    return sky and photo.green < 0.15 and photo.lightness < 65 and photo.saturation > 0.25


def is_autumn(photo: Colours) -> bool:
    """Red and yellow leaves; deserts and ruins look much the same."""
    return photo.red_leaves > 0.3


def is_summer(photo: Colours) -> bool:
    """Green leaves and hardly any others."""
    return photo.green_leaves > 0.2 and photo.red_leaves < 0.1 and photo.dark < 0.4


KINDS: Mapping[str, Callable[[Colours], bool]] = {
    "day": is_day,
    "sunset": is_sunset,
    "summer": is_summer,
    "autumn": is_autumn,
}


def colours_of(pixels: npt.NDArray[np.uint8]) -> Colours:
    """The colours of RGB uint8 (height, width, 3)."""
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    values = small.astype(np.float32) / 255
    hue, saturation, value = np.moveaxis(cv2.cvtColor(values, cv2.COLOR_RGB2HSV), 2, 0)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = np.abs(cv2.Laplacian(gray, cv2.CV_32F))
    rough = cv2.blur(edges, (9, 9)) > ROUGH
    sky = np.s_[: SIDE // 2]
    return Colours(
        glow=float((((hue < 48) | (hue > 285)) & (saturation > 0.25) & (value > 0.35))[sky].mean()),
        blue=float(((hue > 180) & (hue < 260) & (saturation > 0.2) & (value > 0.35))[sky].mean()),
        warm=float((((hue < 50) | (hue > 330)) & (saturation > 0.35) & (value > 0.25)).mean()),
        green=float(((hue > 65) & (hue < 170) & (saturation > 0.2)).mean()),
        dark=float((value < 0.2).mean()),
        lightness=float(cv2.cvtColor(values, cv2.COLOR_RGB2Lab)[..., 0].mean()),
        saturation=float(saturation.mean()),
        texture=float(edges[: SIDE * 2 // 5].mean()),
        red_leaves=float((((hue < 54) | (hue > 345)) & (saturation > 0.35) & (value > 0.2) & rough).mean()),
        green_leaves=float(((hue > 60) & (hue < 150) & (saturation > 0.2) & (value > 0.12) & rough).mean()),
    )


def main() -> None:
    """Parses the command line and copies each photo into the folders of its kinds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("target", type=Path, help="folder for the folders")
    given = parser.parse_args()
    counts = dict.fromkeys(KINDS, 0)
    try:
        for path in find_pictures(given.photos):
            colours = colours_of(load_8_bits(path))
            for kind in (kind for kind, belongs in KINDS.items() if belongs(colours)):
                copy = given.target / kind / path.relative_to(given.photos)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                counts[kind] += 1
    except (CgpipeError, OSError) as error:
        parser.error(str(error))
    for kind, count in counts.items():
        print(f"{kind}: {count} photos")


if __name__ == "__main__":
    main()
