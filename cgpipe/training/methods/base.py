"""What every way of training has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from cgpipe.data.direction import A_TO_B, B_TO_A, Direction, Domain
from cgpipe.data.unpaired import Pictures
from cgpipe.engine.compiling import keep_compiled
from cgpipe.networks import Generator
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.recipe import parse_list
from cgpipe.training.augment import diffaugment
from cgpipe.training.config import TrainConfig
from cgpipe.training.discriminator import Discriminator
from cgpipe.training.losses import WeightedLogits, discriminator_loss, generator_loss, gradient_penalty
from cgpipe.training.moments import FeatureMoments
from cgpipe.training.motion import motion_loss

Losses = dict[str, torch.Tensor]
TO: Mapping[str, Direction] = {"a": B_TO_A, "b": A_TO_B}
"""The direction whose translations show a domain."""


class Method(nn.Module, ABC):
    """The networks of a run with fresh weights, and the losses that they learn by.

    Attributes:
        generators: the translators that are shipped, by their direction.
        discriminators: by the domain that they know.
        helpers: what else learns with the generators and is not shipped.
    """

    def __init__(self, config: TrainConfig, backbone: EfficientNetLite | None) -> None:
        super().__init__()
        self.config = config
        # In a list the frozen networks are no submodules: they are shared, and stay out of the state.
        self._frozen = [] if backbone is None else [backbone]
        self.moments = nn.ModuleDict()
        if config.uses_moments and backbone is not None:
            taps = [(backbone, config.moment_taps)]
            if config.moment_lite1_taps:
                self._frozen.append(EfficientNetLite("lite1"))
                taps.append((self._frozen[-1], config.moment_lite1_taps))
            self.moments.update({domain: FeatureMoments(taps) for domain in config.target_domains})

    def add_networks(self, direction: Direction, generator: Generator, discriminator: Discriminator) -> None:
        """Takes in the networks of a direction, under their names."""
        self.add_module(direction.generator, generator)
        self.add_module(direction.discriminator, discriminator)

    @property
    def generators(self) -> dict[Direction, Generator]:
        return {d: cast("Generator", self.get_submodule(d.generator)) for d in self.config.directions}

    @property
    def discriminators(self) -> Mapping[Domain, Discriminator]:
        networks = {domain: self.get_submodule(f"discriminator_{domain}") for domain in self.config.target_domains}
        return cast("dict[Domain, Discriminator]", networks)

    @property
    def multiple(self) -> int:
        """Of which the sides of pictures must be."""
        return next(iter(self.generators.values())).multiple

    @property
    def helpers(self) -> list[nn.Module]:
        return []

    def on_card(self) -> dict[str, Any]:
        """What a model's card says of this method: fields in place of those of every run; ``made_by`` is added."""
        return {}

    @abstractmethod
    def generator_losses(self, real: Pictures, config: TrainConfig) -> tuple[Losses, Pictures]:
        """What the generators are to make small, already weighted, and their translations by the domain they show.

        Args:
            real: a batch of both domains.
            config: the effective settings, which a stage may have changed.
        """

    def discriminator_losses(self, real: Pictures, fake: Pictures) -> Losses:
        """What discriminators that learn are to make small on real pictures and on translations of now and before."""
        losses = {}
        kind, smoothing = self.config.gan_loss, self.config.label_smoothing
        for domain in self.discriminators:
            if not self.is_frozen(f"discriminator_{domain}"):
                of_real, of_fake = self.discriminate(domain, real[domain], fake[domain])
                losses[f"discriminator_{domain}"] = discriminator_loss(of_real, of_fake, kind, smoothing=smoothing)
        return losses

    def gradient_penalties(self, real: Pictures, fake: Pictures) -> Losses:
        """The penalties of WGAN-GP, to be computed in full precision; nothing for other losses."""
        if self.config.gan_loss != "wgan-gp":
            return {}
        networks = self.discriminators.items()
        return {f"penalty_{d}": gradient_penalty(network, real[d], fake[d]) for d, network in networks}

    def realism_losses(self, real: Pictures, fake: Pictures, config: TrainConfig) -> Losses:
        """What it costs the generators that learn that their translations are not like real pictures."""
        losses = {}
        for domain, pictures in fake.items():
            if self.is_frozen(TO[domain].generator):
                continue
            logits = self.discriminate(domain, pictures)[0]
            losses[f"adversarial_{domain}"] = generator_loss(logits, self.config.gan_loss)
            if domain in self.moments:
                losses[f"moments_{domain}"] = config.moment_weight * self.moments[domain](real[domain], pictures)
        return losses

    def is_frozen(self, network: str) -> bool:
        """Whether the network of this name does not learn."""
        return network in self.config.frozen

    def background_losses(self, real: Pictures, fake: Pictures, config: TrainConfig) -> Losses:
        """What it costs that the pictures change where their masks, if there are any, let nothing change."""
        losses = {}
        for source, target in self._learning(fake):
            if f"mask_{source}" in real:
                change = (fake[target].float() - real[source]).abs()
                outside = ((1 - real[f"mask_{source}"]) * change).mean()
                losses[f"background_{source}"] = config.background_weight * outside
        return losses

    def motion_losses(self, translated: Pictures, fake: Pictures, config: TrainConfig) -> Losses:
        """What it costs that translations do not move with their pictures, in which they would shimmer on video.

        Args:
            translated: what was translated, by domain.
            fake: what was made of it.
            config: the effective settings.
        """
        losses: Losses = {}
        for source, target in self._learning(fake) if config.motion_weight else ():
            distance = motion_loss(self.generators[TO[target]], translated[source], fake[target])
            losses[f"motion_{source}"] = config.motion_weight * distance
        return losses

    def _learning(self, fake: Pictures) -> list[tuple[Domain, Domain]]:
        """Source and target of the directions that made ``fake`` and learn."""
        made = [direction for direction in (A_TO_B, B_TO_A) if direction.target in fake]
        return [(d.source, d.target) for d in made if not self.is_frozen(d.generator)]

    def discriminate(self, domain: str, *batches: torch.Tensor) -> list[WeightedLogits]:
        """A discriminator's logits for each batch, of pictures changed at random where the recipe says so."""
        discriminator = cast("Discriminator", self.get_submodule(f"discriminator_{domain}"))
        changed = [diffaugment(pictures, parse_list(self.config.diffaugment)) for pictures in batches]
        if not _can_join(discriminator, changed):
            return [discriminator(pictures) for pictures in changed]
        parts = [(weight, logits.chunk(len(changed))) for weight, logits in discriminator(torch.cat(changed))]
        return [[(weight, logits[index]) for weight, logits in parts] for index in range(len(changed))]

    def translated(self, direction: Direction, *batches: torch.Tensor) -> Sequence[torch.Tensor]:
        """What a generator makes of each batch."""
        network = self.generators[direction]
        if not _can_join(network, batches):
            return [network(pictures) for pictures in batches]
        made: torch.Tensor = network(torch.cat(batches))
        return made.chunk(len(batches))

    def to_device(self, device: torch.device) -> None:
        """Moves everything, the frozen networks too, in the memory layout that convolutions run best in."""
        for network in (self, *self._frozen):
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compile_networks(self) -> None:
        """Compiles each network where it stands; the names in the state stay as they are."""
        keep_compiled()
        # A compiled discriminator has no second derivative, which the gradient penalty is made of.
        discriminators = () if self.config.gan_loss == "wgan-gp" else self.discriminators.values()
        for network in (*self.generators.values(), *discriminators):
            network.compile(dynamic=False)


def _can_join(network: nn.Module, batches: Sequence[torch.Tensor]) -> bool:
    """Whether the network may have all batches at once, which takes less time, and makes the same of each picture."""
    mixes = any(isinstance(module, nn.BatchNorm2d) and module.training for module in network.modules())
    return not mixes and len({pictures.shape for pictures in batches}) == 1
