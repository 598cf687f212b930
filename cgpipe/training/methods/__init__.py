"""Training methods: the networks and losses of each."""

from __future__ import annotations

from collections.abc import Mapping

from cgpipe.errors import MissingDependencyError, UsageError
from cgpipe.training.config import TrainConfig
from cgpipe.training.discriminator import load_backbone
from cgpipe.training.methods.base import Losses, Method
from cgpipe.training.methods.cut import CUT
from cgpipe.training.methods.cyclegan import CycleGAN
from cgpipe.training.methods.pix2pix import Pix2Pix
from cgpipe.training.methods.style import Style

METHODS: Mapping[str, type[Method]] = {
    **{"cyclegan": CycleGAN, "cut": CUT, "fastcut": CUT},
    **{"pix2pix": Pix2Pix, "style": Style},
}


def build_method(config: TrainConfig) -> Method:
    """Builds the networks and losses of a run, with fresh weights.

    Raises:
        UsageError: an architecture or one of its settings is unknown, or it does not accept crops of this size.
        MissingDependencyError: the recipe needs pretrained features that are not installed.
    """
    try:
        method = METHODS[config.method](config, load_backbone(config))
    except ValueError as error:
        raise UsageError(f"The networks cannot be built: {error}.") from error
    except MissingDependencyError as error:
        if config.method == "style":
            raise
        raise MissingDependencyError(f"{error}, or train without it: --feature-weight 0.") from error
    multiple = method.multiple
    for stage in (config, *(config.at_epoch(stage.from_epoch) for stage in config.stages)):
        if config.crops and (stage.crop_height % multiple or stage.crop_width % multiple):
            raise UsageError(
                f"{config.gen_net} takes sides that are multiples of {multiple}, not a crop of "
                f"{stage.crop_width}x{stage.crop_height}: change --crop-width and --crop-height, or --gen-net."
            )
    return method


__all__ = ["Losses", "Method", "build_method"]
