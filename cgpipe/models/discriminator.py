"""Discriminators of pytorch-CycleGAN-and-pix2pix, which stores each in a file of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from cgpipe.errors import ModelError
from cgpipe.models.checkpoint import load_checkpoint
from cgpipe.models.layouts import is_generator
from cgpipe.models.unwrap import without_wrappers
from cgpipe.models.weights import Weights, check_plain
from cgpipe.networks.discriminators import build_discriminator
from cgpipe.networks.norm import NormKind

KINDS: Mapping[str, str] = {"model": "n_layers", "net": "pixel"}
"""By the name of the sequence of layers in the file: our name of the network."""

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class ForeignDiscriminator:
    """A discriminator of another project.

    Args:
        kind: its name in :data:`cgpipe.networks.discriminators.DISCRIMINATORS`.
        ndf: width of its first layer.
        layers: of a PatchGAN; 0 for others.
        norm: its norms.
        channels: that it looks at; with pix2pix those of input and output together.
        weights: by the names of our network, float32.
    """

    kind: str
    ndf: int
    layers: int
    norm: NormKind
    channels: int
    weights: Weights

    @property
    def options(self) -> str:
        """The options of a run whose discriminators are built like this one."""
        depth = f" --dis-layers {self.layers}" if self.layers else ""
        kind = f"--dis-net {self.kind}{depth} --dis-scales 1"
        return f"{kind} --ndf {self.ndf} --norm {self.norm} --feature-weight 0"


def read_discriminator(path: Path) -> ForeignDiscriminator:
    """The discriminator in a file of pytorch-CycleGAN-and-pix2pix, such as ``latest_net_D_A.pth``.

    No code in the file is run.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file cannot be read, or holds no such discriminator.
    """
    content = load_checkpoint(path)
    try:
        weights = _tensors(content)
        check_plain(weights, path.stat().st_size)
        return _recognised(weights)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _tensors(content: object) -> Weights:
    if not isinstance(content, Mapping):
        raise ModelError(f"It holds a {type(content).__name__}, not a network's weights.")
    named = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    return without_wrappers({key: value.detach() for key, value in named.items()})


def _recognised(weights: Weights) -> ForeignDiscriminator:
    if is_generator(weights):
        raise ModelError("It holds a generator: name the file of a discriminator, *_net_D_A.pth.")
    if any(key.endswith(".filt") for key in weights):
        raise ModelError("It holds a discriminator of CUT with low-pass filters, which cgpipe does not have.")
    found = [re.fullmatch(r"(model|net)\.(\d+)\.(\w+)", key) for key in weights]
    roots = {match[1] for match in found if match}
    if None in found or len(roots) != 1:
        listed = ", ".join([*weights][:4]) or "none"
        raise ModelError(f"It holds no discriminator of pytorch-CycleGAN-and-pix2pix. Its keys are {listed}.")
    (root,) = roots
    return _as_ours(KINDS[root], {key.removeprefix(f"{root}."): value for key, value in weights.items()})


def _as_ours(kind: str, weights: Weights) -> ForeignDiscriminator:
    """The discriminator with these weights, by the numbers of its layers, which are ours too."""
    convolutions = sorted(int(key.split(".")[0]) for key, value in weights.items() if value.ndim == 4)
    first = weights.get("0.weight")
    if first is None or first.ndim != 4 or 0 in first.shape or len(convolutions) < 3:
        raise ModelError("It looks like a discriminator, but its first layers are missing.")
    ndf, channels = first.shape[:2]
    layers = len(convolutions) - 2 if kind == "n_layers" else 0
    norm = _norm(weights, convolutions[1])
    with torch.device("meta"):  # allocates nothing until the sizes are known to match the file
        network = build_discriminator(kind, ndf=ndf, layers=layers, norm=norm, in_channels=channels)
    return ForeignDiscriminator(
        kind=kind,
        ndf=ndf,
        layers=layers,
        norm=norm,
        channels=channels,
        weights=_fitting(weights, network.state_dict()),
    )


def _norm(weights: Weights, convolution: int) -> NormKind:
    """The norm behind a convolution, which has a bias only if the norm does not take it away."""
    affine, biased = f"{convolution + 1}.weight" in weights, f"{convolution}.bias" in weights
    if affine:
        return "instance_affine" if biased else "batch"
    return "instance" if biased else "none"


def _fitting(weights: Weights, expected: Mapping[str, torch.Tensor]) -> Weights:
    """The weights that a network needs, all of which must be there, and no others."""
    fitting: Weights = {}
    for key, wanted in expected.items():
        # Before torch 0.4.1 batch norm did not count; with batch norm the last layer of a PixelGAN has no bias.
        may_lack = key.endswith("num_batches_tracked") or (key.endswith(".bias") and wanted.numel() == 1)
        value = weights.get(key, torch.zeros(wanted.shape, dtype=wanted.dtype) if may_lack else None)
        if value is None or value.shape != wanted.shape:
            has = "is missing" if value is None else f"has shape {tuple(value.shape)}, not {tuple(wanted.shape)}"
            raise ModelError(f"It looks like a discriminator, but the tensor {key} {has}.")
        if not value.isfinite().all():
            raise ModelError(f"Tensor {key} is not finite (its training diverged): use an earlier checkpoint.")
        fitting[key] = value.to(wanted.dtype)
    # Instance norm stored running statistics for some months, which it never used.
    for key in weights.keys() - expected.keys():
        if not key.endswith(_STATISTICS):
            raise ModelError(f"It looks like a discriminator, but the tensor {key} does not belong to one.")
    return fitting
