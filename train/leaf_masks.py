"""Copies photos of leaves and makes masks of them by their colours, with some other photos that have hardly any.

python train/leaf_masks.py sorted/summer leaves --others sorted/day --others datasets/horse2zebra/trainA
cgpipe train --config train/summer2autumn-attention.toml --domain-a leaves/pictures \
    --masks-a leaves/masks --domain-b sorted/autumn ...

White may change, black shall not: a network with attention learns from it to leave skies, water, rock, walls and fur as
they are. Leaves are what is green.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cgpipe.data.loading import load_8_bits
from cgpipe.data.pictures import find_pictures
from cgpipe.errors import CgpipeError

SIDE = 256
"""Sides of the masks."""
SPECK, GAP, MARGIN = 1, 4, 2
"""In pixels of a mask: radius of what is no leaf, of what is closed between leaves, and of what is added around."""


def mask(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Grey (SIDE, SIDE) of RGB uint8 (height, width, 3): white where leaves or grass are."""
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    hue, saturation, value = cv2.split(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2HSV))
    leaves = (hue > 52) & (hue < 165) & (saturation > 0.13) & (value > 0.07)
    found = cv2.morphologyEx(np.uint8(255) * leaves.astype(np.uint8), cv2.MORPH_OPEN, _disc(SPECK))
    found = cv2.dilate(cv2.morphologyEx(found, cv2.MORPH_CLOSE, _disc(GAP)), _disc(MARGIN))
    return np.asarray(cv2.GaussianBlur(found, (0, 0), 1.5), np.uint8)


def _disc(radius: int) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)


def evenly(paths: list[Path], count: int) -> list[Path]:
    """``count`` of the paths, at equal distances; all if there are no more."""
    return [paths[n * len(paths) // count] for n in range(count)] if count < len(paths) else paths


def main() -> None:
    """Parses the command line, and copies the photos and makes their masks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photos", type=Path, help="folder of photos of leaves")
    parser.add_argument("target", type=Path, help="folder for the folders pictures and masks")
    parser.add_argument("--others", type=Path, action="append", default=[], help="folder of other photos; repeatable")
    parser.add_argument("--count", type=int, default=10, help="how many of each folder of others (default: 10)")
    given = parser.parse_args()
    try:
        leaves = find_pictures(given.photos)
        others = [path for folder in given.others for path in evenly(find_pictures(folder), given.count)]
        for number, path in enumerate([*leaves, *others]):
            # Photos of several folders may have one name.
            name = f"{number:04d}-{path.name}"
            for folder in ("pictures", "masks"):
                (given.target / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, given.target / "pictures" / name)
            target = (given.target / "masks" / name).with_suffix(".png")
            if not cv2.imwrite(str(target), mask(load_8_bits(path))):
                parser.error(f"{target} cannot be written")
    except (CgpipeError, OSError) as error:
        parser.error(str(error))
    print(f"{len(leaves)} photos of leaves, {len(others)} others")


if __name__ == "__main__":
    main()
