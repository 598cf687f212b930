"""The training loop of a CycleGAN (arXiv 1703.10593)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from cgpipe.engine.backends import can_compile
from cgpipe.errors import DataError, TrainingError
from cgpipe.media.folders import find_pictures
from cgpipe.models import Model, ModelCard, find_model, load_any
from cgpipe.networks import Generator, all_settings
from cgpipe.training.config import TrainConfig
from cgpipe.training.data import UnpairedPictures, epoch_length, training_batches
from cgpipe.training.device import Arithmetic, choose_arithmetic
from cgpipe.training.losses import adversarial_loss, cycle_loss, discriminator_loss
from cgpipe.training.networks import build_networks
from cgpipe.training.optimise import adam, average_weights, set_learning_rate, update
from cgpipe.training.pool import ImagePool
from cgpipe.training.recipe import plain_settings
from cgpipe.training.run import Progress, Run, TrainReport
from cgpipe.training.samples import load_samples, sample_grid, save_grid
from cgpipe.training.schedule import learning_rate_factor

SAMPLES = 6


def train(
    config: TrainConfig, *, resume: bool = False, on_progress: Callable[[Progress], None] | None = None
) -> TrainReport:
    """Trains until the last epoch is done, or until SIGINT or SIGTERM asks to stop, and saves.

    Args:
        config: the whole recipe.
        resume: go on from the state in ``config.checkpoint_dir``, exactly where it was.
        on_progress: called after every step.

    Raises:
        DataError: the dataset is missing or empty.
        TrainingError: there is nothing to resume, a run is in the way, or the losses are no longer finite.
        MissingDependencyError: the recipe needs pretrained features that are not installed.
    """
    return Trainer(config).start(resume=resume, on_progress=on_progress)


class Trainer(Run):
    """One run: networks, optimisers, data, and everything that must survive being killed."""

    config: TrainConfig

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.arithmetic: Arithmetic = choose_arithmetic(config.gpu_ids, config.precision)
        self.dataset = UnpairedPictures(*find_dataset(config.dataset_dir), config)
        self.networks = build_networks(config)
        self._warm_start()
        self.networks.to_device(self.arithmetic.device)
        self.averages = copy.deepcopy(nn.ModuleList([self.networks.a_to_b, self.networks.b_to_a]))
        self.averages.requires_grad_(False).eval()
        self.generators = nn.ModuleList([self.networks.a_to_b, self.networks.b_to_a])
        self.judges = nn.ModuleList([self.networks.judge_a, self.networks.judge_b])
        self.generator_optimizer = adam(self.generators, config.lr)
        self.judge_optimizer = adam(self.judges, config.lr)
        self.pools = {d: ImagePool(config.pool_size, seed=config.seed + i) for i, d in enumerate("ab")}
        self.step_in_epoch = 0
        self.total_steps = sum(self._steps_in(epoch) for epoch in range(config.epochs))
        self.samples = {d: self._load_samples(d) for d in "ab"}
        if config.compile and can_compile(self.arithmetic.device):
            self.networks.compile_networks()

    def _warm_start(self) -> None:
        for generator, named in (
            (self.networks.a_to_b, self.config.init_a_to_b),
            (self.networks.b_to_a, self.config.init_b_to_a),
        ):
            if named:
                warm_start(generator, named)

    def _load_samples(self, domain: str) -> torch.Tensor:
        folder = self.config.dataset_dir / f"test{domain.upper()}"
        pictures = find_pictures(folder) if folder.is_dir() else self.dataset.pictures[domain]
        return load_samples(pictures, SAMPLES).to(self.arithmetic.device)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pictures of both domains, (N, 3, H, W) in [-1, 1]."""
        while self.epoch < self.config.epochs:
            steps = self._steps_in(self.epoch)
            for batch in training_batches(self.dataset, self.epoch, self.step_in_epoch, steps):
                self.step += 1
                self.step_in_epoch += 1
                if self.step_in_epoch == steps:
                    self.epoch, self.step_in_epoch = self.epoch + 1, 0
                yield self.arithmetic.place(batch["a"]), self.arithmetic.place(batch["b"])

    def _steps_in(self, epoch: int) -> int:
        pictures = self.dataset.pictures
        return epoch_length(len(pictures["a"]), len(pictures["b"]), self.config.at_epoch(epoch).batch_size)

    def learning_rate(self) -> float:
        config = self.config
        progress = self.epoch + self.step_in_epoch / self._steps_in(min(self.epoch, config.epochs - 1))
        return config.lr * learning_rate_factor(progress, epochs=config.epochs, decay_epoch=config.decay_epoch)

    # -- one step ----------------------------------------------------------------------------------------------------

    def train_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        """One update of the generators and one of the discriminators."""
        a, b = batch
        for optimizer in (self.generator_optimizer, self.judge_optimizer):
            set_learning_rate(optimizer, self.learning_rate())
        generators_learn = self.step > self.config.head_start
        self.judges.requires_grad_(False)
        with torch.set_grad_enabled(generators_learn):
            losses, fake_a, fake_b = self._generator_losses(a, b)
        if generators_learn:
            update(self.generator_optimizer, losses)
        self.judges.requires_grad_(True)
        judge_losses = self._judge_losses(a, b, fake_a.detach(), fake_b.detach())
        update(self.judge_optimizer, judge_losses)
        average_weights(self.averages, self.generators, decay=self.config.ema, step=self.step)
        return {name: loss.detach() for name, loss in (losses | judge_losses).items()}

    def _generator_losses(
        self, a: torch.Tensor, b: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        config, net = self.config.at_epoch(min(self.epoch, self.config.epochs - 1)), self.networks
        with self.arithmetic.autocast():
            fake_b, fake_a = net.a_to_b(a), net.b_to_a(b)
            losses = {
                "adversarial_b": adversarial_loss(net.judge_b(fake_b), real=True),
                "adversarial_a": adversarial_loss(net.judge_a(fake_a), real=True),
            }
            if config.lamda:
                losses["cycle_a"] = config.lamda * cycle_loss(net.b_to_a(fake_b), a)
                losses["cycle_b"] = config.lamda * cycle_loss(net.a_to_b(fake_a), b)
            if config.lamda and config.idt_coef:
                weight = config.lamda * config.idt_coef
                losses["identity_a"] = weight * cycle_loss(net.b_to_a(a), a)
                losses["identity_b"] = weight * cycle_loss(net.a_to_b(b), b)
        return losses, fake_a, fake_b

    def _judge_losses(
        self, a: torch.Tensor, b: torch.Tensor, fake_a: torch.Tensor, fake_b: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        net = self.networks
        pooled_a, pooled_b = self.pools["a"].exchange(fake_a), self.pools["b"].exchange(fake_b)
        with self.arithmetic.autocast():
            return {
                "judge_a": discriminator_loss(net.judge_a(a), net.judge_a(self.arithmetic.place(pooled_a))),
                "judge_b": discriminator_loss(net.judge_b(b), net.judge_b(self.arithmetic.place(pooled_b))),
            }

    # -- what is written ---------------------------------------------------------------------------------------------

    def write_samples(self) -> None:
        """A grid of real, generated and reconstructed pictures for each direction."""
        a_to_b, b_to_a = cast("list[Generator]", list(self.averages))
        for domain, forward, backward in (("a", a_to_b, b_to_a), ("b", b_to_a, a_to_b)):
            grid = sample_grid(self.samples[domain], forward, backward)
            name = self.config.source if domain == "a" else self.config.target
            save_grid(self.config.results_dir / f"{name}-{self.step:07d}.jpg", grid)

    def weights(self) -> Iterator[torch.Tensor]:
        yield from self.networks.parameters()
        yield from self.averages.parameters()

    def models(self) -> Iterator[tuple[Path, Model]]:
        pair = (self.config.source, self.config.target)
        for generator, (source, target) in zip(self.averages, (pair, pair[::-1]), strict=True):
            card = self._card(source, target)
            yield self.config.model_path(source, target), Model(card, cast("Generator", generator))

    def _card(self, source: str, target: str) -> ModelCard:
        pictures = self.dataset.pictures
        made_by = {
            "trainer": "cgpipe train",
            "steps": self.step,
            "pictures": {self.config.source: len(pictures["a"]), self.config.target: len(pictures["b"])},
            "recipe": plain_settings(self.config),
        }
        return ModelCard(
            architecture=self.config.gen_net,
            settings=all_settings(self.config.gen_net, self.config.generator_settings()),
            source=source,
            target=target,
            training_size=self.config.crop_height,
            made_by=made_by,
            quality={},
            licence=self.config.licence,
        )

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": json.dumps(plain_settings(self.config)),
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "step": self.step,
            "networks": self.networks.state_dict(),
            "averages": self.averages.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "judge_optimizer": self.judge_optimizer.state_dict(),
            "pools": {domain: pool.state_dict() for domain, pool in self.pools.items()},
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.networks.load_state_dict(state["networks"])
        self.averages.load_state_dict(state["averages"])
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.judge_optimizer.load_state_dict(state["judge_optimizer"])
        for domain, pool in self.pools.items():
            pool.load_state_dict(state["pools"][domain])
        torch.set_rng_state(state["random"])
        self.epoch, self.step_in_epoch, self.step = state["epoch"], state["step_in_epoch"], state["step"]


def warm_start(generator: Generator, named: str) -> None:
    """Gives ``generator`` the weights of a model: a file of any known project, or a name.

    Raises:
        ModelError: there is no such model, or it cannot be read.
        TrainingError: its architecture is another one.
    """
    model = load_any(find_model(file=named).path)
    try:
        generator.load_state_dict(model.generator.state_dict())
    except RuntimeError as error:
        raise TrainingError(
            f"{named} is of architecture {model.card.architecture} {dict(model.card.settings)}, which is not that of "
            "the run: choose the same with --gen-net, --ngf and --norm."
        ) from error


def find_dataset(root: Path) -> tuple[list[Path], list[Path]]:
    """The training pictures of both domains.

    Raises:
        DataError: the dataset is missing or empty; the message says how to get the one of the shipped models.
    """
    if not root.is_dir():
        raise DataError(
            f"There is no dataset {root}. Name yours with --dataset-dir: a folder with trainA and trainB. The one of "
            "the shipped models comes with `cgpipe data fetch horse2zebra`."
        )
    return find_pictures(root / "trainA"), find_pictures(root / "trainB")
