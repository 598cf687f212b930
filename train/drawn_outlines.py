"""Draws a small set of pairs, to try pix2pix on without any pictures: outlines, and the filled shapes that they mean.

python train/drawn_outlines.py datasets/shapes
cgpipe train --config train/shapes.toml
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 64
COUNTS = {"train": 200, "test": 24}
PAPER, INK = (250, 250, 250), (40, 40, 40)
GROUND = (205, 190, 170)
COLOURS = {0: (60, 60, 200), 3: (70, 160, 70), 4: (190, 110, 40)}
"""BGR by the number of corners; 0 is a circle."""


def corners_of(count: int, chance: np.random.Generator) -> NDArray[np.int32]:
    """A circle (as 40 corners) or a regular polygon, anywhere inside the picture: (corners, 2)."""
    radius = chance.uniform(10, 17)
    middle = chance.uniform(radius + 2, SIDE - radius - 2, 2)
    number = count or 40
    angles = chance.uniform(0, 2 * np.pi) + np.arange(number) * 2 * np.pi / number
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (middle + radius * around).round().astype(np.int32)


def draw_pair(chance: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Outlines on paper, and the same shapes filled, each kind in its colour; (SIDE, SIDE, 3), BGR."""
    outlines, filled = (np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in (PAPER, GROUND))
    for _ in range(2):
        count = int(chance.choice(list(COLOURS)))
        corners = corners_of(count, chance)
        cv2.fillPoly(outlines, [corners], PAPER, cv2.LINE_AA)
        cv2.polylines(outlines, [corners], True, INK, 2, cv2.LINE_AA)
        cv2.fillPoly(filled, [corners], COLOURS[count], cv2.LINE_AA)
    return outlines, filled


def main(folder: Path) -> None:
    """Writes trainA, trainB, testA and testB, without overwriting anything."""
    for split, count in COUNTS.items():
        for place in "AB":
            (folder / f"{split}{place}").mkdir(parents=True)
        chance = np.random.default_rng(count)
        for index in range(count):
            for place, picture in zip("AB", draw_pair(chance), strict=True):
                cv2.imwrite(str(folder / f"{split}{place}" / f"{index:03d}.png"), picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", type=Path, help="where trainA, trainB, testA and testB are made, such as datasets/shapes"
    )
    asked = parser.parse_args()
    try:
        main(asked.folder)
    except FileExistsError as error:
        parser.error(f"{error.filename} is there already: name another folder")
