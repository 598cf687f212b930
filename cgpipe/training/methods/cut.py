"""CUT and FastCUT (arXiv 2007.15651): one generator, tied to its input by a contrastive loss between patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.data.unpaired import Pictures
from cgpipe.networks import Generator, build_generator
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.training.config import TrainConfig
from cgpipe.training.discriminator import Discriminator
from cgpipe.training.draws import chosen, drawn
from cgpipe.training.losses import patch_nce
from cgpipe.training.methods.base import Losses, Method

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Variant:
    """The differences between CUT and FastCUT.

    Args:
        weight: default weight of the PatchNCE loss.
        identity: also apply PatchNCE to translated pictures of the target domain.
        flips: flip-equivariance: half of the time compare with the features of a mirrored input.
    """

    weight: float
    identity: bool
    flips: bool


VARIANTS = {
    "cut": Variant(weight=1.0, identity=True, flips=False),
    "fastcut": Variant(weight=10.0, identity=False, flips=True),
}


class CUT(Method):
    """One generator, one discriminator, and a projection of the generator's own features.

    A patch of the translation must be more similar to the input's patch at the same place than to its other patches.
    For direction ``AtoB`` the networks are ``a_to_b`` and ``discriminator_b``, else ``b_to_a`` and ``discriminator_a``.
    """

    def __init__(self, config: TrainConfig, backbone: EfficientNetLite | None) -> None:
        super().__init__(config, backbone)
        self.variant = VARIANTS[config.method]
        (direction,) = config.directions
        self.source, self.target = direction.source, direction.target
        generator = build_generator(config.gen_net, **config.generator_settings(config.channels_of(direction)))
        discriminator = Discriminator(config, backbone, config.channels[direction.target])
        for network in (generator, discriminator):
            self.initialise(network)
        self.add_networks(direction, generator, discriminator)
        widths = _widths(generator)
        self.layers = config.compared_layers
        if max(self.layers, default=0) >= len(widths):
            raise ValueError(f"nce_layers are numbers up to {len(widths) - 1} with {config.gen_net}")
        self.projection = Projection(self._named(widths))
        self._encode = generator.encode

    @property
    def generator(self) -> Generator:
        """The only generator."""
        return next(iter(self.generators.values()))

    @property
    def helpers(self) -> list[nn.Module]:
        return [self.projection]

    def generator_losses(self, real: Pictures, config: TrainConfig) -> tuple[Losses, Pictures]:
        source, target = real[self.source], real[self.target]
        flipped = self.variant.flips and bool(chosen(2))
        if flipped:
            names = (name for name in (self.source, f"mask_{self.source}") if name in real)
            real = real | {name: real[name].flip(3) for name in names}
        fake: Pictures = {self.target: self.generator(real[self.source])}
        judged = self.composited(real, fake, config)
        weight = config.nce_weight or self.variant.weight
        if self.variant.identity:
            weight /= 2
        losses = self.realism_losses(real, judged, config) | self.background_losses(real, fake, config)
        losses |= self.motion_losses(real, fake, config)
        losses[f"nce_{self.source}"] = weight * self.nce_loss(source, fake[self.target], flipped=flipped)
        if self.variant.identity:
            losses[f"nce_{self.target}"] = weight * self.nce_loss(target, self.generator(target))
        return losses, judged

    def nce_loss(self, original: torch.Tensor, translated: torch.Tensor, *, flipped: bool = False) -> torch.Tensor:
        """PatchNCE, averaged over layers; both (N, C, H, W), ``flipped`` if the translation is mirrored."""
        features = [feature.flip(3) if flipped else feature for feature in self._compared(translated)]
        most = self.config.nce_patches
        places = [drawn(partial(_some_of, f.shape[2] * f.shape[3], most), f.device) for f in features]
        found = self.projection(features, places)
        with torch.no_grad():
            wanted = self.projection(self._compared(original), places)
        return torch.stack([patch_nce(*pair) for pair in zip(found, wanted, strict=True)]).mean()

    def _compared(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """The encoder's layers that are compared."""
        return self._named(self._encode(pictures))

    def _named(self, of_layers: list[Value]) -> list[Value]:
        """Of a value for each layer, those of the layers that the recipe names, or all."""
        return [of_layers[layer] for layer in self.layers] if self.layers else of_layers

    def compile_networks(self) -> None:
        super().compile_networks()
        self._encode = torch.compile(self.generator.encode, dynamic=False)


class Projection(nn.Module):
    """A two-layer MLP for each feature map, to unit vectors that are compared."""

    def __init__(self, widths: Sequence[int], outputs: int = 256) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(width, outputs), nn.ReLU(), nn.Linear(outputs, outputs)) for width in widths
        )

    def forward(self, features: Sequence[torch.Tensor], places: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Maps (N, C, H, W) at the ``places`` (P,) of each, as (N, P, outputs) float32."""
        layers = zip(self.heads, features, places, strict=True)
        return [F.normalize(head(f.flatten(2)[:, :, at].transpose(1, 2)).float(), dim=-1) for head, f, at in layers]


def _some_of(count: int, most: int) -> torch.Tensor:
    """At most so many of the numbers below ``count``, drawn without replacement."""
    return torch.randperm(count)[:most]


@torch.no_grad()
def _widths(generator: Generator) -> list[int]:
    """Channels of each encoder layer of the generator, found with a small picture."""
    side = max(32, generator.multiple)
    features = generator.eval().encode(torch.zeros(1, generator.channels[0], side, side))
    generator.train()
    return [feature.shape[1] for feature in features]
