"""Copies pictures of animals and their masks into two folders, those of the palest animals several times.

python train/pale_coats.py datasets/horse2zebra/trainA masks/trainA evened
cgpipe train --config train/horse2zebra-attention.toml --domain-a evened/pictures --masks-a evened/masks ...

A set has few white horses, and a generator learns to leave them alone. Seen more often, they get stripes, too.
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

PALE, GRAY = 170, 60
"""Lightness from which a pixel is pale, and the most by which its channels differ then, in levels of 255."""
LEAST = 0.06
"""Share of a picture that its animals take at least, to be repeated: smaller ones are found by luck."""


def paleness(pixels: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> float:
    """Share of an animal that is nearly white, from RGB and a mask; 0 for one that is too small to tell."""
    resized = cv2.resize(mask, pixels.shape[1::-1], interpolation=cv2.INTER_AREA)
    animal = resized > 200
    if animal.mean() < LEAST:
        return 0.0
    pale = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) > PALE) & (np.ptp(pixels, axis=2) < GRAY)
    return float(pale[animal].mean())


def main() -> None:
    """Parses the command line, and copies the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pictures", type=Path, help="folder of pictures")
    parser.add_argument("masks", type=Path, help="folder of their masks, as animal_masks.py writes them")
    parser.add_argument("target", type=Path, help="folder for the folders pictures and masks")
    parser.add_argument("--count", type=int, default=80, help="how many of the palest to repeat (default: 80)")
    parser.add_argument("--times", type=int, default=4, help="how often each of them is there (default: 4)")
    given = parser.parse_args()
    try:
        places = [path.relative_to(given.pictures) for path in find_pictures(given.pictures)]
        masks = {place: given.masks / place.with_suffix(".png") for place in places}
        found = {
            place: paleness(load_8_bits(given.pictures / place), load_8_bits(mask)[..., 0].copy())
            for place, mask in masks.items()
            if mask.is_file()
        }
        palest = sorted(found, key=lambda place: -found[place])[: given.count]
        for place in found:
            for number in range(given.times if place in palest else 1):
                copied = place.with_stem(f"{place.stem}-{number}") if number else place
                copy(given.pictures / place, given.target / "pictures" / copied)
                copy(masks[place], given.target / "masks" / copied.with_suffix(".png"))
    except (CgpipeError, OSError) as error:
        parser.error(str(error))
    print(f"{len(found)} pictures, {len(palest)} of them {given.times} times")


def copy(source: Path, target: Path) -> None:
    """Copies a file into a folder that is made if it is not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
