"""Makes masks of the animals in a folder of pictures: where a classifier looks when it says horse or zebra.

python train/animal_masks.py datasets/horse2zebra/testA masks/testA
cgpipe evaluate horse2zebra datasets/horse2zebra --masks masks/testA     # ... outside the masks 9.0

White is the animal, with grey edges, black what says nothing of one. They are class activation maps
(arXiv 1512.04150): coarse, but enough to hold what is elsewhere in training (--masks-a), or to tell how much of it a
generator changes. To measure take lite2, whose features take no part in training. Look at them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from cgpipe.data.pictures import find_pictures
from cgpipe.errors import CgpipeError
from cgpipe.evaluation.evaluator import imagenet_class, load_picture
from cgpipe.networks.efficientnet import EfficientNetLite

CLASSES = ("sorrel", "zebra")
SIDE = 448
"""Pixels a side that the classifier looks at: twice what it was trained at, for maps of 14 by 14."""
BLACK, WHITE = 0.12, 0.3
"""Of a picture's highest activation: what is no animal, and what is one for sure."""


def activation(network: EfficientNetLite, pictures: torch.Tensor, classes: list[int]) -> torch.Tensor:
    """How much each place of (N, 3, H, W) in [-1, 1] speaks for one of the classes: (N, H, W), at most 1."""
    large = F.interpolate(pictures, (SIDE, SIDE), mode="bicubic", antialias=True)
    (features,) = network.taps(large, (len(network.blocks),))
    weights = network.classifier.weight[classes]
    maps = torch.einsum("nchw,kc->nkhw", features, weights).amax(dim=1, keepdim=True)
    maps = maps / maps.amax(dim=(2, 3), keepdim=True)
    return F.interpolate(maps, pictures.shape[2:], mode="bicubic")[:, 0]


def mask(active: np.ndarray) -> np.ndarray:
    """Grey, uint8: what stands out of the map."""
    return np.uint8(((active - BLACK) / (WHITE - BLACK)).clip(0, 1) * 255)


@torch.inference_mode()
def main() -> None:
    """Parses the command line and writes one mask a picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("pictures", type=Path, help="folder of pictures")
    parser.add_argument("target", type=Path, help="folder for the masks")
    parser.add_argument("--network", choices=("lite0", "lite2"), default="lite2", help="the classifier")
    given = parser.parse_args()
    try:
        pictures = find_pictures(given.pictures)
        network = EfficientNetLite(given.network)
    except CgpipeError as error:
        parser.error(str(error))
    classes = [imagenet_class(name) for name in CLASSES]
    for path in pictures:
        active = activation(network, load_picture(path, 256)[None], classes)[0].numpy()
        target = (given.target / path.relative_to(given.pictures)).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(target), mask(active)):
            parser.error(f"{target} cannot be written")


if __name__ == "__main__":
    main()
