"""The training loop, whatever the method."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from cgpipe.data.dataset import find_sample_pictures, find_training_pictures, sets_to_test_on
from cgpipe.data.unpaired import UnpairedPictures, epoch_length, training_batches
from cgpipe.engine.compiling import can_compile
from cgpipe.evaluation.grids import load_samples, sample_rows
from cgpipe.models import Model, ModelCard
from cgpipe.networks import Generator, all_settings
from cgpipe.networks.cpu import accelerate, steady_weights
from cgpipe.parallel import average, gather, require_shares, share, together
from cgpipe.recipe import plain_settings
from cgpipe.training.batch_norm import synchronise
from cgpipe.training.collapse import CollapseWatch
from cgpipe.training.config import TrainConfig
from cgpipe.training.device import Arithmetic, choose_arithmetic
from cgpipe.training.methods import Losses, Method, Pictures, build_method
from cgpipe.training.optimise import adam, average_weights, set_learning_rate, update
from cgpipe.training.pool import ImagePool
from cgpipe.training.run import Progress, Run, TrainReport
from cgpipe.training.schedule import Plateau, learning_rate_factor
from cgpipe.training.warm_start import warm_start

SAMPLES = 6
ARCHITECTURE = (
    *("method", "direction"),
    *("gen_net", "gen_settings", "ngf", "norm"),
    *("dis_net", "ndf", "feature_weight", "feature_taps", "feature_pooled"),
    *("moment_weight", "moment_taps", "moment_lite1_taps"),
)
"""The settings that decide which weights a run has."""


def train(
    config: TrainConfig, *, resume: bool = False, on_progress: Callable[[Progress], None] | None = None
) -> TrainReport:
    """Trains until the last epoch is done, or until SIGINT or SIGTERM asks to stop, and saves.

    Started by torchrun, it is one of several processes that share out each batch (:mod:`cgpipe.parallel`).

    Args:
        config: the whole recipe.
        resume: go on from the state in ``config.checkpoint_dir``, exactly where it was.
        on_progress: called after every step, of several processes in the first.

    Raises:
        DataError: the dataset is missing or empty.
        ModelError: a model to start with is missing, or cannot be read.
        UsageError: the devices or the batch cannot be shared out to the processes.
        TrainingError: there is nothing to resume, a run is in the way, the losses explode or are no longer finite, or
            another process of the run is lost.
        MissingDependencyError: the recipe needs pretrained features that are not installed.
    """
    with together(choose_arithmetic(config.gpu_ids, config.precision).device):
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
        pictures = find_training_pictures(config)
        for batch_size in (config.batch_size, *(stage.batch_size for stage in config.stages)):
            require_shares(batch_size or config.batch_size)
        self.networks: Method = build_method(config)
        if config.sync_batchnorm:
            synchronise(self.networks)
        self.dataset = UnpairedPictures(*pictures, config, multiple=self.networks.multiple)
        self._warm_start()
        self.networks.to_device(self.arithmetic.device)
        if self.arithmetic.is_plain_cpu:
            accelerate(self.networks)
        self.generators = nn.ModuleList(self.networks.generators.values())
        self.averages = copy.deepcopy(self.generators).requires_grad_(False).eval()
        self.generator_optimizer = adam(nn.ModuleList([*self.generators, *self.networks.helpers]), config.lr)
        self.judge_optimizer = adam(nn.ModuleList(self.networks.judges.values()), config.lr)
        self._freeze()
        self.pools = {
            d: ImagePool(config.pool_size, seed=config.seed + i, one_size=config.crops) for i, d in enumerate("ab")
        }
        self.plateau = Plateau(config.lr_step)
        self.scaler = self.arithmetic.scaler()
        self.collapse = CollapseWatch()
        self.step_in_epoch = 0
        self.total_steps = sum(self._steps_in(epoch) for epoch in range(config.epochs))
        self.samples = {d: self._load_samples(d) for d in "ab"}
        wanted = config.compile and config.crops and not self.arithmetic.is_plain_cpu
        if wanted and can_compile(self.arithmetic.device):
            self.networks.compile_networks()

    def _warm_start(self) -> None:
        made_as = self.config.gen_net, self.config.generator_settings()
        for name, generator in self.networks.generators.items():
            if named := getattr(self.config, f"init_{name}"):
                self.notices += warm_start(generator, named, *made_as)

    def _freeze(self) -> None:
        # After the optimisers are made: they know all weights, so that a run can be resumed with others frozen.
        for name in self.config.listed("freeze"):
            getattr(self.networks, name).requires_grad_(False).eval()

    def _load_samples(self, domain: str) -> torch.Tensor:
        pictures = find_sample_pictures(self.config, domain, self.dataset.pictures[domain])
        return load_samples(pictures, SAMPLES).to(self.arithmetic.device)

    def test_folders(self, card: ModelCard) -> tuple[Path, Path]:
        return sets_to_test_on(self.config, card.source)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Pictures]:
        """Pictures of both domains."""
        while self.epoch < self.config.epochs:
            steps = self._steps_in(self.epoch)
            for batch in training_batches(self.dataset, self.epoch, self.step_in_epoch, steps):
                self.step += 1
                self.step_in_epoch += 1
                if self.step_in_epoch == steps:
                    self.epoch, self.step_in_epoch = self.epoch + 1, 0
                yield {domain: self.arithmetic.place(pictures) for domain, pictures in batch.items()}

    def _steps_in(self, epoch: int) -> int:
        pictures = self.dataset.pictures
        return epoch_length(len(pictures["a"]), len(pictures["b"]), self.config.at_epoch(epoch).batch_size)

    def learning_rate(self) -> float:
        config = self.config
        progress = self.epoch + self.step_in_epoch / self._steps_in(min(self.epoch, config.epochs - 1))
        factor = learning_rate_factor(
            progress,
            epochs=config.epochs,
            decay_epoch=config.decay_epoch,
            policy=config.lr_policy,
            step=config.lr_step,
        )
        return config.lr * self.plateau.factor * factor

    # -- one step ----------------------------------------------------------------------------------------------------

    def train_step(self, batch: Pictures) -> Losses:
        """One update of the generators and one of the discriminators."""
        for optimizer in (self.generator_optimizer, self.judge_optimizer):
            set_learning_rate(optimizer, self.learning_rate())
        losses, fake = self._train_generators(batch)
        judge_losses = self._train_judges(batch, fake)
        average_weights(self.averages, self.generators, decay=self.config.ema, step=self.step)
        means = average(losses | judge_losses)
        self._watch_plateau({name: means[name] for name in losses})
        return means

    def _train_generators(self, real: Pictures) -> tuple[Losses, Pictures]:
        for judge in self.networks.judges.values():
            judge.requires_grad_(False)
        learn = self.step > self.config.head_start and _learns(self.generator_optimizer)
        with torch.set_grad_enabled(learn), self.arithmetic.autocast(), steady_weights():
            losses, fake = self.networks.generator_losses(real, self._settings_in_force())
        if learn:
            update(self.generator_optimizer, losses, self.scaler)
        return losses, fake

    def _train_judges(self, real: Pictures, fake: Pictures) -> Losses:
        frozen = self.config.listed("freeze")
        for domain, judge in self.networks.judges.items():
            judge.requires_grad_(f"judge_{domain}" not in frozen)
        # Every process keeps the pools of the whole run, so that a state has them all.
        kept = {d: share(self.pools[d].exchange(gather(fake[d].detach()))) for d in self.networks.judges}
        pooled = {d: self.arithmetic.place(pictures) for d, pictures in kept.items()}
        with steady_weights():
            with self.arithmetic.autocast():
                losses = self.networks.judge_losses(real, pooled)
            losses |= self.networks.gradient_penalties(real, pooled)
        if _learns(self.judge_optimizer):
            update(self.judge_optimizer, losses, self.scaler)
        return losses

    def _settings_in_force(self) -> TrainConfig:
        return self.config.at_epoch(min(self.epoch, self.config.epochs - 1))

    def _watch_plateau(self, losses: Losses) -> None:
        if self.config.lr_policy == "plateau" and losses:  # none where all that could learn by them is frozen
            self.plateau.add(torch.stack(list(losses.values())).sum())
            if self.step_in_epoch == 0:
                self.plateau.end_epoch()

    # -- what is written ---------------------------------------------------------------------------------------------

    def write_samples(self) -> tuple[str, ...]:
        """A grid of real, generated and, where there is a way back, reconstructed pictures for each direction."""
        averages = self._averages_by_name()
        warnings: list[str] = []
        for name, generator in averages.items():
            domain, _, back = name.partition("_to_")
            source, target = self._pairs[name]
            rows = sample_rows(self.samples[domain], generator, averages.get(f"{back}_to_{domain}"))
            self.show_grid(source, rows)
            warnings += self.collapse.look(self.step, f"{source} to {target}", *rows[:2])
        return tuple(warnings)

    def _averages_by_name(self) -> dict[str, Generator]:
        return dict(zip(self.networks.generators, cast("list[Generator]", list(self.averages)), strict=True))

    @property
    def _pairs(self) -> dict[str, tuple[str, str]]:
        pair = (self.config.source, self.config.target)
        return {"a_to_b": pair, "b_to_a": pair[::-1]}

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.networks.named_parameters()
        yield from self.averages.named_parameters(prefix="averages")

    def models(self) -> Iterator[tuple[Path, Model]]:
        for name, generator in self._averages_by_name().items():
            source, target = self._pairs[name]
            yield self.config.model_path(source, target), Model(self._card(source, target), generator)

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
            training_size=self.config.crop_height if self.config.crops else None,
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
            "plateau": self.plateau.state_dict(),
            "scaler": self.scaler.state_dict(),
            "collapse": self.collapse.looks,
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            self.networks.load_state_dict(state["networks"])
        except RuntimeError as error:
            raise ValueError(self._other_networks(state) or str(error)) from error
        self.averages.load_state_dict(state["averages"])
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.judge_optimizer.load_state_dict(state["judge_optimizer"])
        for domain, pool in self.pools.items():
            pool.load_state_dict(state["pools"][domain])
        self._load_since_added(state)
        torch.set_rng_state(state["random"])
        self.epoch, self.step_in_epoch, self.step = state["epoch"], state["step_in_epoch"], state["step"]

    def _other_networks(self, state: dict[str, Any]) -> str:
        made, asked = json.loads(state["config"]), json.loads(json.dumps(plain_settings(self.config)))
        others = [name for name in ARCHITECTURE if name in made and made[name] != asked[name]]
        return ", ".join(f"the run was made with {name} = {made[name]}, not {asked[name]}" for name in others)

    def _load_since_added(self, state: dict[str, Any]) -> None:
        """What states did not hold from the beginning."""
        self.collapse.looks = dict(state.get("collapse", {}))
        if "plateau" in state:
            self.plateau.load_state_dict(state["plateau"])
        if state.get("scaler") and self.scaler.is_enabled():  # that of a run in another type is empty
            self.scaler.load_state_dict(state["scaler"])


def _learns(optimizer: torch.optim.Optimizer) -> bool:
    return any(weight.requires_grad for group in optimizer.param_groups for weight in group["params"])
