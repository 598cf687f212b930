"""At which sizes a generator knows its subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch

from cgpipe.data.loading import RGB, Form
from cgpipe.engine.scale import add_change, resize, to_integer
from cgpipe.errors import DataError
from cgpipe.evaluation.evaluator import Folders, Translation, imagenet_class, load_picture, pictures_of
from cgpipe.evaluation.scores import kid, top1_share
from cgpipe.networks.channels import as_rgb
from cgpipe.networks.efficientnet import EfficientNetLite, Variant

Score = TypeVar("Score")

SIDES = (128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
"""Sides, in pixels, at which a generator is tried."""

PICTURE_SIDE = 256
"""Side of the pictures that it is tried on, in pixels."""

TOLERANCE = 0.03
"""How far, as a share of pictures, a side may stay behind the best one and still count as one that works well."""


KID_TOLERANCE = 2.0
"""The same for KID times 1000: about its standard error for a test set of some hundred pictures."""


def share_by_side(
    generator: Translation,
    inputs: Folders,
    class_name: str,
    *,
    sides: Sequence[int] = SIDES,
    form: Form = RGB,
    batch_size: int = 8,
) -> dict[int, float]:
    """The share, 0 to 1, of pictures seen as ``class_name`` by Lite2 when the generator works at each of some sides.

    See :func:`by_side`.
    """
    index = imagenet_class(class_name)
    return by_side(
        generator,
        inputs,
        lambda features, logits: top1_share(logits, index),
        sides=sides,
        form=form,
        batch_size=batch_size,
    )


def kid_by_side(
    generator: Translation,
    inputs: Folders,
    reference: Folders,
    *,
    sides: Sequence[int] = SIDES,
    forms: tuple[Form, Form] = (RGB, RGB),
    batch_size: int = 8,
) -> dict[int, float]:
    """KID times 1000 against ``reference``, by Lite2's features, when the generator works at each of some sides.

    See :func:`by_side`; ``forms`` are those of the inputs and of the reference.
    """
    features_alone = by_side(
        lambda x: x, reference, lambda features, logits: features, sides=[PICTURE_SIDE], form=forms[1]
    )
    real = features_alone[PICTURE_SIDE]
    return by_side(
        generator,
        inputs,
        lambda features, logits: 1000 * kid(features, real),
        sides=sides,
        form=forms[0],
        batch_size=batch_size,
    )


@torch.inference_mode()
def by_side(
    generator: Translation,
    inputs: Folders,
    score: Callable[[torch.Tensor, torch.Tensor], Score],
    *,
    sides: Sequence[int],
    form: Form = RGB,
    network: Variant = "lite2",
    batch_size: int = 8,
) -> dict[int, Score]:
    """What ``score`` makes of a classifier's features and logits when the generator works at each of some sides.

    As in use, a picture (``PICTURE_SIDE`` pixels) is resized for the generator, and the change is brought back to the
    picture's own size and added to it. So a side at which the subject's detail is lost does not count as a good one.

    Args:
        generator: takes and gives (N, C, H, W) in [-1, 1]; sides that it cannot take are left out.
        inputs: folder of pictures, or several; they are made square.
        form: how they are read; pictures of other channels are seen as RGB.

    Raises:
        DataError: a folder holds no picture, or the generator takes none of the sides.
    """
    classifier, paths = EfficientNetLite(network), pictures_of(inputs)
    scores = {}
    for side in [side for side in sides if side % getattr(generator, "multiple", 1) == 0]:
        outputs = []
        for start in range(0, len(paths), batch_size):
            pictures = torch.stack(
                [load_picture(path, PICTURE_SIDE, form) for path in paths[start : start + batch_size]]
            )
            outputs.append(classifier(as_rgb(translate_at(generator, pictures, side))))
        features, logits = (torch.cat(rows) for rows in zip(*outputs, strict=True))
        scores[side] = score(features, logits)
    if not scores:
        raise DataError(f"The generator takes none of the sides {', '.join(map(str, sides))}.")
    return scores


def translate_at(generator: Translation, pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Translates (N, C, H, W) in [-1, 1] with the generator working at ``side`` x ``side``, in steps of 8 bits."""
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
