"""Makes a model smaller: a student learns to do what a teacher does.

In the spirit of GAN Compression (arXiv 2003.08936) and OMGD (arXiv 2108.06908): the student is told what the teacher
makes of each picture, and a discriminator keeps its results among the real pictures of the target domain, where there
are any. One generator and one direction, so a step costs a fraction of a CycleGAN's.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.data.dataset import sides_of
from cgpipe.data.pictures import find_pictures
from cgpipe.data.unpaired import UnpairedPictures, epoch_length, training_batches
from cgpipe.engine.compiling import can_compile, keep_compiled
from cgpipe.errors import MissingDependencyError, UsageError
from cgpipe.evaluation.grids import load_samples
from cgpipe.models import Model, ModelCard
from cgpipe.models.card import UNKNOWN
from cgpipe.models.choose import choose_model
from cgpipe.networks import Generator, all_settings, build_generator
from cgpipe.networks.cpu import accelerate, steady_weights
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.networks.initialise import initialise
from cgpipe.options import ModelChoice
from cgpipe.parallel import is_member
from cgpipe.recipe import plain_settings
from cgpipe.training.device import choose_arithmetic
from cgpipe.training.distill_config import DistillConfig
from cgpipe.training.losses import cycle_loss, discriminator_loss, generator_loss
from cgpipe.training.motion import motion_loss
from cgpipe.training.networks import Judge
from cgpipe.training.optimise import adam, average_weights, set_learning_rate, update
from cgpipe.training.run import Progress, Run, TrainReport
from cgpipe.training.schedule import learning_rate_factor
from cgpipe.training.warm_start import warm_start

SAMPLES = 6


def distill(
    config: DistillConfig, *, resume: bool = False, on_progress: Callable[[Progress], None] | None = None
) -> TrainReport:
    """Trains a student until the last step is done, or until SIGINT or SIGTERM asks to stop, and saves.

    Args:
        config: the whole recipe, with the teacher and the dataset.
        resume: go on from the state in the run's folder, exactly where it was.
        on_progress: called after every step.

    Raises:
        ModelError: there is no such teacher, or it cannot be read.
        DataError: the dataset is missing or empty.
        UsageError: the teacher does not say what it translates, networks and crops do not fit, or torchrun started
            several processes, which each would train a student of its own.
        TrainingError: there is nothing to resume, a run is in the way, or the losses explode or are no longer finite.
        MissingDependencyError: the recipe needs pretrained features that are not installed.
    """
    if is_member():
        raise UsageError("A distillation runs in one process: start it without torchrun.")
    return Distiller(config).start(resume=resume, on_progress=on_progress)


class Distiller(Run):
    """One distillation: teacher, student and discriminator, and everything that must survive being killed."""

    config: DistillConfig

    def __init__(self, config: DistillConfig) -> None:
        super().__init__()
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.arithmetic = choose_arithmetic(config.gpu_ids, config.precision)
        self.teacher = load_teacher(config)
        self.config = config = with_names(config, self.teacher.card)
        self.dataset = UnpairedPictures(*find_sides(config, self.teacher.card), config.of_the_trainer())
        self.student = build_student(config)
        if config.init:
            self.notices = warm_start(self.student, config.init, config.student, config.student_settings)
        self._check_crop()
        self.features, self.judge = self._build_judges(judged=bool(self.dataset.pictures["b"]))
        for network in self._networks():
            network.to(device=self.arithmetic.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.arithmetic.is_plain_cpu:
            accelerate(self.teacher.generator, frozen=True)
            for network in filter(None, (self.student, self.judge)):
                accelerate(network)
        self.average = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.learners = nn.ModuleDict({"student": self.student} | ({"judge": self.judge} if self.judge else {}))
        self.optimizers = {name: adam(network, config.lr) for name, network in self.learners.items()}
        self.total_steps = config.steps
        self.samples = self._load_samples()
        if config.compile and not self.arithmetic.is_plain_cpu and can_compile(self.arithmetic.device):
            keep_compiled()
            for network in self._networks():
                network.compile(dynamic=False)

    def _check_crop(self) -> None:
        for name, generator in (("teacher", self.teacher.generator), ("student", self.student)):
            if self.config.crop % generator.multiple:
                raise UsageError(
                    f"The {name} takes sides that are multiples of {generator.multiple}, not a crop of "
                    f"{self.config.crop}: change --crop."
                )

    def _build_judges(self, *, judged: bool) -> tuple[Features | None, Judge | None]:
        config = self.config
        head_weight = config.feature_weight if judged else 0
        backbone = None
        if config.perceptual_weight or head_weight:
            try:
                backbone = EfficientNetLite("lite0")
            except MissingDependencyError as error:
                raise MissingDependencyError(
                    f"{error} Or distill without it: --perceptual-weight 0 --feature-weight 0."
                ) from error
        judge = None
        if judged:
            judge = Judge(config.of_the_trainer(), backbone if head_weight else None)
            initialise(judge)
        return Features(backbone, config.feature_taps) if backbone else None, judge

    def _networks(self) -> list[nn.Module]:
        networks = (self.teacher.generator, self.student, self.features, self.judge)
        return [network for network in networks if network is not None]

    def _load_samples(self) -> list[torch.Tensor]:
        """Two rows: pictures, those of the test set where there is one, and what the teacher makes of them."""
        inputs = self.dataset.pictures["a"]
        folder = inputs[0].parent
        test = folder.with_name(folder.name.replace("train", "test"))
        pictures = find_pictures(test) if test.is_dir() else inputs
        samples = load_samples(pictures, SAMPLES).to(self.arithmetic.device)
        with torch.no_grad():
            return [samples, self.teacher.generator(samples)]

    # -- the loop ----------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """Pictures ``a`` to translate and, where there are any, real ``b``, (N, 3, H, W) in [-1, 1]."""
        sides = self.dataset.pictures
        steps = epoch_length(len(sides["a"]), len(sides["b"]), self.config.batch_size)
        while not self.finished:
            for batch in training_batches(self.dataset, self.epoch, self.step % steps, steps):
                self.step += 1
                self.epoch = self.step // steps
                yield {side: self.arithmetic.place(pictures) for side, pictures in batch.items()}
                if self.finished:
                    return

    def test_folders(self, card: ModelCard) -> tuple[Path, Path]:
        sides = sides_of(self.teacher.card, self.config.dataset_dir, self.config.direction)
        first, second = (self.config.dataset_dir / f"test{side}" for side in sides)
        return first, second

    def learning_rate(self) -> float:
        config = self.config
        flat = round(config.steps * (1 - config.decay))
        return config.lr * learning_rate_factor(self.step, epochs=config.steps, decay_epoch=flat)

    def train_step(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """One update of the student and, where there are real pictures, one of the discriminator."""
        with torch.no_grad(), self.arithmetic.autocast():
            wanted = self.teacher.generator(batch["a"])
        if self.judge is not None:
            self.judge.requires_grad_(False)
        losses, made, features = self._student_losses(batch["a"], wanted)
        self._update("student", losses)
        average_weights(self.average, self.student, decay=self.config.ema, step=self.step)
        if self.judge is not None:
            self.judge.requires_grad_(True)
            judge_loss = {"judge": self._judge_loss(self.judge, batch["b"], made, features)}
            self._update("judge", judge_loss)
            losses |= judge_loss
        return {name: loss.detach() for name, loss in losses.items()}

    def _update(self, learner: str, losses: dict[str, torch.Tensor]) -> None:
        set_learning_rate(self.optimizers[learner], self.learning_rate())
        update(self.optimizers[learner], losses)

    def _student_losses(
        self, pictures: torch.Tensor, wanted: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[torch.Tensor] | None]:
        """The losses, and without gradients what the student made and its features."""
        config, losses = self.config, {}
        with self.arithmetic.autocast(), steady_weights():
            made = self.student(pictures)
            features = self.features(made) if self.features else None
            if config.pixel_weight:
                losses["pixels"] = config.pixel_weight * cycle_loss(made, wanted)
            if config.perceptual_weight and self.features and features:
                with torch.no_grad():
                    wanted_features = self.features(wanted)
                losses["perceptual"] = config.perceptual_weight * feature_distance(features, wanted_features)
            if self.judge is not None:
                losses["adversarial"] = config.adversarial_weight * generator_loss(self.judge(made, features))
            if config.motion_weight:
                losses["motion"] = config.motion_weight * motion_loss(self.student, pictures, made)
        return losses, made.detach(), [feature.detach() for feature in features] if features else None

    def _judge_loss(
        self, judge: Judge, reals: torch.Tensor, made: torch.Tensor, features: list[torch.Tensor] | None
    ) -> torch.Tensor:
        with self.arithmetic.autocast(), steady_weights():
            with torch.no_grad():
                real_features = self.features(reals) if self.features else None
            return discriminator_loss(judge(reals, real_features), judge(made, features))

    # -- what is written ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def write_samples(self) -> tuple[str, ...]:
        """A grid of pictures, what the teacher makes of them, and what the student does."""
        rows = [*self.samples, self.average(self.samples[0])]
        self.show_grid(self.config.name, rows)
        return ()

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.learners.named_parameters()
        yield from self.average.named_parameters(prefix="average")

    def models(self) -> Iterator[tuple[Path, Model]]:
        path = self.config.checkpoint_dir / f"{self.config.name}.safetensors"
        yield path, Model(self._card(), self.average)

    def _card(self) -> ModelCard:
        config, teacher = self.config, self.teacher.card
        pictures = self.dataset.pictures
        return ModelCard(
            architecture=config.student,
            settings=all_settings(config.student, config.student_settings),
            source=config.source,
            target=config.target,
            training_size=config.crop,
            made_by={
                "trainer": "cgpipe distill",
                "teacher": {
                    "architecture": teacher.architecture,
                    "settings": dict(teacher.settings),
                    "made_by": dict(teacher.made_by),
                },
                "steps": self.step,
                "pictures": {config.source: len(pictures["a"]), config.target: len(pictures["b"])},
                "recipe": plain_settings(config),
            },
            quality={},
            licence=config.licence,
        )

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": json.dumps(plain_settings(self.config)),
            "step": self.step,
            "epoch": self.epoch,
            "learners": self.learners.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.learners.load_state_dict(state["learners"])
        self.average.load_state_dict(state["average"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        torch.set_rng_state(state["random"])
        self.step, self.epoch = state["step"], state["epoch"]


class Features(nn.Module):
    """The outputs of some blocks of a frozen EfficientNet, (N, 3, H, W) in [-1, 1] in."""

    def __init__(self, backbone: EfficientNetLite, taps: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.blocks = tuple(taps)

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return self.backbone.taps(pictures, self.blocks)


def feature_distance(made: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean absolute difference of feature maps as a share of the wanted ones' size (arXiv 1603.08155), averaged."""
    shares = [
        F.l1_loss(one.float(), other.float()) / other.float().abs().mean().clamp_min(1e-6)
        for one, other in zip(made, wanted, strict=True)
    ]
    return torch.stack(shares).mean()


