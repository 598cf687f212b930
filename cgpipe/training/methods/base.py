"""The base class of training methods."""

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
from cgpipe.networks.initialise import initialise
from cgpipe.recipe import parse_list
from cgpipe.training.aliasing import alias_loss
from cgpipe.training.augment import diffaugment
from cgpipe.training.config import TrainConfig
from cgpipe.training.discriminator import Discriminator
from cgpipe.training.losses import WeightedLogits, discriminator_loss, generator_loss, gradient_penalty
from cgpipe.training.moments import FeatureMoments
from cgpipe.training.motion import motion_loss

Losses = dict[str, torch.Tensor]
TO: Mapping[str, Direction] = {"a": B_TO_A, "b": A_TO_B}
"""The direction that translates into a domain."""


class Method(nn.Module, ABC):
    """The networks of a run, with fresh weights, and their losses.

    Attributes:
        generators: the networks that are exported as models, by direction.
        discriminators: by the domain that they discriminate.
        helpers: modules that learn with the generators but are not exported.
        given: channels of the input that a discriminator sees before those of a picture.
    """

    given = 0

    def __init__(self, config: TrainConfig, backbone: EfficientNetLite | None) -> None:
        super().__init__()
        self.config = config
        # In a list the frozen networks are not submodules: they are shared, and stay out of the state.
        self._frozen = [] if backbone is None else [backbone]
        self.moments = nn.ModuleDict()
        if config.uses_moments and backbone is not None:
            taps = [(backbone, config.moment_taps)]
            if config.moment_lite1_taps:
                self._frozen.append(EfficientNetLite("lite1"))
                taps.append((self._frozen[-1], config.moment_lite1_taps))
            self.moments.update({domain: FeatureMoments(taps) for domain in config.target_domains})

    def add_networks(self, direction: Direction, generator: Generator, discriminator: Discriminator) -> None:
        """Adds the networks of a direction, under their names."""
        self.add_module(direction.generator, generator)
        self.add_module(direction.discriminator, discriminator)

    def initialise(self, network: nn.Module) -> None:
        """Draws the initial weights of a network, as the recipe says."""
        initialise(network, kind=self.config.init_type, gain=self.config.init_gain)

    @property
    def generators(self) -> dict[Direction, Generator]:
        return {d: cast("Generator", self.get_submodule(d.generator)) for d in self.config.directions}

    @property
    def discriminators(self) -> Mapping[Domain, Discriminator]:
        networks = {domain: self.get_submodule(f"discriminator_{domain}") for domain in self.config.target_domains}
        return cast("dict[Domain, Discriminator]", networks)

    @property
    def multiple(self) -> int:
        """The sides of pictures must be multiples of this."""
        return next(iter(self.generators.values())).multiple

    @property
    def least_side(self) -> int:
        """The sides of pictures must be at least this."""
        return max(generator.least_side for generator in self.generators.values())

    @property
    def helpers(self) -> list[nn.Module]:
        return []

    def on_card(self) -> dict[str, Any]:
        """Fields of a model's card that this method sets; ``made_by`` is merged."""
        return {}

    def seen(self, pictures: torch.Tensor, real: Pictures) -> torch.Tensor:
        """What the discriminator of a domain sees of ``pictures``, real or translated; ``real`` is their batch."""
        return pictures

    @abstractmethod
    def generator_losses(self, real: Pictures, config: TrainConfig) -> tuple[Losses, Pictures]:
        """The generators' weighted losses by name, and their translations by target domain.

        Args:
            real: a batch of both domains, (N, 3, H, W) in [-1, 1] each, and masks ``mask_a``, ``mask_b`` if there are
                any.
            config: the effective settings of this epoch, with its stages.
        """

    def discriminator_losses(self, real: Pictures, fake: Pictures) -> Losses:
        """The losses of the discriminators that are not frozen, by name; ``fake`` comes from the image pool."""
        losses = {}
        kind, smoothing = self.config.gan_loss, self.config.label_smoothing
        for domain in self.discriminators:
            if not self.is_frozen(f"discriminator_{domain}"):
                seen = (self.seen(pictures[domain], real) for pictures in (real, fake))
                of_real, of_fake = self.discriminate(domain, *seen)
                losses[f"discriminator_{domain}"] = discriminator_loss(of_real, of_fake, kind, smoothing=smoothing)
        return losses

    def gradient_penalties(self, real: Pictures, fake: Pictures) -> Losses:
        """The gradient penalties of WGAN-GP, to be computed in fp32; empty for other losses."""
        if self.config.gan_loss != "wgan-gp":
            return {}
        return {
            f"penalty_{d}": gradient_penalty(network, self.seen(real[d], real), self.seen(fake[d], real))
            for d, network in self.discriminators.items()
            if not self.is_frozen(f"discriminator_{d}")
        }

    def realism_losses(self, real: Pictures, fake: Pictures, config: TrainConfig) -> Losses:
        """The adversarial and feature-matching losses of the generators that are not frozen."""
        losses = {}
        for domain, pictures in fake.items():
            if self.is_frozen(TO[domain].generator):
                continue
            logits = self.discriminate(domain, self.seen(pictures, real))[0]
            losses[f"adversarial_{domain}"] = generator_loss(logits, self.config.gan_loss)
            if domain in self.moments:
                losses[f"moments_{domain}"] = config.moment_weight * self.moments[domain](real[domain], pictures)
        return losses

    def is_frozen(self, network: str) -> bool:
        """Whether the network of this name is frozen."""
        return network in self.config.frozen

    def background_losses(self, real: Pictures, fake: Pictures, config: TrainConfig) -> Losses:
        """The losses of changes outside the masks; empty without masks."""
        losses = {}
        for source, target in self._learning(fake):
            if f"mask_{source}" in real:
                change = (fake[target].float() - real[source]).abs()
                outside = ((1 - real[f"mask_{source}"]) * change).mean()
                losses[f"background_{source}"] = config.background_weight * outside
        return losses

    def composited(self, real: Pictures, fake: Pictures, config: TrainConfig) -> Pictures:
        """The translations with the background of their sources put back, if the recipe says so, by target domain.

        So nothing opposes the background loss, and the discriminators bear on the subject alone (after attention-guided
        translation, arXiv 1806.02311).
        """
        pictures = dict(fake)
        for source, target in self._learning(fake) if config.composite else ():
            if f"mask_{source}" in real:
                change = fake[target].float() - real[source]
                pictures[target] = real[source] + real[f"mask_{source}"] * change
        return pictures

    def motion_losses(self, translated: Pictures, fake: Pictures, config: TrainConfig) -> Losses:
        """The temporal consistency and aliasing losses: translations must move with their pictures, or video flickers.

        Args:
            translated: the generators' inputs, by domain.
            fake: their outputs, by domain.
            config: the effective settings of this epoch.
        """
        losses: Losses = {}
        kinds = {"motion": (config.motion_weight, motion_loss), "alias": (config.alias_weight, alias_loss)}
        for source, target in self._learning(fake):
            for name, (weight, loss) in kinds.items():
                if weight:
                    distance = loss(self.generators[TO[target]], translated[source], fake[target])
                    losses[f"{name}_{source}"] = weight * distance
        return losses

    def _learning(self, fake: Pictures) -> list[tuple[Domain, Domain]]:
        """Source and target of the directions in ``fake`` whose generators are not frozen."""
        made = [direction for direction in (A_TO_B, B_TO_A) if direction.target in fake]
        return [(d.source, d.target) for d in made if not self.is_frozen(d.generator)]

    def discriminate(self, domain: str, *batches: torch.Tensor) -> list[WeightedLogits]:
        """A discriminator's logits for each batch, augmented if the recipe says so."""
        discriminator = cast("Discriminator", self.get_submodule(f"discriminator_{domain}"))
        changed = [diffaugment(pictures, parse_list(self.config.diffaugment), self.given) for pictures in batches]
        if not _can_join(discriminator, changed):
            return [discriminator(pictures) for pictures in changed]
        parts = [(weight, logits.chunk(len(changed))) for weight, logits in discriminator(torch.cat(changed))]
        return [[(weight, logits[index]) for weight, logits in parts] for index in range(len(changed))]

    def translated(self, direction: Direction, *batches: torch.Tensor) -> Sequence[torch.Tensor]:
        """A generator's output for each batch."""
        network = self.generators[direction]
        if not _can_join(network, batches):
            return [network(pictures) for pictures in batches]
        made: torch.Tensor = network(torch.cat(batches))
        return made.chunk(len(batches))

    def to_device(self, device: torch.device) -> None:
        """Moves all networks, the frozen ones too, in channels_last."""
        for network in (self, *self._frozen):
            network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compile_networks(self) -> None:
        """Compiles each network in place; the names in the state stay the same."""
        keep_compiled()
        # A compiled discriminator has no second derivative, which the gradient penalty needs.
        discriminators = () if self.config.gan_loss == "wgan-gp" else self.discriminators.values()
        for network in (*self.generators.values(), *discriminators):
            network.compile(dynamic=False)


def _can_join(network: nn.Module, batches: Sequence[torch.Tensor]) -> bool:
    """Whether batches can be joined into one, which is faster, without changing the result of any picture."""
    mixes = any(isinstance(module, nn.BatchNorm2d) and module.training for module in network.modules())
    return not mixes and len({pictures.shape for pictures in batches}) == 1
