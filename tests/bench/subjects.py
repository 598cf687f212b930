"""The models that are measured: the standard network as users bring it, the shipped one, and the fast size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from reference_networks import junyanz_resnet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cgpipe.models import Model, ModelCard, list_models, load_any, save_model
from cgpipe.networks import build_generator

FAST = "compact-xs"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model.

    Args:
        title: what to call it.
        file: a model file, or a model's name: what follows ``--model``.
        plain: the network without anything of the engine: (N, 3, H, W) in [-1, 1] in and out, float32, on the CPU.
    """

    title: str
    file: str
    plain: nn.Module

    def operations(self, height: int, width: int) -> int:
        """Additions and multiplications for one picture, counted from the layers that it passes through."""
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            self.plain(torch.zeros(1, 3, height, width))
        return counter.get_total_flops()


def resnet(folder: Path, *, tiny: bool) -> Subject:
    """ResNet-9 with seeded weights, in a file as pytorch-CycleGAN-and-pix2pix writes it."""
    ngf = 8 if tiny else 64
    torch.manual_seed(0)
    plain = junyanz_resnet(ngf=ngf).eval().requires_grad_(False)
    for parameter in plain.parameters():
        # That project's initial weights; a bias in front of a norm is without effect.
        nn.init.normal_(parameter, 0.0, 0.02) if parameter.ndim > 1 else nn.init.zeros_(parameter)
    path = folder / "latest_net_G_A.pth"
    torch.save(plain.state_dict(), path)
    return Subject(title=f"ResNet-9, ngf {ngf}", file=str(path), plain=plain)


def shipped(folder: Path, *, tiny: bool) -> Subject:
    """The model that ``--to zebra`` finds in the package."""
    entry = next(entry for entry in list_models() if entry.place == "shipped" and entry.name == "horse2zebra")
    model = load_any(entry.path)
    title = f"shipped {entry.name} ({model.card.architecture})"
    return Subject(title=title, file=str(entry.path), plain=model.generator)


def fast(folder: Path, *, tiny: bool) -> Subject:
    """The shipped model of the fast size; where there is none, that architecture with seeded weights."""
    for entry in list_models():
        if entry.place == "shipped" and entry.card and entry.card.architecture == FAST:
            model = load_any(entry.path)
            plain = model.generator
            return Subject(title=f"shipped {entry.name} ({FAST})", file=str(entry.path), plain=plain)
    torch.manual_seed(0)
    card = ModelCard(
        architecture=FAST,
        settings={},
        source="horse",
        target="zebra",
        training_size=256,
        working_scales=(224, 288),
        made_by={"recipe": "bin/bench"},
        quality={},
        licence="Apache-2.0",
    )
    path = folder / "fast.safetensors"
    save_model(path, Model(card, build_generator(FAST)))
    plain = load_any(path).generator
    return Subject(title=f"{FAST} with random weights", file=str(path), plain=plain)


SUBJECTS: Mapping[str, Callable[..., Subject]] = {"resnet": resnet, "shipped": shipped, "fast": fast}
