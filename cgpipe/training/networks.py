"""The four networks of a CycleGAN, and how each is built for a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cgpipe.errors import MissingDependencyError, UsageError
from cgpipe.metrics.efficientnet import EfficientNetLite
from cgpipe.networks import Generator, build_generator
from cgpipe.networks.discriminators import FeatureHeads, build_discriminator
from cgpipe.networks.initialise import initialise
from cgpipe.training.config import TrainConfig
from cgpipe.training.losses import WeightedLogits


class Judge(nn.Module):
    """A discriminator: a patch or pixel network on the picture and, on request, heads on frozen pretrained features.

    The pixel network keeps checkerboards away; the features tell the subject from its background (Projected GAN,
    arXiv 2111.01007).
    """

    def __init__(self, config: TrainConfig, backbone: EfficientNetLite | None) -> None:
        super().__init__()
        self.pixels = build_discriminator(config.dis_net, ndf=config.ndf, norm=config.norm)  # type: ignore[arg-type]
        self.taps = config.feature_taps
        self.weight = config.feature_weight
        self.heads = FeatureHeads([backbone.channels(tap) for tap in self.taps]) if backbone else None
        # In a tuple the backbone is no submodule: it is shared, frozen, and stays out of the state.
        self._backbone = (backbone,)

    def forward(self, pictures: torch.Tensor, features: Sequence[torch.Tensor] | None = None) -> WeightedLogits:
        """Judges (N, 3, H, W) in [-1, 1]; ``features`` are the taps of these pictures, where they are known already."""
        judgement = [(1.0, self.pixels(pictures))]
        backbone = self._backbone[0]
        if self.heads is not None and backbone is not None:
            features = backbone.taps(pictures, self.taps) if features is None else features
            judgement += [(self.weight, logits) for logits in self.heads(features)]
        return judgement


class CycleGAN(nn.Module):
    """Two generators and two discriminators with fresh weights (arXiv 1703.10593).

    ``a_to_b`` translates the first domain into the second, ``judge_b`` tells its output from real pictures of ``b``.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        backbone = EfficientNetLite("lite0") if config.feature_weight else None
        settings = config.generator_settings()
        self.a_to_b: Generator = build_generator(config.gen_net, **settings)
        self.b_to_a: Generator = build_generator(config.gen_net, **settings)
        self.judge_a = Judge(config, backbone)
        self.judge_b = Judge(config, backbone)
        for network in (self.a_to_b, self.b_to_a, self.judge_a, self.judge_b):
            initialise(network)
        self._backbone = (backbone,)

    def to_device(self, device: torch.device) -> CycleGAN:
        """Moves everything, the shared backbone too, in the memory layout that convolutions run best in."""
        self.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for backbone in self._backbone:
            if backbone is not None:
                backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def compile_networks(self) -> None:
        """Compiles each network where it stands; the names in the state stay as they are."""
        for network in (self.a_to_b, self.b_to_a, self.judge_a, self.judge_b):
            network.compile(dynamic=False)


def build_networks(config: TrainConfig) -> CycleGAN:
    """The networks of a run with fresh weights.

    Raises:
        UsageError: an architecture or a setting of it is unknown, or it does not take crops of this size.
        MissingDependencyError: the recipe needs pretrained features that are not installed.
    """
    try:
        networks = CycleGAN(config)
    except ValueError as error:
        raise UsageError(f"The networks cannot be built: {error}") from error
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{error} Or train without it: --feature-weight 0.") from error
    multiple = networks.a_to_b.multiple
    for stage in (config, *(config.at_epoch(stage.from_epoch) for stage in config.stages)):
        if stage.crop_height % multiple or stage.crop_width % multiple:
            raise UsageError(
                f"{config.gen_net} takes sides that are multiples of {multiple}, not a crop of "
                f"{stage.crop_width}x{stage.crop_height}: change --crop-width and --crop-height."
            )
    return networks
