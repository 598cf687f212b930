"""Checks weights from outside before they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from cgpipe.errors import ModelError
from cgpipe.media.frames import LUMA
from cgpipe.models.archives import require_proportion

Weights = dict[str, torch.Tensor]

LARGEST_MULTIPLE = 1024
"""Largest multiple of the sides that a network may need: pictures are padded to it."""

CHANNELS = ("in_channels", "out_channels")
"""The settings of a network's input and output channels; 3 by default."""

GRAY_OR_RGB = (1, 3)
"""Channels of networks that can be turned into one on RGB."""

_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)


def check_plain(weights: Mapping[str, torch.Tensor], file_size: int) -> None:
    """Checks that tensors are plain, dense numbers, in proportion to the size of their file.

    Args:
        weights: as read; a view may repeat one number any number of times.
        file_size: in bytes.

    Raises:
        ModelError: one is sparse, quantised, without data, or of another dtype, or they are too large in total.
    """
    for name, value in weights.items():
        if kind := _unusual(value):
            raise ModelError(f"Tensor {name} is {kind}: save the network with plain float weights.")
    require_proportion(sum(value.numel() * 4 for value in weights.values()), file_size)


def _unusual(value: torch.Tensor) -> str | None:
    if value.is_quantized:
        return "quantised"
    if value.is_nested or value.layout != torch.strided:
        return "sparse or nested"
    if value.device.type != "cpu":
        return f"on the device {value.device.type}, without its contents"
    if value.dtype not in _NUMBERS:
        return f"of type {str(value.dtype).removeprefix('torch.')}"
    return None


def check_finite(network: nn.Module, named: Callable[[str], str] = str) -> None:
    """Checks that a network's weights are valid numbers.

    Args:
        network: the network, in float32.
        named: returns the file's name of a tensor.

    Raises:
        ModelError: a value is not finite, or a running variance is negative; the message names the tensor.
    """
    for name, value in network.state_dict().items():
        if not value.isfinite().all():
            raise ModelError(f"Tensor {named(name)} is not finite (its training diverged): use an earlier checkpoint.")
        if name.endswith("running_var") and (value < 0).any():
            raise ModelError(f"Tensor {named(name)} holds a variance below 0: the file is damaged.")


def ends_of(weights: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Input and output channels of one of our ResNets or U-Nets."""
    return weights[_stem(weights)].shape[1], weights["head.bias"].shape[0]


def _stem(weights: Mapping[str, torch.Tensor]) -> str:
    return "stem.conv.weight" if "stem.conv.weight" in weights else "stem.weight"


def in_rgb(weights: Mapping[str, torch.Tensor]) -> tuple[Weights, list[str]]:
    """Converts the weights of a network on gray pictures to RGB: it sees their luma and outputs gray.

    Args:
        weights: of one of our networks, by our names.

    Returns:
        The weights, unchanged if the network is on RGB already, and notes for the user.
    """
    if "to_pixels.weight" in weights:
        return _compact_in_rgb(weights), []
    rgb, notes = dict(weights), []
    stem, (taken, given) = _stem(rgb), ends_of(rgb)
    if taken == 1:
        rgb[stem] = torch.cat([rgb[stem] * share for share in LUMA], dim=1)
        notes.append("The network takes gray pictures: it gets the luma of color pictures.")
    if given == 1:
        outputs = 0 if rgb["head.weight"].shape[0] == 1 else 1  # a transposed convolution has them second
        rgb["head.weight"] = torch.cat([rgb["head.weight"]] * 3, dim=outputs)
        rgb["head.bias"] = rgb["head.bias"].repeat(3)
        notes.append("The network outputs gray pictures.")
    return rgb, notes


def _compact_in_rgb(weights: Mapping[str, torch.Tensor]) -> Weights:
    """The same for the compact generator, which folds squares of pixels into channels, all of one colour in a row."""
    rgb = dict(weights)
    if rgb["stem.weight"].shape[1] == 16:
        # After what comes from the widening, every four channels are a square of the picture itself.
        inner = rgb["widen.weight"].shape[0] // 4
        mixed, squares = rgb["refine.weight"][:, :inner], rgb["refine.weight"][:, inner:].split(4, dim=1)
        rgb["stem.weight"] = torch.cat([rgb["stem.weight"] * share for share in LUMA], dim=1)
        rgb["refine.weight"] = torch.cat([mixed, *(square * share for square in squares for share in LUMA)], dim=1)
    if rgb["to_pixels.weight"].shape[0] == 4:
        for name in ("to_pixels.weight", "to_pixels.bias"):
            rgb[name] = torch.cat([rgb[name]] * 3)
    return rgb
