"""CycleGAN (arXiv 1703.10593): two generators, each of which inverts the other."""

from __future__ import annotations

from cgpipe.data.direction import A_TO_B, B_TO_A
from cgpipe.data.unpaired import Pictures
from cgpipe.networks import build_generator
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.training.config import TrainConfig
from cgpipe.training.discriminator import Discriminator
from cgpipe.training.losses import cycle_loss
from cgpipe.training.methods.base import Losses, Method


class CycleGAN(Method):
    """Two generators and two discriminators.

    ``a_to_b`` translates domain a to b, and ``discriminator_b`` tells its output from real pictures of b.
    """

    def __init__(self, config: TrainConfig, backbone: EfficientNetLite | None) -> None:
        super().__init__(config, backbone)
        settings = [config.generator_settings(config.channels_of(direction)) for direction in config.directions]
        generators = [build_generator(config.gen_net, **its) for its in settings]
        discriminator_a, discriminator_b = (Discriminator(config, backbone, n) for n in config.channels.values())
        for network in (*generators, discriminator_a, discriminator_b):
            self.initialise(network)
        self.add_networks(A_TO_B, generators[0], discriminator_b)
        self.add_networks(B_TO_A, generators[1], discriminator_a)

    def generator_losses(self, real: Pictures, config: TrainConfig) -> tuple[Losses, Pictures]:
        a, b = real["a"], real["b"]
        # The identity loss feeds a_to_b with real pictures of b. Weights are crosswise, as in the paper's code.
        weight_a, weight_b = (
            0.0 if config.differ_in_channels else config.identity_weight(direction) for direction in (A_TO_B, B_TO_A)
        )
        fake_b, *same_b = self.translated(A_TO_B, a, *([b] if weight_b else []))
        fake_a, *same_a = self.translated(B_TO_A, b, *([a] if weight_a else []))
        fake = {"b": fake_b, "a": fake_a}
        judged = self.composited(real, fake, config)
        losses = self.realism_losses(real, judged, config) | self.background_losses(real, fake, config)
        losses |= self.motion_losses(real, fake, config)
        generators = self.generators
        if cycle_a := config.cycle_weight(A_TO_B):
            losses["cycle_a"] = cycle_a * cycle_loss(generators[B_TO_A](fake_b), a)
        if cycle_b := config.cycle_weight(B_TO_A):
            losses["cycle_b"] = cycle_b * cycle_loss(generators[A_TO_B](fake_a), b)
        if weight_a:
            losses["identity_a"] = weight_a * cycle_loss(same_a[0], a)
        if weight_b:
            losses["identity_b"] = weight_b * cycle_loss(same_b[0], b)
        return losses, judged
