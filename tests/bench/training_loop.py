"""The training loop of the CycleGAN repositories, written plainly: eager, fp32, pictures one after the other.

Its networks are built by cgpipe, with torch's own layers, so that both sides train the same ones; everything
else is its own.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plain import with_torch_norms
from torch.nn import functional as F

from cgpipe.training.config import TrainConfig
from cgpipe.training.methods import build_method


def pictures(folder: Path, config: TrainConfig, chance: random.Random) -> Iterator[torch.Tensor]:
    """Batches without end: resized, cropped and mirrored at random, as the repositories' transforms do."""
    paths = sorted(folder.iterdir())
    while True:
        batch = []
        for path in chance.choices(paths, k=config.batch_size):
            side = chance.randint(config.load_min or config.load_height, config.load_height)
            picture = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
            left, top = chance.randint(0, side - config.crop_width), chance.randint(0, side - config.crop_height)
            picture = picture.crop((left, top, left + config.crop_width, top + config.crop_height))
            if chance.random() < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            batch.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5))
        yield torch.stack(batch)


def train_plainly(config: TrainConfig, seed: int, device: torch.device) -> Iterator[dict[str, float]]:
    """Trains, giving the losses of every step."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    networks = with_torch_norms(build_method(config)).to(device)
    names = ("a_to_b", "b_to_a", "discriminator_a", "discriminator_b")
    a_to_b, b_to_a, critic_a, critic_b = (networks.get_submodule(name) for name in names)
    generators = torch.optim.Adam([*a_to_b.parameters(), *b_to_a.parameters()], lr=config.lr, betas=(0.5, 0.999))
    critics = torch.optim.Adam([*critic_a.parameters(), *critic_b.parameters()], lr=config.lr, betas=(0.5, 0.999))
    pools: dict[str, list[torch.Tensor]] = {"a": [], "b": []}

    def adversarial_loss(critic: torch.nn.Module, seen: torch.Tensor, label: float) -> torch.Tensor:
        parts = [weight * F.mse_loss(logits, torch.full_like(logits, label)) for weight, logits in critic(seen)]
        return torch.stack(parts).sum()

    def pooled(domain: str, fakes: torch.Tensor) -> torch.Tensor:
        chosen = []
        for fake in fakes.detach():
            pool = pools[domain]
            if len(pool) < config.pool_size:
                pool.append(fake)
            elif chance.random() > 0.5:
                index = chance.randrange(len(pool))
                fake, pool[index] = pool[index], fake
            chosen.append(fake)
        return torch.stack(chosen)

    batches = [pictures(config.dataset_dir / name, config, chance) for name in ("trainA", "trainB")]
    for a, b in zip(*batches, strict=False):
        a, b = a.to(device), b.to(device)
        for parameter in itertools.chain(critic_a.parameters(), critic_b.parameters()):
            parameter.requires_grad_(False)
        generators.zero_grad()
        fake_b, fake_a = a_to_b(a), b_to_a(b)
        cycle = config.lamda * (F.l1_loss(b_to_a(fake_b), a) + F.l1_loss(a_to_b(fake_a), b))
        identity = config.lamda * config.idt_coef * (F.l1_loss(b_to_a(a), a) + F.l1_loss(a_to_b(b), b))
        adversarial = adversarial_loss(critic_b, fake_b, 1) + adversarial_loss(critic_a, fake_a, 1)
        (cycle + identity + adversarial).backward()
        generators.step()
        for parameter in itertools.chain(critic_a.parameters(), critic_b.parameters()):
            parameter.requires_grad_(True)
        critics.zero_grad()
        wrong = adversarial_loss(critic_a, pooled("a", fake_a), 0) + adversarial_loss(critic_b, pooled("b", fake_b), 0)
        telling = 0.5 * (wrong + adversarial_loss(critic_a, a, 1) + adversarial_loss(critic_b, b, 1))
        telling.backward()
        critics.step()
        losses = {"cycle": cycle, "identity": identity, "adversarial": adversarial, "discriminator": telling}
        yield {name: float(loss.detach()) for name, loss in losses.items()}
