"""At which sizes a generator knows its subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from cgpipe.engine.scale import add_change, resize, to_integer
from cgpipe.errors import DataError
from cgpipe.media.folders import find_pictures
from cgpipe.metrics.efficientnet import EfficientNetLite, Variant
from cgpipe.metrics.evaluate import Translation, imagenet_class, load_picture
from cgpipe.metrics.scores import top1_share

SIDES = (128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
"""Sides, in pixels, at which a generator is tried."""

PICTURE_SIDE = 256
"""Side of the pictures that it is tried on, in pixels."""

TOLERANCE = 0.03
"""How far, as a share of pictures, a side may stay behind the best one and still count as one that works well."""


@torch.inference_mode()
def share_by_side(
    generator: Translation,
    inputs: Path | str,
    class_name: str,
    *,
    sides: Sequence[int] = SIDES,
    network: Variant = "lite2",
    batch_size: int = 8,
) -> dict[int, float]:
    """The share, 0 to 1, of pictures seen as ``class_name`` when the generator works at each of some sides.

    As in use, a picture (``PICTURE_SIDE`` pixels) is resized for the generator, and the change is brought back to the
    picture's own size and added to it. So a side at which the subject's detail is lost does not count as a good one.

    Args:
        generator: takes and gives (N, 3, H, W) in [-1, 1]; sides that it cannot take are left out.
        inputs: folder of pictures; they are made square.

    Raises:
        DataError: the folder holds no picture, or the generator takes none of the sides.
    """
    judge, index, paths = EfficientNetLite(network), imagenet_class(class_name), find_pictures(Path(inputs))
    shares = {}
    for side in [side for side in sides if side % getattr(generator, "multiple", 1) == 0]:
        logits = []
        for start in range(0, len(paths), batch_size):
            pictures = torch.stack([load_picture(path, PICTURE_SIDE) for path in paths[start : start + batch_size]])
            logits.append(judge(translate_at(generator, pictures, side))[1])
        shares[side] = top1_share(torch.cat(logits), index)
    if not shares:
        raise DataError(f"The generator takes none of the sides {', '.join(map(str, sides))}.")
    return shares


def translate_at(generator: Translation, pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Translates (N, 3, H, W) in [-1, 1] with the generator working at ``side`` x ``side``, in steps of 8 bits."""
    pixels = to_integer((pictures + 1) * 127.5, torch.uint8).permute(0, 2, 3, 1).contiguous()
    seen = resize(pixels, (side, side))
    translated = (generator(seen / 127.5 - 1) + 1) * 127.5
    return add_change(pixels, seen, translated).permute(0, 3, 1, 2) / 127.5 - 1


def working_scales(success: Mapping[int, float], tolerance: float = TOLERANCE) -> tuple[int, int]:
    """The smallest and the largest side around the best one between which success stays within ``tolerance`` of it."""
    sides = sorted(success)
    best = max(sides, key=lambda side: success[side])
    good = [success[side] >= success[best] - tolerance for side in sides]
    first = last = sides.index(best)
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(sides) - 1 and good[last + 1]:
        last += 1
    return sides[first], sides[last]
