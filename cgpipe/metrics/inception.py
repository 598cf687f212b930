"""Inception features, by torch-fidelity where the user has it installed: what FID and KID of papers are made with."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from cgpipe.errors import MissingDependencyError

PACKAGE = "torch_fidelity"


def has_inception() -> bool:
    """Whether torch-fidelity is installed."""
    return find_spec(PACKAGE) is not None


class Inception(nn.Module):
    """The Inception of FID (arXiv 1706.08500): pooled features (N, 2048), and no classes.

    Pictures are float RGB in [-1, 1], shape (N, 3, H, W); the package rounds, resizes and, when it is first used,
    downloads its weights.

    Raises:
        MissingDependencyError: torch-fidelity is not installed, or its weights cannot be downloaded.
    """

    size = 299
    weights_name = "weights-inception-2015-12-05-6726825d.pth (torch-fidelity)"

    def __init__(self) -> None:
        super().__init__()
        if not has_inception():
            raise MissingDependencyError("Inception features need torch-fidelity: pip install torch-fidelity")
        package = import_module(f"{PACKAGE}.feature_extractor_inceptionv3")
        try:
            self.extractor = package.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        except OSError as error:
            raise MissingDependencyError(f"torch-fidelity's weights cannot be had: {error}") from error

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 2048) and, in the place of logits, (N, 0)."""
        pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        features: Tensor = self.extractor(pixels)[0]
        return features, features.new_empty((len(features), 0))
