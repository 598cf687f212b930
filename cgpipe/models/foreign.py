"""Generators from other projects: recognised by content, and converted to cgpipe's networks.

:mod:`cgpipe.models.layouts` lists the kinds that are read, and those that are recognised but refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from cgpipe.errors import CgpipeError, ModelError
from cgpipe.models.checkpoint import load_checkpoint
from cgpipe.models.layouts import Layout, recognise
from cgpipe.models.unwrap import one_generator
from cgpipe.models.weights import CHANNELS, GRAY_OR_RGB, Weights, check_finite, check_plain, ends_of, in_rgb
from cgpipe.networks import Generator, build_generator
from cgpipe.networks.norm import NormKind
from cgpipe.options import Direction as Direction

_STATISTICS = re.compile(r"\.norm\d?\.(running_mean|running_var|num_batches_tracked)$")


@dataclass(frozen=True, kw_only=True)
class ForeignModel:
    """A generator from another project, ready for use.

    Args:
        architecture: its name in :data:`cgpipe.networks.GENERATORS`.
        settings: its keyword arguments.
        generator: the network, float32 on the CPU, ready for inference (``eval``, no gradients).
        recognised_as: the network and the project of the file.
        notes: what was chosen or changed, a sentence each, for the user.
        channels: of the pictures that it takes and gives.
    """

    architecture: str
    settings: Mapping[str, object]
    generator: Generator
    recognised_as: str
    notes: tuple[str, ...]
    channels: tuple[int, int] = (3, 3)


def read_foreign(
    path: Path,
    *,
    direction: Direction | None = None,
    target: str | None = None,
    generator: str | None = None,
    batch_statistics: bool = False,
) -> ForeignModel:
    """The generator in a checkpoint of another project.

    Args:
        path: a file of ``torch.save`` or safetensors; none of its code is run.
        direction: which generator to take from a file that holds both.
        target: the target domain, for a file that names its generators by it.
        generator: the generator's name in a file with several.
        batch_statistics: let batch norm use each picture's own statistics instead of the running ones, as projects do
            that test in training mode.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file cannot be read, holds no generator of a known kind, or does not fit that kind.
        UsageError: the file holds several generators, and no argument selects one; the message lists them.
    """
    content = load_checkpoint(path)
    notes: list[str] = []
    try:
        weights = one_generator(content, notes, direction=direction, target=target, generator=generator)
        check_plain(weights, path.stat().st_size)
        return _convert(weights, batch_statistics, notes)
    except CgpipeError as error:
        raise type(error)(f"{path}: {error}") from error


def _convert(weights: Weights, batch_statistics: bool, notes: list[str]) -> ForeignModel:
    layout = recognise(weights)
    weights = _in_our_names(weights, layout)
    notes += layout.notes
    if layout.own_norm:
        return _foreign(layout, layout.settings, _build(layout, layout.settings, weights, biases=False), notes)
    _check_ends(weights, layout)
    if layout.bgr:
        _turn_to_rgb(weights, layout)
        notes.append("The original works on BGR: its first and last convolutions were turned to RGB.")
    if layout.pixels == "0..255":
        _turn_to_unit(weights, layout)
        notes.append("The original works on pixels from 0 to 255: its first and last convolutions were scaled.")
    channels = ends_of(weights)
    ends: dict[str, object] = dict(zip(CHANNELS, channels, strict=True))
    if {*channels} <= {*GRAY_OR_RGB}:
        weights, about_gray = in_rgb(weights)
        notes += about_gray
        ends = {}
    found = _norm(weights)
    norm: NormKind = "instance_affine" if found == "batch" and batch_statistics else found
    notes += _about_norm(found, weights, batch_statistics)
    settings = {**layout.settings, "ngf": _width(weights), "norm": norm, **ends}
    generator = _build(layout, settings, weights, biases=norm != found)
    return _foreign(layout, settings, generator, notes, channels)


def _foreign(
    layout: Layout,
    settings: Mapping[str, object],
    generator: Generator,
    notes: list[str],
    channels: tuple[int, int] = (3, 3),
) -> ForeignModel:
    return ForeignModel(
        architecture=layout.architecture,
        settings=settings,
        generator=generator,
        recognised_as=layout.recognised_as,
        notes=tuple(notes),
        channels=channels,
    )


def _in_our_names(weights: Weights, layout: Layout) -> Weights:
    renamed = {}
    for key, value in weights.items():
        module, _, leaf = key.rpartition(".")
        if key in layout.filters:
            _check_filter(key, value, layout.filters[key])
        elif module in layout.modules:
            renamed[f"{layout.modules[module]}.{leaf}"] = value
        else:
            raise ModelError(f"It looks like a {layout.recognised_as}, but tensor {key} does not belong to one.")
    return renamed


def _check_filter(key: str, value: torch.Tensor, taps: tuple[int, ...]) -> None:
    known = torch.tensor(taps).float()
    kernel = torch.outer(known, known) / 16
    if value.shape[1:] != (1, *kernel.shape) or not torch.allclose(value.float(), kernel, atol=1e-3):
        raise ModelError(f"It looks like a ResNet of CUT, but the low-pass filter {key} differs from CUT's.")


def _turn_to_rgb(weights: Weights, layout: Layout) -> None:
    for key, axis in (("stem.conv.weight", 1), ("head.weight", 0), ("head.bias", 0)):
        weights[key] = _need(weights, key, layout).flip(axis)


def _turn_to_unit(weights: Weights, layout: Layout) -> None:
    """Converts a network on pixels of 0 to 255 to [-1, 1]; exact, since it pads by reflection."""
    stem, bias = _need(weights, "stem.conv.weight", layout), _need(weights, "stem.conv.bias", layout)
    weights["stem.conv.bias"] = (bias.double() + 127.5 * stem.double().sum((1, 2, 3))).float()
    weights["stem.conv.weight"] = stem * 127.5
    weights["head.weight"] = weights["head.weight"] / 127.5
    weights["head.bias"] = weights["head.bias"] / 127.5 - 1


def _need(weights: Weights, key: str, layout: Layout) -> torch.Tensor:
    if key not in weights:
        raise ModelError(f"It looks like a {layout.recognised_as}, but tensor {layout.their_key(key)} is missing.")
    return weights[key]


def _norm(weights: Weights) -> NormKind:
    affine, biased = "down.0.norm.weight" in weights, "down.0.conv.bias" in weights
    if affine:
        return "instance_affine" if biased else "batch"
    return "instance" if biased else "none"


def _about_norm(norm: NormKind, weights: Weights, batch_statistics: bool) -> list[str]:
    """Notes on the normalisation; removes statistics that will not be used from ``weights``."""
    if norm == "batch" and not batch_statistics:
        if "down.0.norm.running_mean" not in weights:
            raise ModelError("Its batch norm has no running statistics: use --batch-statistics.")
        return ["Batch norm uses the statistics of the training; --batch-statistics uses each picture's own."]
    statistics = [key for key in weights if _STATISTICS.search(key)]
    for key in statistics:
        del weights[key]
    if norm == "batch":
        return ["Batch norm was turned into instance norm: each picture is normalised by its own statistics."]
    notes = ["Running statistics were dropped: instance norm uses each picture's own."] if statistics else []
    return notes + (["There is no batch norm: --batch-statistics changes nothing."] if batch_statistics else [])


def _check_ends(weights: Weights, layout: Layout) -> None:
    stem = _need(weights, "stem.conv.weight" if "stem.conv" in layout.modules.values() else "stem.weight", layout)
    head, bias = _need(weights, "head.weight", layout), _need(weights, "head.bias", layout)
    if stem.ndim != 4 or head.ndim != 4 or bias.ndim != 1 or 0 in stem.shape:
        raise ModelError(f"It looks like a {layout.recognised_as}, but its first or last layer is not a convolution.")


def _width(weights: Weights) -> int:
    return weights["stem.conv.weight" if "stem.conv.weight" in weights else "stem.weight"].shape[0]


def _build(layout: Layout, settings: Mapping[str, object], weights: Weights, *, biases: bool) -> Generator:
    """Builds the network and loads the weights, all of which must fit.

    ``biases`` adds zeros for convolutions without a bias, as in networks with batch norm.
    """
    with torch.device("meta"):  # allocates nothing until the sizes are known to match the file
        expected = build_generator(layout.architecture, **settings).state_dict()
    for key, value in expected.items():
        missing_bias = biases and key.endswith(".bias") and ".norm" not in key and key != "head.bias"
        if missing_bias or key.endswith(".num_batches_tracked"):  # which torch before 0.4.1 did not write
            weights.setdefault(key, torch.zeros(value.shape))
        if _need(weights, key, layout).shape != value.shape:
            raise ModelError(
                f"It looks like a {layout.recognised_as}, but tensor {layout.their_key(key)} has shape "
                f"{tuple(weights[key].shape)}, where {tuple(value.shape)} was expected."
            )
    for key in weights.keys() - expected.keys():
        raise ModelError(
            f"It looks like a {layout.recognised_as}, but tensor {layout.their_key(key)} does not belong to one."
        )
    generator = build_generator(layout.architecture, **settings)
    generator.load_state_dict(weights, strict=True)
    check_finite(generator, layout.their_key)
    return generator.eval().requires_grad_(False)
