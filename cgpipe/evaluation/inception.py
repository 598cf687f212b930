"""Inception features, by torch-fidelity or clean-fid where the user has one installed: what papers' FID is made with.

The two resize differently: torch-fidelity as the first code of FID did, clean-fid with antialiasing (arXiv 2104.11222).
Figures of one do not compare with those of the other, so the name of the weights says whose they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

from cgpipe.errors import CgpipeWarning, MissingDependencyError

CLEAN_FID_WEIGHTS = "inception-2015-12-05.pt"


class Inception(nn.Module):
    """The Inception of FID (arXiv 1706.08500): pooled features (N, 2048), and no classes.

    Pictures are float RGB in [-1, 1], shape (N, 3, H, W); the package resizes and, when it is first used, downloads its
    weights. Of two packages torch-fidelity is taken.

    Raises:
        MissingDependencyError: neither is installed, or its weights cannot be downloaded.
    """

    size = 299

    def __init__(self) -> None:
        super().__init__()
        self.extractor = load_extractor()
        self.weights_name: str = self.extractor.weights_name

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 2048) and, in the place of logits, (N, 0)."""
        pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        features: Tensor = self.extractor(pixels)
        return features, features.new_empty((len(features), 0))


@lru_cache  # who asks whether it is there mostly wants it next
def load_extractor() -> _Extractor:
    """The first package's Inception; raises as :class:`Inception` does."""
    package = next((name for name in EXTRACTORS if find_spec(name)), None)
    if package is None:
        raise MissingDependencyError("Inception features need torch-fidelity or clean-fid: pip install torch-fidelity")
    try:
        return EXTRACTORS[package]()
    except OSError as error:
        raise MissingDependencyError(f"The weights of {package} cannot be loaded: {error}.") from error


@lru_cache
def has_inception() -> bool:
    """Whether there are Inception features; warns where a package is there and its weights cannot be had."""
    if not any(find_spec(name) for name in EXTRACTORS):
        return False
    try:
        load_extractor()
    except MissingDependencyError as error:
        warnings.warn(f"Inception is omitted: {error}", CgpipeWarning, stacklevel=2)
        return False
    return True


class _Extractor(Protocol):
    """Features (N, 2048) of uint8 pictures (N, 3, H, W), and the name of the weights that they are by."""

    weights_name: str

    def __call__(self, pixels: Tensor, /) -> Tensor:
        """The features."""


class _TorchFidelity(nn.Module):
    """Features (N, 2048) of uint8 pictures (N, 3, H, W)."""

    weights_name = "weights-inception-2015-12-05-6726825d.pth (torch-fidelity)"

    def __init__(self) -> None:
        super().__init__()
        package = import_module("torch_fidelity.feature_extractor_inceptionv3")
        self.network = package.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network(pixels)[0]
        return features


class _CleanFid(nn.Module):
    """The same, by clean-fid in its mode ``clean``: bicubic with antialiasing, before anything is rounded."""

    weights_name = f"{CLEAN_FID_WEIGHTS} (clean-fid)"

    def __init__(self) -> None:
        super().__init__()
        folder = user_cache_path("cgpipe") / "inception"
        if not (folder / CLEAN_FID_WEIGHTS).exists():
            _download_whole(import_module("cleanfid.downloads_helper").check_download_inception, folder)
        package = import_module("cleanfid.inception_torchscript")
        self.network = package.InceptionV3W(str(folder), download=False)
        self.resize: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]] = import_module(
            "cleanfid.resize"
        ).build_resizer("clean")

    def forward(self, pixels: Tensor) -> Tensor:
        resized = [torch.from_numpy(self.resize(picture)) for picture in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        features: Tensor = self.network(torch.stack(resized).movedim(3, 1).to(pixels.device))
        return features


def _download_whole(download: Callable[..., object], folder: Path) -> None:
    """Clean-fid takes any file of the name for the whole one; so none appears there before it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as partial:
        download(fpath=partial)
        (Path(partial) / CLEAN_FID_WEIGHTS).replace(folder / CLEAN_FID_WEIGHTS)


EXTRACTORS: Mapping[str, Callable[[], _Extractor]] = {"torch_fidelity": _TorchFidelity, "cleanfid": _CleanFid}
"""By the name of the package that each needs."""
