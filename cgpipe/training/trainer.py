"""Training runs of all methods."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import nn

from cgpipe.data.dataset import find_sample_pairs, find_sample_pictures, open_training_sets, sets_to_test_on
from cgpipe.data.direction import DOMAINS, Direction, Domain
from cgpipe.data.loading import Form, ranges_on_card
from cgpipe.data.pictures import Place
from cgpipe.data.settings import PictureSettings, whole_side
from cgpipe.data.unpaired import Pictures
from cgpipe.engine.compiling import can_compile
from cgpipe.engine.cuda import CudaRecorder
from cgpipe.errors import UsageError
from cgpipe.evaluation.grids import load_alike, load_samples, sample_rows
from cgpipe.evaluation.watch import PairedWatch, Watch
from cgpipe.models import Model, ModelCard
from cgpipe.networks import Generator, all_settings
from cgpipe.networks.channels import as_rgb
from cgpipe.networks.cpu import accelerate, steady_weights
from cgpipe.parallel import all_reduce_mean, gather, process_count, process_group, require_shares, share
from cgpipe.recipe import plain_settings
from cgpipe.training.batch_norm import synchronise
from cgpipe.training.collapse import CollapseWatch
from cgpipe.training.config import TrainConfig
from cgpipe.training.device_plan import plan_device
from cgpipe.training.methods import Losses, Method, build_method
from cgpipe.training.optimise import (
    adam,
    add_gradients,
    apply_gradients,
    average_weights,
    load_optimizer,
    set_learning_rate,
)
from cgpipe.training.pool import ImagePool
from cgpipe.training.recompute import recompute_activations
from cgpipe.training.replay import Record, Replayed
from cgpipe.training.run import Progress, Run, TrainReport
from cgpipe.training.schedule import Plateau, learning_rate_factor
from cgpipe.training.warm_start import warm_start, warm_start_discriminators

Part = TypeVar("Part")

SAMPLES = 6
FEW_PICTURES = 10
"""Fewer on a side are remarked upon."""
ARCHITECTURE = (
    *("method", "direction", "nce_layers"),
    *("input_channels", "output_channels"),
    *("gen_net", "gen_settings", "ngf", "norm"),
    *("dis_net", "dis_layers", "dis_scales", "ndf", "feature_weight", "feature_taps", "feature_pooled"),
    *("moment_weight", "moment_taps", "moment_lite1_taps"),
)
"""The settings that determine a run's weights."""


class _Situation(NamedTuple):
    """What a step depends on beside its batch.

    Args:
        settings: the effective ones.
        learn: whether the generators learn.
    """

    settings: TrainConfig
    learn: bool


def train(
    config: TrainConfig, *, resume: bool = False, on_progress: Callable[[Progress], None] | None = None
) -> TrainReport:
    """Trains until the last epoch is done, or until SIGINT or SIGTERM, and saves.

    Under torchrun, several processes share each batch (:mod:`cgpipe.parallel`).

    Args:
        config: the recipe.
        resume: resume exactly where the run in ``config.checkpoint_dir`` stopped; without a saved state it starts.
        on_progress: called after every step, in the first of several processes.

    Raises:
        DataError: the dataset is missing or empty, or no picture of it can be read.
        ModelError: a model to start with is missing, or cannot be read.
        UsageError: the devices or the batch cannot be divided among the processes.
        TrainingError: a saved state does not fit, the folder already holds a run, the losses explode, or another
            process of the run has died.
        MissingDependencyError: the recipe needs pretrained features that are not installed.
    """
    with process_group(plan_device(config.gpu_ids, config.precision).device):
        return Trainer(config, warm=not resume).start(resume=resume, on_progress=on_progress)


