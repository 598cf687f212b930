"""pix2pix (arXiv 1611.07004): one generator, trained on pairs that show what it shall make of each picture."""

from __future__ import annotations

import torch

from cgpipe.data.unpaired import Pictures
from cgpipe.networks import build_generator
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.training.config import TrainConfig
from cgpipe.training.discriminator import Discriminator
from cgpipe.training.losses import cycle_loss
from cgpipe.training.methods.base import Losses, Method


class Pix2Pix(Method):
    """One generator, and a conditional discriminator: it sees the input beside the translation or the real picture."""

    def __init__(self, config: TrainConfig, backbone: EfficientNetLite | None) -> None:
        super().__init__(config, backbone)
        (self.direction,) = config.directions
        generator = build_generator(config.gen_net, **config.generator_settings(config.channels_of(self.direction)))
        self.given = config.channels[self.direction.source]
        discriminator = Discriminator(config, backbone, config.channels[self.direction.target], given=self.given)
        for network in (generator, discriminator):
            self.initialise(network)
        self.add_networks(self.direction, generator, discriminator)

    def seen(self, pictures: torch.Tensor, real: Pictures) -> torch.Tensor:
        return torch.cat([real[self.direction.source], pictures], dim=1)

    def generator_losses(self, real: Pictures, config: TrainConfig) -> tuple[Losses, Pictures]:
        source, target = self.direction.source, self.direction.target
        fake: Pictures = {target: self.generators[self.direction](real[source])}
        judged = self.composited(real, fake, config)
        losses = self.realism_losses(real, judged, config) | self.background_losses(real, fake, config)
        losses |= self.motion_losses(real, fake, config)
        losses[f"l1_{target}"] = config.l1_weight * cycle_loss(fake[target], real[target])
        return losses, judged
