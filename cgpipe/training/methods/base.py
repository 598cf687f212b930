"""What every way of training has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from cgpipe.engine.compiling import keep_compiled
from cgpipe.networks import Generator
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.training.augment import diffaugment
from cgpipe.training.config import TrainConfig
from cgpipe.training.losses import WeightedLogits, discriminator_loss, generator_loss, gradient_penalty
from cgpipe.training.moments import FeatureMoments
from cgpipe.training.motion import motion_loss
from cgpipe.training.networks import Judge

Losses = dict[str, torch.Tensor]
Pictures = dict[str, torch.Tensor]
"""(N, 3, H, W) in [-1, 1] by domain, ``a`` or ``b``; ``mask_a`` and ``mask_b`` (N, 1, H, W) in [0, 1], where given."""


MAKER = {"a": "b_to_a", "b": "a_to_b"}
"""The generator of each domain's translations."""


class Method(nn.Module, ABC):
    """The networks of a run with fresh weights, and the losses that they learn by.

    Attributes:
        generators: the translators that are shipped, by name: ``a_to_b``, which makes ``b``, and perhaps ``b_to_a``.
        judges: the discriminators, by the domain that they know.
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
            self.moments.update({domain: FeatureMoments(taps) for domain in config.made_domains})

    @property
    def generators(self) -> dict[str, Generator]:
        return {name: net for name in ("a_to_b", "b_to_a") if isinstance(net := getattr(self, name, None), Generator)}

    @property
    def judges(self) -> dict[str, Judge]:
        return {domain: net for domain in "ab" if isinstance(net := getattr(self, f"judge_{domain}", None), Judge)}

    @property
    def multiple(self) -> int:
        """Of which the sides of pictures must be."""
        return next(iter(self.generators.values())).multiple

    @property
    def helpers(self) -> list[nn.Module]:
        return []

    @abstractmethod
    def generator_losses(self, real: Pictures, config: TrainConfig) -> tuple[Losses, Pictures]:
        """What the generators are to make small, already weighted, and their translations by the domain they show.

        Args:
            real: a batch of both domains.
            config: the settings in force, which a stage may have changed.
        """

    def judge_losses(self, real: Pictures, fake: Pictures) -> Losses:
        """What discriminators that learn are to make small on real pictures and on translations of now and before."""
        losses = {}
        kind, smoothing = self.config.gan_loss, self.config.label_smoothing
        for domain in (domain for domain in self.judges if not self._is_frozen(f"judge_{domain}")):
            of_real, of_fake = self.judged(domain, real[domain], fake[domain])
            losses[f"judge_{domain}"] = discriminator_loss(of_real, of_fake, kind, smoothing=smoothing)
        return losses

    def gradient_penalties(self, real: Pictures, fake: Pictures) -> Losses:
        """The penalties of WGAN-GP, to be computed in full precision; nothing for other losses."""
        if self.config.gan_loss != "wgan-gp":
            return {}
        return {f"penalty_{d}": gradient_penalty(judge, real[d], fake[d]) for d, judge in self.judges.items()}

    def realism_losses(self, real: Pictures, fake: Pictures, config: TrainConfig) -> Losses:
        """What it costs the generators that learn that their translations are not like real pictures."""
        losses = {}
        for domain, pictures in fake.items():
            if self._is_frozen(MAKER[domain]):
                continue
            judgement = self.judged(domain, pictures)[0]
            losses[f"adversarial_{domain}"] = generator_loss(judgement, self.config.gan_loss)
            if domain in self.moments:
                losses[f"moments_{domain}"] = config.moment_weight * self.moments[domain](real[domain], pictures)
        return losses

    def _is_frozen(self, network: str) -> bool:
        return network in self.config.listed("freeze")

    def background_losses(self, real: Pictures, fake: Pictures, config: TrainConfig) -> Losses:
        """What it costs that the pictures change where their masks, if there are any, let nothing change."""
        losses = {}
        for source, target in (("a", "b"), ("b", "a")):
            if f"mask_{source}" in real and target in fake and not self._is_frozen(MAKER[target]):
                change = (fake[target].float() - real[source]).abs()
                outside = ((1 - real[f"mask_{source}"]) * change).mean()
                losses[f"background_{source}"] = config.background_weight * outside
        return losses

    def motion_losses(self, translated: Pictures, fake: Pictures, config: TrainConfig) -> Losses:
        """What it costs that translations do not move with their pictures, in which they would shimmer on video.

        Args:
            translated: what was translated, by domain.
            fake: what was made of it.
            config: the settings in force.
        """
        losses: Losses = {}
        for source, target in (("a", "b"), ("b", "a")):
            if config.motion_weight and target in fake and not self._is_frozen(MAKER[target]):
                distance = motion_loss(self.generators[MAKER[target]], translated[source], fake[target])
                losses[f"motion_{source}"] = config.motion_weight * distance
        return losses

    def judged(self, domain: str, *batches: torch.Tensor) -> list[WeightedLogits]:
        """A discriminator's judgement of each batch, of pictures changed at random where the recipe says so."""
        judge, kinds = self.judges[domain], self.config.listed("diffaugment")
        changed = [diffaugment(pictures, kinds) for pictures in batches]
        if not _can_join(judge, changed):
            return [judge(pictures) for pictures in changed]
        parts = [(weight, logits.chunk(len(changed))) for weight, logits in judge(torch.cat(changed))]
        return [[(weight, logits[index]) for weight, logits in parts] for index in range(len(changed))]

    def translated(self, generator: str, *batches: torch.Tensor) -> Sequence[torch.Tensor]:
        """What a generator makes of each batch."""
        network = self.generators[generator]
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
        judges = () if self.config.gan_loss == "wgan-gp" else self.judges.values()
        for network in (*self.generators.values(), *judges):
            network.compile(dynamic=False)


def _can_join(network: nn.Module, batches: Sequence[torch.Tensor]) -> bool:
    """Whether the network may have all batches at once, which takes less time, and makes the same of each picture."""
    mixes = any(isinstance(module, nn.BatchNorm2d) and module.training for module in network.modules())
    return not mixes and len({pictures.shape for pictures in batches}) == 1