class Trainer(Run):
    """A training run: networks, optimisers and data, with all state that must survive a kill.

    Args:
        warm: begin with the models that the recipe names; a run that resumes has weights of its own.
    """

    config: TrainConfig
    settings: TrainConfig

    def __init__(self, config: TrainConfig, *, warm: bool = True) -> None:
        super().__init__(config)
        self.config, self.settings = config, config.at_epoch(0)
        for batch_size in (config.batch_size, *(stage.batch_size for stage in config.stages)):
            require_shares(batch_size or config.batch_size)
            self._require_parts(batch_size or config.batch_size)
        self.method: Method = build_method(config)
        if config.sync_batchnorm:
            synchronise(self.method)
        self.pictures = open_training_sets(
            config,
            seed=config.seed,
            multiple=self.method.multiple,
            least=max(self.method.least_side, config.least_patch),
            paired=config.is_paired,
        )
        if warm:
            self._warm_start()
        self.method.to_device(self.plan.device)
        record = self._recorder()
        if self.plan.device.type == "cpu":
            accelerate(self.method)
        self.generators = nn.ModuleList(self.method.generators.values())
        self.averages = copy.deepcopy(self.generators).requires_grad_(False).eval()
        betas = (config.beta1, config.beta2)
        self.generator_optimizer = adam(nn.ModuleList([*self.generators, *self.method.helpers]), config.lr, betas)
        adversaries = nn.ModuleList(self.method.discriminators.values())
        self.discriminator_optimizer = adam(adversaries, config.lr, betas) if len(adversaries) else None
        self._freeze()
        self._situation: _Situation | None = None
        self._generators_part = Replayed(self._train_generators, self.generator_optimizer, record)
        self._discriminators_part = Replayed(self._train_discriminators, self.discriminator_optimizer, record)
        pool_size = 0 if config.is_paired else config.pool_size  # a pair cannot be shown with an earlier translation
        self.pools: dict[Domain, ImagePool] = {
            d: ImagePool(pool_size, seed=config.seed + i, one_size=config.crops) for i, d in enumerate(DOMAINS)
        }
        self.plateau = Plateau(config.lr_step)
        self.collapse = CollapseWatch()
        self.samples = {d: s.to(self.plan.device) for d, s in self._load_samples().items()}
        side = self._side_of_samples()
        self.watch = PairedWatch(side) if config.is_paired else Watch(side)
        self.notices += self._remarks()
        if config.activation_checkpointing:
            for generator in self.method.generators.values():
                recompute_activations(generator)
        if record is None and self._compiles():
            self.method.compile_networks()

    def _compiles(self) -> bool:
        config = self.config
        wanted = config.compile and config.crops and self.plan.gains_by_compiling
        return wanted and not config.activation_checkpointing and can_compile(self.plan.device)

    def _require_parts(self, batch_size: int) -> None:
        shared, parts = len(share(range(batch_size))), self.config.accumulate
        if shared % parts:
            raise UsageError(
                f"Each process has {shared} of a batch of {batch_size} pictures, which {parts} parts cannot share "
                "equally: change --batch-size or --accumulate."
            )

    def _warm_start(self) -> None:
        for direction, generator in self.method.generators.items():
            if named := self.config.initial_models[direction]:
                settings = self.config.generator_settings(self.config.channels_of(direction))
                self.notices += warm_start(generator, named, self.config.gen_net, settings)
        if (place := self.config.init_discriminators) is not None and self.method.discriminators:
            self.notices += warm_start_discriminators(self.method.discriminators, place)

    def _freeze(self) -> None:
        # After the optimisers are made: they hold all weights, so that a run can resume with others frozen.
        for name in self.config.frozen:
            self.method.get_submodule(name).requires_grad_(False).eval()

    def _recorder(self) -> Record | None:
        """What records parts of the step; None where they cannot be recorded."""
        alone = process_count() == 1 and not self.config.activation_checkpointing
        return CudaRecorder(self.plan.device) if alone and self.plan.device.type == "cuda" else None

    def _load_samples(self) -> dict[Domain, torch.Tensor]:
        files = self.pictures.files
        forms = {d: Form(channels, self.pictures.ranges.get(d)) for d, channels in self.config.channels.items()}
        if self.config.is_paired:
            pairs = find_sample_pairs(self.config, files)
            samples = load_alike(pairs[:2], SAMPLES, self._side_of_samples(), forms=[*forms.values()])
            return dict(zip(DOMAINS, samples, strict=True))
        pictures = {d: find_sample_pictures(self.config, d, files[d]) for d in DOMAINS if files[d]}
        side = self._side_of_samples()
        return {d: load_samples(found, SAMPLES, side, form=forms[d]) for d, found in pictures.items()}

    def _side_of_samples(self) -> int:
        multiple = self.method.multiple
        return self.config.test_size(multiple) if self.config.is_paired else whole_side(256, multiple)

    def _remarks(self) -> tuple[str, ...]:
        """Notices about the recipe and the datasets that the user may not expect."""
        idle = tuple(f"{name} {why}." for name, why in self.config.without_effect().items())
        few = tuple(
            f"Domain {domain.upper()} has {count} picture{'s' * (count > 1)}: of so few a model learns little more "
            "than these. Most looks need some hundreds."
            for domain, count in self.pictures.counts.items()
            if 0 < count < FEW_PICTURES
        )
        ranges = tuple(
            f"The 16-bit pictures of domain {domain.upper()} are taken from {values.low} (black) to {values.high} "
            "(white), the bits that they use; --value-range sets other values."
            for domain, values in self.pictures.ranges.items()
            if values.is_partial and self.config.value_range == "auto"
        )
        return idle + few + ranges

    def test_folders(self, card: ModelCard) -> tuple[Place, Place]:
        return sets_to_test_on(self.config, card.source)

    # -- the loop ----------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        config = self.config
        return self.stopped_early or (self.step >= config.steps if config.steps else self.epoch >= config.epochs)

    def settings_at(self, epoch: int) -> TrainConfig:
        return self.config.at_epoch(min(epoch, self.config.epochs - 1))

    def settings_ahead(self) -> tuple[PictureSettings, int]:
        steps, epochs = self.config.steps, self.config.epochs
        if not steps:
            return super().settings_ahead()
        # By the epoch of the schedule, which is stretched over the steps, and not by that of the pictures.
        epoch = int(self._schedule_epoch(self.step))
        end = -(-(epoch + 1) * steps // epochs)
        return self.settings_at(epoch), end - self.step

    def steps_left(self) -> int:
        if self.config.steps:
            return max(0, self.config.steps - self.step)
        steps = 0
        for epoch in range(self.epoch, self.config.epochs):
            size = self.settings_at(epoch).batch_size
            shown = self.picture if epoch == self.epoch else 0
            steps += (self.pictures.length(size) - shown) // size
        return steps

    def learning_rate(self) -> float:
        config = self.config
        factor = learning_rate_factor(
            self._schedule_epoch(self.step) if config.steps else self.epoch + self.progress_in_epoch(),
            epochs=config.epochs,
            decay_epoch=config.decay_epoch,
            policy=config.lr_policy,
            step=config.lr_step,
        )
        risen = min(1.0, self.step / config.lr_warmup) if config.lr_warmup else 1.0
        return config.lr * self.plateau.factor * factor * risen

    def _schedule_epoch(self, step: int) -> float:
        """The position of a step in the schedule, in epochs, for a run of ``steps`` steps."""
        return self.config.epochs * step / self.config.steps

    # -- one step ----------------------------------------------------------------------------------------------------

    def train_step(self, batch: Pictures) -> Losses:
        """One update of the generators and one of the discriminators."""
        for optimizer in filter(None, (self.generator_optimizer, self.discriminator_optimizer)):
            set_learning_rate(optimizer, self.learning_rate())
        learn = self.step > self.config.head_start and _learns(self.generator_optimizer)
        self._set_situation(_Situation(self.settings, learn))
        losses, fake = self._generators_part(batch)
        discriminator_losses = self._discriminators_part(batch, self._pooled(fake))
        average_weights(self.averages, self.generators, decay=self.config.ema, step=self.step)
        means = all_reduce_mean(losses | discriminator_losses)
        self._watch_plateau({name: means[name] for name in losses})
        return {name: mean.clone() for name, mean in means.items()}  # a replay overwrites its own

    def _set_situation(self, situation: _Situation) -> None:
        if situation != self._situation:
            self._situation = situation
            self._forget_recordings()  # both at once: they share their memory

    def _forget_recordings(self) -> None:
        self._generators_part.forget()
        self._discriminators_part.forget()

    def _train_generators(self, real: Pictures) -> tuple[Losses, Pictures]:
        assert self._situation is not None
        settings, learn = self._situation
        made: list[Pictures] = []
        for discriminator in self.method.discriminators.values():
            discriminator.requires_grad_(False)

        def losses_of(part: Pictures) -> Losses:
            with torch.set_grad_enabled(learn), self.plan.autocast():
                losses, fake = self.method.generator_losses(part, settings)
            made.append({domain: pictures.detach() for domain, pictures in fake.items()})
            return losses

        losses = self._learn(self.generator_optimizer if learn else None, losses_of, self._parts(real))
        return losses, {domain: torch.cat([part[domain] for part in made]) for domain in made[0]}

    def _parts(self, batch: Pictures) -> list[Pictures]:
        """The parts of a batch that pass through the networks one after the other."""
        count = self.config.accumulate
        chunks = {name: pictures.chunk(count) for name, pictures in batch.items()}
        return [{name: parts[index] for name, parts in chunks.items()} for index in range(count)]

    def _learn(
        self, optimizer: torch.optim.Optimizer | None, losses_of: Callable[[Part], Losses], parts: Sequence[Part]
    ) -> Losses:
        """One step by the mean gradients of all parts of a batch, or none without an optimiser; the mean losses."""
        found: list[Losses] = []
        if optimizer is not None:
            optimizer.zero_grad(set_to_none=True)
        with steady_weights():
            for part in parts:
                losses = losses_of(part)
                if optimizer is not None:
                    add_gradients(losses, self.scaler, share=1 / len(parts))
                found.append({name: loss.detach() for name, loss in losses.items()})
        if optimizer is not None:
            apply_gradients(optimizer, self.scaler)
        return {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}

    def _pooled(self, fake: Pictures) -> Pictures:
        """What the discriminators see of the translations."""
        # Every process keeps the pools of the whole run, so that the state has all of them.
        kept = {d: share(self.pools[d].exchange(gather(fake[d]))) for d in self.method.discriminators}
        return {d: self.plan.place(pictures) for d, pictures in kept.items()}

    def _train_discriminators(self, real: Pictures, pooled: Pictures) -> Losses:
        if self.discriminator_optimizer is None:
            return {}
        for domain, discriminator in self.method.discriminators.items():
            discriminator.requires_grad_(not self.method.is_frozen(f"discriminator_{domain}"))

        def losses_of(part: tuple[Pictures, Pictures]) -> Losses:
            with self.plan.autocast():
                losses = self.method.discriminator_losses(*part)
            return losses | self.method.gradient_penalties(*part)

        optimizer = self.discriminator_optimizer if _learns(self.discriminator_optimizer) else None
        return self._learn(optimizer, losses_of, list(zip(self._parts(real), self._parts(pooled), strict=True)))

    def _watch_plateau(self, losses: Losses) -> None:
        if self.config.lr_policy == "plateau" and losses:  # none where all that could learn by them is frozen
            self.plateau.add(torch.stack(list(losses.values())).sum())
            if self.picture == 0:
                self.plateau.end_epoch()

    # -- what is written ---------------------------------------------------------------------------------------------

    def write_samples(self) -> tuple[str, ...]:
        """Writes a grid per direction: real, translated, and reconstructed or, of pairs, what should have been made."""
        averages = self._averages_by_direction()
        warnings: list[str] = []
        for direction, generator in averages.items():
            source, target = self.config.names(direction)
            rows = sample_rows(self.samples[direction.source], generator, averages.get(direction.reverse))
            partners = [self.samples[direction.target]] if self.config.is_paired else []
            self.show_grid(source, rows + partners)
            warnings += self.collapse.check(self.step, f"{source} to {target}", *map(as_rgb, rows[:2]))
        return tuple(warnings)

    def _averages_by_direction(self) -> dict[Direction, Generator]:
        return dict(zip(self.method.generators, cast("list[Generator]", list(self.averages)), strict=True))

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.method.named_parameters()
        yield from self.averages.named_parameters(prefix="averages")

    def models(self) -> Iterator[tuple[Path, Model]]:
        for direction, generator in self._averages_by_direction().items():
            yield self.config.model_path(direction), Model(self._card(direction), generator)

    def _card(self, direction: Direction) -> ModelCard:
        source, target = self.config.names(direction)
        settings = self.config.generator_settings(self.config.channels_of(direction))
        counts = self.pictures.counts
        made_by = {
            "trainer": "cgpipe train",
            "finished": self.finished,
            "steps": self.step,
            "pictures": {self.config.source: counts["a"], self.config.target: counts["b"]},
            "recipe": plain_settings(self.config),
        }
        made_by |= ranges_on_card(self.pictures.ranges, self.config.source, self.config.target)
        fields = self.method.on_card()
        return ModelCard(
            architecture=self.config.gen_net,
            settings=all_settings(self.config.gen_net, settings),
            source=source,
            target=target,
            training_size=self.config.crop_height if self.config.crops else None,
            made_by=made_by | fields.pop("made_by", {}),
            quality={},
            licence=self.config.licence,
            large_side=self.config.large_side or None,
            **fields,
        )

    # -- state -------------------------------------------------------------------------------------------------------

    def networks_state(self) -> dict[str, object]:
        adversaries = self.discriminator_optimizer
        return {
            "networks": self.method.state_dict(),
            "averages": self.averages.state_dict(),
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "discriminator_optimizer": adversaries.state_dict() if adversaries else {},
            "pools": {domain: pool.state_dict() for domain, pool in self.pools.items()},
            "plateau": self.plateau.state_dict(),
            "collapse": self.collapse.seen,
        }

    def load_networks_state(self, state: dict[str, Any]) -> None:
        self._forget_recordings()
        try:
            self.method.load_state_dict(state["networks"])
        except RuntimeError as error:
            raise ValueError(self._other_networks(state) or str(error)) from error
        self.averages.load_state_dict(state["averages"])
        load_optimizer(self.generator_optimizer, state["generator_optimizer"])
        if self.discriminator_optimizer is not None:
            load_optimizer(self.discriminator_optimizer, state["discriminator_optimizer"])
        for domain, pool in self.pools.items():
            pool.load_state_dict(state["pools"][domain])
        self.collapse.seen = dict(state["collapse"])
        if "plateau" in state:
            self.plateau.load_state_dict(state["plateau"])

    def _other_networks(self, state: dict[str, Any]) -> str:
        made, asked = json.loads(state["settings"]), json.loads(json.dumps(plain_settings(self.config)))
        others = [name for name in ARCHITECTURE if name in made and made[name] != asked[name]]
        return "; ".join(f"the run was made with {name} = {made[name]}, not {asked[name]}" for name in others)


def _learns(optimizer: torch.optim.Optimizer) -> bool:
    return any(weight.requires_grad for group in optimizer.param_groups for weight in group["params"])
