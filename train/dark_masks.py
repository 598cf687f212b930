"""Makes masks of the dark parts of a folder of pictures, so that night stays night while a generator learns.

python train/dark_masks.py datasets/monet2photo/trainB masks/monet2photo/trainB
cgpipe train --config train/photo2monet-more.toml --masks-b masks/monet2photo/trainB ...

White may change, black shall not. What is made to look like paintings on average, none of which is dark, otherwise
fills night skies with strokes of all colours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cgpipe.data.loading import load_8_bits
from cgpipe.data.pictures import find_pictures
from cgpipe.errors import CgpipeError

BLACK, WHITE = 30, 80
"""Levels of 255, averaged around each place: what is dark, and what is not."""
SPREAD = 1 / 12
"""How far around, as a share of the shorter side: dark trees may change, dark skies not."""


def mask(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Grey (height, width) of RGB uint8 (height, width, 3): black where it is dark."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    around = cv2.GaussianBlur(grey, (0, 0), SPREAD * min(grey.shape))
    return (np.clip((around - BLACK) / (WHITE - BLACK), 0, 1) * 255).astype(np.uint8)


def main() -> None:
    """Parses the command line and writes one mask a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pictures", type=Path, help="folder of pictures")
    parser.add_argument("target", type=Path, help="folder for the masks")
    given = parser.parse_args()
    try:
        for path in find_pictures(given.pictures):
            target = (given.target / path.relative_to(given.pictures)).with_suffix(".png")
            target.parent.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(target), mask(load_8_bits(path))):
                parser.error(f"{target} cannot be written")
    except CgpipeError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
