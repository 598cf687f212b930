"""Copies masks of animals into another folder, white throughout where the animal fills the picture.

python train/close_ups.py datasets/horse2zebra/trainB masks cgpipe/models/starts/compact-xs.safetensors opened
cgpipe train --config train/zebra2horse-attention.toml --masks-b opened ...

What cuts animals out looks for a foreground, and of a close-up finds ears or stripes alone. A model without
attention that takes stripes away tells: on a close-up it takes as much detail away outside the mask as within it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from cgpipe.data.loading import load_8_bits
from cgpipe.data.pictures import find_pictures
from cgpipe.errors import CgpipeError
from cgpipe.evaluation.evaluator import load_picture
from cgpipe.models.choose import choose_model
from cgpipe.options import ModelChoice

SIDE = 256
"""Pixels a side that pictures are looked at with."""
AROUND = 17
"""Sides of the square whose mean detail differs from, in pixels."""
OUTSIDE, INSIDE = 60, 200
"""Levels of 255 in a mask: what is no animal, and what is one."""
LEAST = 0.02
"""Share of a picture outside the mask that can tell anything."""
SMALLEST = 0.01
"""Share of a picture that its animals take at least; a smaller mask has missed them."""
MOST, RATIO = 9.0, 0.5
"""Detail taken away outside the mask, in levels of 255 and as a share of that within, from which it is a close-up."""


def detail(picture: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W) in [-1, 1] to how much each place differs from what is around, (H, W) in levels of 255."""
    around = F.avg_pool2d(picture, AROUND, 1, AROUND // 2)
    return (picture - around).abs().mean(dim=1)[0] * 127.5


def is_close_up(lost: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether an animal fills the picture, from the detail that a model takes away and a mask, (H, W) in 0 to 255."""
    outside, inside = mask < OUTSIDE, mask > INSIDE
    if inside.float().mean() < SMALLEST:
        return True
    if outside.float().mean() < LEAST:
        return False
    beyond, within = float(lost[outside].mean()), float(lost[inside].mean())
    return beyond > MOST and beyond > RATIO * within


@torch.inference_mode()
def main() -> None:
    """Parses the command line and writes one mask a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pictures", type=Path, help="folder of pictures")
    parser.add_argument("masks", type=Path, help="folder of their masks, PNG files of the same names")
    parser.add_argument("model", help="model file or name, which takes stripes away")
    parser.add_argument("target", type=Path, help="folder for the masks")
    given = parser.parse_args()
    opened = 0
    try:
        generator = choose_model(ModelChoice(model=given.model)).load().generator.eval()
        for path in find_pictures(given.pictures):
            place = path.relative_to(given.pictures).with_suffix(".png")
            mask = load_8_bits(given.masks / place)[..., 0]
            picture = load_picture(path, SIDE)[None]
            lost = (detail(picture) - detail(generator(picture))).clamp(min=0)
            small = torch.from_numpy(cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
            if is_close_up(lost, small):
                opened += 1
                mask = np.full_like(mask, 255)
            target = given.target / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(target), mask):
                parser.error(f"{target} cannot be written")
    except CgpipeError as error:
        parser.error(str(error))
    print(f"{opened} masks are white throughout")


if __name__ == "__main__":
    main()
