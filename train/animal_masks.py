"""Makes masks of the animals in a folder of pictures: where a classifier looks when it says horse or zebra.

python train/animal_masks.py datasets/horse2zebra/testA masks/testA
cgpipe evaluate horse2zebra datasets/horse2zebra --masks masks/testA     # ... outside the masks 9.0

White is the animal, with grey edges, black what says nothing of one. They are class activation maps
(arXiv 1512.04150): coarse, but enough to hold what is elsewhere in training (--masks-a), or to tell how much of it a
generator changes. To measure take lite2, whose features take no part in training. With --contours they end where the
animal does, by its colours (GrabCut); with --cut-outs, better, by what a program that removes backgrounds made of the
same pictures, as with `rembg p -m isnet-general-use -om PICTURES CUT_OUTS` (ISNet, arXiv 2203.03041). Look at them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from cgpipe.data.pictures import find_pictures
from cgpipe.engine.scale import to_integer
from cgpipe.errors import CgpipeError
from cgpipe.evaluation.evaluator import imagenet_class, load_picture
from cgpipe.networks.efficientnet import EfficientNetLite

CLASSES = ("sorrel", "zebra")
SIDE = 448
"""Pixels a side that the classifier looks at: twice what it was trained at, for maps of 14 by 14."""
BLACK, WHITE = 0.12, 0.3
"""Of a picture's highest activation: what is no animal, and what is one for sure."""
ROUNDS = 3
"""Rounds of GrabCut."""
MARGIN = 3
"""Pixels around the contour that still belong to the animal, unless others are asked for."""
LEAST, MOST = 0.2, 1.4
"""Area within the contours, as a share of the coarse mask's, that can be an animal."""
MISSED = 0.1
"""Share of a part of the coarse mask up to which what was cut out misses it."""


def activation(network: EfficientNetLite, pictures: torch.Tensor, classes: list[int]) -> torch.Tensor:
    """How much each place of (N, 3, H, W) in [-1, 1] speaks for one of the classes: (N, H, W), at most 1.

    Without an animal all of it is at most 0.
    """
    large = F.interpolate(pictures, (SIDE, SIDE), mode="bicubic", antialias=True)
    (features,) = network.taps(large, (len(network.blocks),))
    weights = network.classifier.weight[classes]
    maps = torch.einsum("nchw,kc->nkhw", features, weights).amax(dim=1, keepdim=True)
    maps = maps / maps.amax(dim=(2, 3), keepdim=True).abs()
    return F.interpolate(maps, pictures.shape[2:], mode="bicubic")[:, 0]


def mask(active: np.ndarray) -> np.ndarray:
    """Grey, uint8: what stands out of the map."""
    return np.uint8(((active - BLACK) / (WHITE - BLACK)).clip(0, 1) * 255)


def along_contours(coarse: np.ndarray, pixels: np.ndarray, margin: int = MARGIN) -> np.ndarray:
    """A mask that ends where the animal does.

    Args:
        coarse: (H, W), uint8, from :func:`mask`.
        pixels: RGB, (H, W, 3), uint8.
        margin: pixels around the contour that still belong to the animal.

    Returns:
        (H, W), uint8; ``coarse`` where colours tell nothing: hardly any of it would be left, or far more be added.
    """
    inside = coarse > 127
    guess = np.where(inside, cv2.GC_PR_FGD, np.where(coarse > 0, cv2.GC_PR_BGD, cv2.GC_BGD)).astype(np.uint8)
    if not inside.any():
        return coarse
    try:
        cv2.grabCut(pixels, guess, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # too few colours for a model of them
        return coarse
    animal = np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return with_margin(animal, margin) if LEAST < animal.sum() / inside.sum() < MOST else coarse


def of_cut_out(coarse: np.ndarray, cut_out: np.ndarray, margin: int = MARGIN) -> np.ndarray:
    """What was cut out, where the classifier sees an animal too, and what it missed of the coarse mask.

    Args:
        coarse: (H, W), uint8, from :func:`mask`.
        cut_out: (H, W), uint8, white where the foreground is.
        margin: pixels around the contour that still belong to the animal.

    Returns:
        (H, W), uint8.
    """
    seen, front = coarse > 127, cut_out > 127
    animal = front & _parts(front, lambda part: bool((part & (coarse > 0)).any()))
    missed = _parts(seen, lambda part: (part & animal).sum() <= MISSED * part.sum())
    return np.maximum(with_margin(animal, margin), np.where(missed, coarse, 0).astype(np.uint8))


def with_margin(animal: np.ndarray, margin: int) -> np.ndarray:
    """A mask, uint8, of the animal, bool, that ends softly ``margin`` pixels around it."""
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    wider = cv2.dilate(255 * animal.astype(np.uint8), reach)
    return np.asarray(cv2.GaussianBlur(wider, (0, 0), margin / 2), np.uint8)


def _parts(area: np.ndarray, keep: Callable[[np.ndarray], bool]) -> np.ndarray:
    """The connected parts of an area, bool, that are to be kept."""
    count, labels = cv2.connectedComponents(area.astype(np.uint8))
    return np.isin(labels, [n for n in range(1, count) if keep(labels == n)])


def cut_out_of(folder: Path, path: Path, size: tuple[int, int]) -> np.ndarray:
    """The mask in a folder for a picture, (H, W), uint8, at a size (height, width); CgpipeError if there is none."""
    found = cv2.imread(str((folder / path).with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
    if found is None:
        raise CgpipeError(f"{folder} has no mask for {path}")
    return np.asarray(cv2.resize(found, size[::-1], interpolation=cv2.INTER_AREA))


@torch.inference_mode()
def main() -> None:
    """Parses the command line and writes one mask a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pictures", type=Path, help="folder of pictures")
    parser.add_argument("target", type=Path, help="folder for the masks")
    parser.add_argument("--network", choices=("lite0", "lite2"), default="lite2", help="the classifier")
    parser.add_argument("--contours", action="store_true", help="end the masks where the animal does")
    parser.add_argument("--cut-outs", type=Path, help="folder of masks of the foreground, with the pictures' names")
    parser.add_argument("--margin", type=int, default=MARGIN, help="pixels around the contour that are animal still")
    given = parser.parse_args()
    if given.margin < 1:
        parser.error("--margin must be at least 1")
    try:
        pictures = find_pictures(given.pictures)
        network = EfficientNetLite(given.network)
    except CgpipeError as error:
        parser.error(str(error))
    classes = [imagenet_class(name) for name in CLASSES]
    for path in pictures:
        try:
            picture = load_picture(path, 256)
        except CgpipeError as error:
            parser.error(str(error))
        found = mask(activation(network, picture[None], classes)[0].numpy())
        if given.contours:
            pixels = to_integer((picture + 1) * 127.5, torch.uint8)
            found = along_contours(found, pixels.permute(1, 2, 0).contiguous().numpy(), given.margin)
        if given.cut_outs:
            try:
                cut_out = cut_out_of(given.cut_outs, path.relative_to(given.pictures), found.shape)
                found = of_cut_out(found, cut_out, given.margin)
            except CgpipeError as error:
                parser.error(str(error))
        target = (given.target / path.relative_to(given.pictures)).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(target), found):
            parser.error(f"{target} cannot be written")


if __name__ == "__main__":
    main()
