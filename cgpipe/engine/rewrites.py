"""Rewrites a generator into equivalent operations that run faster. Each rewrite has been measured to pay off.

Two cores of a Zen 4, bf16 channels_last and fp32, 2026-11-24: see the figures at the rewrites.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cgpipe.networks import Generator
from cgpipe.networks.cpu import accelerate

FEW_CHANNELS = 4
"""Output channels up to which a convolution leaves most of a vector unit idle."""

Convolution = nn.Conv2d | nn.ConvTranspose2d


def rewrite(generator: Generator, device: torch.device) -> Generator:
    """A copy of a generator that is equal up to rounding and runs faster on ``device``; it needs even sides.

    Args:
        generator: in eval mode.
    """
    on_cpu = device.type == "cpu"
    foldings = list(_foldings(generator))
    narrow = list(_narrow_convolutions(generator)) if on_cpu and generator.multiple % 2 == 0 else []
    faster = copy.deepcopy(generator)
    for conv, norm in foldings:
        _fold(faster, conv, norm)
    for name in narrow:
        faster.set_submodule(name, _by_shuffling(faster.get_submodule(name)))
    if on_cpu:
        accelerate(faster, frozen=True)
    return faster.requires_grad_(False)


def _foldings(generator: Generator) -> Iterator[tuple[str, str]]:
    """The names of convolutions and of the frozen batch norms right after them.

    In every network here a norm follows its convolution in the order of the modules.
    """
    for path, parent in generator.named_modules():
        children = list(parent.named_children())
        for (first, conv), (second, norm) in pairwise(children):
            if isinstance(conv, Convolution) and isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
                prefix = f"{path}." if path else ""
                yield prefix + first, prefix + second


def _fold(generator: Generator, conv_name: str, norm_name: str) -> None:
    """Folds a batch norm into its convolution, which saves a pass over memory and is exact."""
    conv, norm = generator.get_submodule(conv_name), generator.get_submodule(norm_name)
    assert isinstance(conv, Convolution) and isinstance(norm, nn.BatchNorm2d)
    generator.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm, isinstance(conv, nn.ConvTranspose2d)))
    generator.set_submodule(norm_name, nn.Identity())


def _narrow_convolutions(generator: Generator) -> Iterator[str]:
    # The last one alone is known to work at the picture's own, even sides.
    convolutions = [(name, module) for name, module in generator.named_modules() if isinstance(module, Convolution)]
    for name, module in convolutions[-1:]:
        if module.out_channels > FEW_CHANNELS or module.groups != 1:
            continue
        side = module.kernel_size[0]
        geometry = (module.kernel_size, module.stride, module.padding, module.dilation)
        if isinstance(module, nn.Conv2d):
            fits = side > 1 and geometry == ((side, side), (1, 1), (side // 2, side // 2), (1, 1))
        else:
            fits = geometry == ((4, 4), (2, 2), (1, 1), (1, 1)) and module.output_padding == (0, 0)
        if fits:
            yield name


def _by_shuffling(conv: nn.Module) -> nn.Module:
    if isinstance(conv, nn.Conv2d):
        return _four_pixels_at_once(conv)
    assert isinstance(conv, nn.ConvTranspose2d)
    return _transposed_by_shuffling(conv)


def _four_pixels_at_once(conv: nn.Conv2d) -> nn.Module:
    """Four output pixels of a k x k convolution at a time.

    Convolutions process 16 output channels at a time: 3 channels use 3 of 16, 12 use 12. From 64 to 3 channels, 7x7,
    256x256: 15.1 to 5.1 ms in bf16.
    """
    return nn.Sequential(by_squares(conv, 2), nn.PixelShuffle(2))


def by_squares(conv: nn.Conv2d, factor: int) -> nn.Conv2d:
    """A k x k convolution as one of size k + factor - 1 that makes squares of ``factor`` x ``factor`` pixels at a time.

    A pixel shuffle restores the pixels.
    """
    channels, side = conv.out_channels, conv.kernel_size[0]
    wide_side = side + factor - 1
    wide = nn.Conv2d(
        conv.in_channels,
        factor**2 * channels,
        wide_side,
        stride=factor,
        padding=conv.padding,  # type: ignore[arg-type]
        padding_mode=conv.padding_mode,
        bias=conv.bias is not None,
    )
    weight = conv.weight.new_zeros((channels, factor, factor, conv.in_channels, wide_side, wide_side))
    for row in range(factor):
        for column in range(factor):
            weight[:, row, column, :, row : row + side, column : column + side] = conv.weight
    return _with(wide, weight, conv.bias)


def by_folded_squares(conv: nn.Conv2d, places: int) -> nn.Conv2d:
    """A convolution of odd size, without padding and bias, for a picture of which 2 x 2 pixels are folded into one.

    It makes four pixels at a time, too. Channels, in and out, are in the order row, column, channel.

    Args:
        places: input channels of a pixel in the folded picture.
    """
    channels, inputs, side = conv.out_channels, conv.in_channels, conv.kernel_size[0]
    taps = (side + 1) // 2
    weight = conv.weight.new_zeros((2, 2, channels, places, 2 * taps, 2 * taps))
    for row in (0, 1):
        for column in (0, 1):
            weight[row, column, :, :inputs, row : row + side, column : column + side] = conv.weight
    squares = weight.unflatten(4, (taps, 2)).unflatten(6, (taps, 2))  # (2, 2, C, places, taps, 2, taps, 2)
    folded = nn.Conv2d(4 * places, 4 * channels, taps, bias=False)
    return _with(folded, squares.permute(0, 1, 2, 5, 7, 3, 4, 6).flatten(3, 5), None)


class _Crop(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, 1:-1, 1:-1]


def _transposed_by_shuffling(conv: nn.ConvTranspose2d) -> nn.Module:
    """A transposed 4 x 4 convolution of stride 2 as a 2 x 2 convolution that computes four pixels at once.

    Even and odd output pixels come from neighbouring 2 x 2 squares of the input, each with four of the sixteen weights.
    From 128 to 3 channels, 256x256: 2.6 to 0.9 ms in bf16. With many channels it gains nothing. The ResNet's 3 x 3
    convolution would become slower (5.9 to 10.4 ms), since seven of its sixteen weights would be 0.
    """
    channels = conv.out_channels
    small = nn.Conv2d(conv.in_channels, 4 * channels, 2, padding=1, bias=conv.bias is not None)
    weight = conv.weight.new_zeros((channels, 2, 2, conv.in_channels, 2, 2))
    for row in (0, 1):
        for column in (0, 1):
            # The first weight of a square meets its first pixel: numbers 3 and 1 of a kernel for even places, 2 and 0
            # for odd ones; the crop takes the places in the order odd, even.
            taps = conv.weight[:, :, [3 - row, 1 - row]][..., [3 - column, 1 - column]]
            weight[:, 1 - row, 1 - column] = taps.transpose(0, 1)
    return nn.Sequential(_with(small, weight, conv.bias), nn.PixelShuffle(2), _Crop())


def _with(conv: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Conv2d:
    """``conv`` with weights for each subpixel, and one bias for all subpixels of a channel."""
    conv = conv.to(weight)
    with torch.no_grad():
        conv.weight.copy_(weight.flatten(0, 2))
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias.repeat_interleave(len(conv.bias) // len(bias)))
    return conv
