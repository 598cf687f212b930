"""A look from paintings: one generator, tied to its input by features and to the paintings by Gram matrices."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgpipe.data.direction import A_TO_B, Domain
from cgpipe.data.unpaired import Pictures
from cgpipe.networks import build_generator
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.training.config import TrainConfig
from cgpipe.training.discriminator import Discriminator
from cgpipe.training.methods.base import Losses, Method
from cgpipe.training.style import StyleLoss, colour_loss, load_painting, total_variation


class Style(Method):
    """One generator and no discriminator: perceptual losses (arXiv 1603.08155) on photos and paintings."""

    def __init__(self, config: TrainConfig, backbone: EfficientNetLite | None) -> None:
        super().__init__(config, backbone)
        assert backbone is not None
        generator = build_generator(config.gen_net, **config.generator_settings())
        self.initialise(generator)
        self.add_module(A_TO_B.generator, generator)
        paintings = [load_painting(path, config.painting_size) for path in config.like]
        self.style = StyleLoss(backbone, paintings, config.colours)
        self.paintings = [{"file": path.name, "sha256": _sha256(path)} for path in config.like]

    def on_card(self) -> dict[str, Any]:
        config = self.config
        names = " and ".join(path.name for path in config.like)
        return {
            "made_by": {"paintings": self.paintings} | ({"note": config.like_note} if config.like_note else {}),
            "description": f"the look of {names}",
            "working_scales": (config.load_min, config.load_height) if config.crops and config.load_min else None,
        }

    @property
    def discriminators(self) -> Mapping[Domain, Discriminator]:
        return {}

    def generator_losses(self, real: Pictures, config: TrainConfig) -> tuple[Losses, Pictures]:
        photos = real["a"]
        made = self.generators[A_TO_B](photos)
        style, content = self.style(made, photos)
        losses = {
            "style": config.style_weight * style,
            "content": config.content_weight * content,
            "smooth": config.smooth_weight * total_variation(made),
        }
        if config.colours == "photo":
            losses["colours"] = config.colour_weight * colour_loss(made, photos)
        fake: Pictures = {"b": made}
        return losses | self.background_losses(real, fake, config) | self.motion_losses(real, fake, config), fake


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
