"""Draws a small unpaired dataset, to try the trainer on without any pictures: plain balls, and striped ones.

python train/drawn_pair.py datasets/balls
cgpipe train --config train/balls.toml
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 96
COUNTS = {"train": 300, "test": 24}
SKIES = [(235, 205, 170), (200, 190, 215), (225, 220, 205)]
GROUNDS = [(70, 140, 95), (90, 150, 180), (110, 120, 125)]
BALLS = [(60, 90, 170), (50, 120, 190), (80, 110, 140)]


def draw_ground(chance: np.random.Generator) -> NDArray[np.uint8]:
    """A sky and a ground with a horizon between them, both a little uneven; (SIDE, SIDE, 3), BGR."""
    sky, ground = (np.array(colours[chance.integers(3)], np.float32) for colours in (SKIES, GROUNDS))
    horizon = int(chance.integers(SIDE // 3, 2 * SIDE // 3))
    picture = np.where(np.arange(SIDE)[:, None, None] < horizon, sky, ground) * np.ones((1, SIDE, 1), np.float32)
    coarse = cv2.resize(chance.normal(0, 14, (9, 9)).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return (picture + coarse[..., None]).clip(0, 255).astype(np.uint8)


def draw_ball(picture: NDArray[np.uint8], chance: np.random.Generator, *, striped: bool) -> None:
    """Draws a shaded ball at a random place."""
    radius = int(chance.integers(15, 27))
    middle = chance.integers(radius, SIDE - radius, 2)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    inside = cv2.circle(np.zeros((SIDE, SIDE), np.uint8), middle.tolist(), radius, 255, -1, cv2.LINE_AA)
    colour = np.array(BALLS[chance.integers(3)], np.float32) * np.ones((SIDE, SIDE, 1), np.float32)
    if striped:
        angle, phase = chance.uniform(-0.5, 0.5), chance.uniform(0, 6)
        wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / 8 + phase)
        colour = np.where(wave[..., None] > 0, 235.0, 25.0) * np.ones((1, 1, 3))
    light = 1.15 - 0.5 * np.hypot(x - middle[0] + radius / 3, y - middle[1] + radius / 3) / radius
    share = inside[..., None] / 255
    picture[:] = (share * (colour * light[..., None]) + (1 - share) * picture).clip(0, 255)


def main(folder: Path) -> None:
    """Writes trainA, trainB, testA and testB, without overwriting anything."""
    for place, striped in (("A", False), ("B", True)):
        for split, count in COUNTS.items():
            (folder / f"{split}{place}").mkdir(parents=True)
            chance = np.random.default_rng([striped, count])
            for index in range(count):
                picture = draw_ground(chance)
                draw_ball(picture, chance, striped=striped)
                cv2.imwrite(str(folder / f"{split}{place}" / f"{index:03d}.png"), picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", type=Path, help="where trainA, trainB, testA and testB are made, such as datasets/balls"
    )
    asked = parser.parse_args()
    try:
        main(asked.folder)
    except FileExistsError as error:
        parser.error(f"{error.filename} is there already: name another folder")
