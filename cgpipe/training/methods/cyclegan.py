"""CycleGAN (arXiv 1703.10593): two generators, each of which can undo what the other does."""

from __future__ import annotations

from cgpipe.networks import Generator, build_generator
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.networks.initialise import initialise
from cgpipe.training.config import TrainConfig
from cgpipe.training.losses import cycle_loss
from cgpipe.training.methods.base import Losses, Method, Pictures
from cgpipe.training.networks import Judge


class CycleGAN(Method):
    """Two generators and two discriminators.

    ``a_to_b`` translates the first domain into the second, ``judge_b`` tells its output from real pictures of ``b``.
    """

    def __init__(self, config: TrainConfig, backbone: EfficientNetLite | None) -> None:
        super().__init__(config, backbone)
        settings = config.generator_settings()
        self.a_to_b: Generator = build_generator(config.gen_net, **settings)
        self.b_to_a: Generator = build_generator(config.gen_net, **settings)
        self.judge_a = Judge(config, backbone)
        self.judge_b = Judge(config, backbone)
        for network in (self.a_to_b, self.b_to_a, self.judge_a, self.judge_b):
            initialise(network)

    def generator_losses(self, real: Pictures, config: TrainConfig) -> tuple[Losses, Pictures]:
        a, b = real["a"], real["b"]
        identity = config.lamda * config.idt_coef
        fake_b, *same_b = self.translated("a_to_b", a, *([b] if identity else []))
        fake_a, *same_a = self.translated("b_to_a", b, *([a] if identity else []))
        fake = {"b": fake_b, "a": fake_a}
        losses = self.realism_losses(real, fake, config) | self.background_losses(real, fake, config)
        losses |= self.motion_losses(real, fake, config)
        lamda_b = config.lamda if config.lamda_b < 0 else config.lamda_b
        if config.lamda:
            losses["cycle_a"] = config.lamda * cycle_loss(self.b_to_a(fake_b), a)
        if lamda_b:
            losses["cycle_b"] = lamda_b * cycle_loss(self.a_to_b(fake_a), b)
        if identity:
            losses["identity_a"] = identity * cycle_loss(same_a[0], a)
            losses["identity_b"] = identity * cycle_loss(same_b[0], b)
        return losses, fake