def load_teacher(config: DistillConfig) -> Model:
    """The model that is to be made smaller, frozen.

    Raises:
        UsageError: no teacher is named, or it does not say what it translates and the recipe does not either.
        ModelError: there is no such model, or it cannot be read.
    """
    if not config.teacher:
        raise UsageError("No teacher: name a model, or a model file of any known project.")
    choice = ModelChoice(
        model=config.teacher,
        to=config.target or None,
        source=config.source or None,
        direction=None if config.direction == "auto" else config.direction,
        batch_statistics=config.batch_statistics,
    )
    model = choose_model(choice).load()
    if UNKNOWN in (model.card.source, model.card.target):
        raise UsageError(f"{config.teacher} does not say what it translates: name both domains with --from and --to.")
    model.generator.eval().requires_grad_(False)
    return model


def with_names(config: DistillConfig, teacher: ModelCard) -> DistillConfig:
    """The recipe with what follows from the teacher filled in: domains, licence, the model's name, the folders."""
    name = config.name or f"{teacher.name}-fast"
    return replace(
        config,
        source=teacher.source,
        target=teacher.target,
        licence=config.licence or teacher.licence,
        name=name,
        checkpoint_dir=Path(str(config.checkpoint_dir).replace("<name>", name)),
        results_dir=Path(str(config.results_dir).replace("<name>", name)),
    )


def find_sides(config: DistillConfig, teacher: ModelCard) -> tuple[list[Path], list[Path]]:
    """The pictures to translate, and real ones of what the result shows; the latter may be none.

    A folder without ``trainA`` and ``trainB`` holds pictures to translate.

    Raises:
        DataError: a folder is missing or empty.
    """
    root = config.dataset_dir
    inputs, reals = (root / f"train{side}" for side in sides_of(teacher, root, config.direction))
    plain = not inputs.is_dir() and not reals.is_dir()
    inputs = config.inputs or (root if plain else inputs)
    wanted = config.reals or (reals if reals.is_dir() and not config.inputs else None)
    judged = wanted is not None and config.adversarial_weight > 0
    return find_pictures(inputs), find_pictures(wanted) if wanted is not None and judged else []


def build_student(config: DistillConfig) -> Generator:
    """The student with fresh weights.

    Raises:
        UsageError: its architecture or a setting of it is unknown.
    """
    try:
        student = build_generator(config.student, **config.student_settings)
    except ValueError as error:
        raise UsageError(f"The student cannot be built: {error}") from error
    initialise(student)
    return student
