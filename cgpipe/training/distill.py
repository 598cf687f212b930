"""Distillation: trains a small student network to reproduce a teacher.

In the spirit of GAN Compression (arXiv 2003.08936) and OMGD (arXiv 2108.06908): the student learns the teacher's output
for each picture, and a discriminator compares its results with real pictures of the target domain, if there are any.
With one generator and one direction, a step costs a fraction of a CycleGAN's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cgpipe.data.dataset import direction_of, find_ranges, test_folders_of, training_folder
from cgpipe.data.direction import DOMAINS
from cgpipe.data.loading import Form, forms_of, ranges_on_card
from cgpipe.data.pictures import Place, find_pictures, path_of, pictures_at
from cgpipe.data.settings import VIEWABLE, PictureSettings, whole_side
from cgpipe.data.unpaired import Pictures, TrainingPictures
from cgpipe.engine.compiling import can_compile, keep_compiled
from cgpipe.errors import MissingDependencyError, UsageError
from cgpipe.evaluation.grids import load_samples
from cgpipe.evaluation.watch import Watch
from cgpipe.models import Model, ModelCard
from cgpipe.models.card import UNKNOWN
from cgpipe.models.choose import choose_model
from cgpipe.models.weights import CHANNELS
from cgpipe.networks import Generator, all_settings, build_generator
from cgpipe.networks.channels import as_rgb
from cgpipe.networks.cpu import accelerate, steady_weights
from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.networks.initialise import initialise
from cgpipe.options import ModelChoice
from cgpipe.parallel import is_member
from cgpipe.recipe import plain_settings
from cgpipe.training.aliasing import alias_loss
from cgpipe.training.discriminator import Discriminator
from cgpipe.training.distill_config import DistillConfig
from cgpipe.training.losses import cycle_loss, discriminator_loss, generator_loss
from cgpipe.training.motion import motion_loss
from cgpipe.training.optimise import adam, average_weights, load_optimizer, set_learning_rate, update
from cgpipe.training.run import Progress, Run, TrainReport
from cgpipe.training.schedule import learning_rate_factor
from cgpipe.training.warm_start import warm_start

SAMPLES = 6


def distill(
    config: DistillConfig, *, resume: bool = False, on_progress: Callable[[Progress], None] | None = None
) -> TrainReport:
    """Trains a student until the last step, or until SIGINT or SIGTERM, and saves.

    Args:
        config: the recipe, with the teacher and the dataset.
        resume: resume exactly where the run in the folder stopped; without a saved state it starts.
        on_progress: called after every step.

    Raises:
        ModelError: there is no such teacher, or it cannot be read.
        DataError: the dataset is missing or empty.
        UsageError: the teacher does not name its domains, networks and crops do not fit, or torchrun started several
            processes, each of which would train its own student.
        TrainingError: a saved state does not fit, the folder already holds a run, or the losses explode.
        MissingDependencyError: the recipe needs pretrained features that are not installed.
    """
    if is_member():
        raise UsageError("Distillation runs in one process: start it without torchrun.")
    return Distiller(config, warm=not resume).start(resume=resume, on_progress=on_progress)


class Distiller(Run):
    """A distillation run: teacher, student and discriminator, with all state that must survive a kill.

    Args:
        warm: begin with the student that the recipe names; a run that resumes has weights of its own.
    """

    config: DistillConfig

    def __init__(self, config: DistillConfig, *, warm: bool = True) -> None:
        super().__init__(config)
        self.teacher = load_teacher(config)
        named = with_names(config, self.teacher.card)
        self.config = config = with_channels(named, self.teacher.generator.channels)
        if config.perceptual_weight != named.perceptual_weight or config.feature_weight != named.feature_weight:
            self.notices += ("No features are compared: their network sees gray, RGB and RGBA pictures alone.",)
        self.settings = config.picture_settings
        self.pictures = self._find_pictures()
        self.student = build_student(config)
        if config.init and warm:
            self.notices += warm_start(self.student, config.init, config.student, config.student_settings)
        self._check_crop()
        self.features, self.discriminator = self._build_discriminator(wanted=bool(self.pictures.files["b"]))
        if self.discriminator is None:
            self.notices += tuple(f"{name} does nothing without real pictures." for name in config.of_discriminators())
        for network in self._networks():
            network.to(device=self.plan.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.plan.device.type == "cpu":
            accelerate(self.teacher.generator, frozen=True)
            for network in filter(None, (self.student, self.discriminator)):
                accelerate(network)
        self.average = copy.deepcopy(self.student).requires_grad_(False).eval()
        learners: dict[str, nn.Module] = {"student": self.student}
        self.learners = nn.ModuleDict(learners | ({"discriminator": self.discriminator} if self.discriminator else {}))
        betas = (config.beta1, config.beta2)
        self.optimizers = {name: adam(network, config.lr, betas) for name, network in self.learners.items()}
        self.watch = Watch(whole_side(256, self.student.multiple))
        self.samples = self._load_samples()
        if config.compile and self.plan.gains_by_compiling and can_compile(self.plan.device):
            keep_compiled()
            for network in self._networks():
                network.compile(dynamic=False)

    def _find_pictures(self) -> TrainingPictures:
        """The training pictures, read as the teacher's are."""
        inputs, reals = find_sides(self.config, self.teacher.card)
        forms = dict(zip(DOMAINS, forms_of(self.teacher), strict=True))
        channels = {domain: form.channels for domain, form in forms.items()}
        ranges = find_ranges({"a": inputs, "b": reals}, channels=channels)
        ranges |= {domain: form.values for domain, form in forms.items() if form.values is not None}
        return TrainingPictures(inputs, reals, ranges=ranges, channels=channels, seed=self.config.seed)

    def _check_crop(self) -> None:
        for name, generator in (("teacher", self.teacher.generator), ("student", self.student)):
            if self.config.crop % generator.multiple:
                raise UsageError(
                    f"The {name} takes sides that are multiples of {generator.multiple}, not a crop of "
                    f"{self.config.crop}: change --crop."
                )

    def _build_discriminator(self, *, wanted: bool) -> tuple[Features | None, Discriminator | None]:
        config = self.config
        head_weight = config.feature_weight if wanted else 0
        backbone = None
        if config.perceptual_weight or head_weight:
            try:
                backbone = EfficientNetLite("lite0")
            except MissingDependencyError as error:
                raise MissingDependencyError(
                    f"{error} Or distill without it: --perceptual-weight 0 --feature-weight 0."
                ) from error
        discriminator = None
        if wanted:
            discriminator = Discriminator(config, backbone if head_weight else None, self.pictures.channels["b"])
            initialise(discriminator)
        return Features(backbone, config.feature_taps) if backbone else None, discriminator

    def _networks(self) -> list[nn.Module]:
        networks = (self.teacher.generator, self.student, self.features, self.discriminator)
        return [network for network in networks if network is not None]

    def _load_samples(self) -> list[torch.Tensor]:
        """Two rows: pictures, from the test set if there is one, and the teacher's translations."""
        inputs = self.pictures.files["a"]
        test = self._test_pictures()
        pictures = pictures_at(test) if test is not None and path_of(test).is_dir() else inputs
        form = Form(self.pictures.channels["a"], self.pictures.ranges.get("a"))
        side = whole_side(256, math.lcm(self.teacher.generator.multiple, self.student.multiple))
        samples = load_samples(pictures, SAMPLES, side, form=form).to(self.plan.device)
        with torch.no_grad():
            return [samples, self.teacher.generator(samples)]

    def _test_pictures(self) -> Place | None:
        """The test set beside the dataset's own training pictures."""
        return None if self.config.inputs else self.test_folders(self.teacher.card)[0]

    # -- the loop ----------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        return self.stopped_early or self.step >= self.config.steps

    def settings_at(self, epoch: int) -> PictureSettings:
        return self.config.picture_settings

    def steps_left(self) -> int:
        return max(0, self.config.steps - self.step)

    def test_folders(self, card: ModelCard) -> tuple[Place, Place]:
        return test_folders_of(self.teacher.card, self.config.dataset_dir, self.config.direction)

    def learning_rate(self) -> float:
        config = self.config
        flat = round(config.steps * (1 - config.decay))
        return config.lr * learning_rate_factor(self.step, epochs=config.steps, decay_epoch=flat)

    def train_step(self, batch: Pictures) -> dict[str, torch.Tensor]:
        """One update of the student and, if there are real pictures, one of the discriminator."""
        with torch.no_grad(), self.plan.autocast():
            wanted = self.teacher.generator(batch["a"])
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
        losses, made, features = self._student_losses(batch["a"], wanted)
        self._update("student", losses)
        average_weights(self.average, self.student, decay=self.config.ema, step=self.step)
        if self.discriminator is not None:
            self.discriminator.requires_grad_(True)
            loss = self._discriminator_loss(self.discriminator, batch["b"], made, features)
            self._update("discriminator", {"discriminator": loss})
            losses["discriminator"] = loss
        return {name: loss.detach() for name, loss in losses.items()}

    def _update(self, learner: str, losses: dict[str, torch.Tensor]) -> None:
        set_learning_rate(self.optimizers[learner], self.learning_rate())
        update(self.optimizers[learner], losses, self.scaler)

    def _student_losses(
        self, pictures: torch.Tensor, wanted: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[torch.Tensor] | None]:
        """The losses, and, detached, the student's output and its features."""
        config, losses = self.config, {}
        with self.plan.autocast(), steady_weights():
            made = self.student(pictures)
            features = self.features(made) if self.features else None
            if config.pixel_weight:
                losses["pixels"] = config.pixel_weight * cycle_loss(made, wanted)
            if config.perceptual_weight and self.features and features:
                with torch.no_grad():
                    wanted_features = self.features(wanted)
                losses["perceptual"] = config.perceptual_weight * feature_distance(features, wanted_features)
            if self.discriminator is not None:
                losses["adversarial"] = config.adversarial_weight * generator_loss(self.discriminator(made, features))
            if config.motion_weight:
                losses["motion"] = config.motion_weight * motion_loss(self.student, pictures, made)
            if config.alias_weight:
                losses["alias"] = config.alias_weight * alias_loss(self.student, pictures, made)
        return losses, made.detach(), [feature.detach() for feature in features] if features else None

    def _discriminator_loss(
        self,
        discriminator: Discriminator,
        reals: torch.Tensor,
        made: torch.Tensor,
        features: list[torch.Tensor] | None,
    ) -> torch.Tensor:
        with self.plan.autocast(), steady_weights():
            with torch.no_grad():
                real_features = self.features(reals) if self.features else None
            return discriminator_loss(discriminator(reals, real_features), discriminator(made, features))

    # -- what is written ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def write_samples(self) -> tuple[str, ...]:
        """Writes a grid of pictures and their translations by the teacher and the student."""
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
        counts = self.pictures.counts
        return ModelCard(
            architecture=config.student,
            settings=all_settings(config.student, config.student_settings),
            source=config.source,
            target=config.target,
            training_size=config.crop,
            channels=teacher.channels,
            made_by={
                "trainer": "cgpipe distill",
                "finished": self.finished,
                "teacher": {
                    "architecture": teacher.architecture,
                    "settings": dict(teacher.settings),
                    "made_by": dict(teacher.made_by),
                },
                "steps": self.step,
                "pictures": {config.source: counts["a"], config.target: counts["b"]},
                **ranges_on_card(self.pictures.ranges, config.source, config.target),
                "recipe": plain_settings(config),
            },
            quality={},
            licence=config.licence,
            large_side=config.large_side or teacher.large_side,
        )

    # -- state -------------------------------------------------------------------------------------------------------

    def networks_state(self) -> dict[str, object]:
        return {
            "learners": self.learners.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_networks_state(self, state: dict[str, Any]) -> None:
        self.learners.load_state_dict(state["learners"])
        self.average.load_state_dict(state["average"])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state["optimizers"][name])


class Features(nn.Module):
    """The outputs of some blocks of a frozen EfficientNet for (N, C, H, W) in [-1, 1]."""

    def __init__(self, backbone: EfficientNetLite, taps: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.blocks = tuple(taps)

    def forward(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        return self.backbone.taps(as_rgb(pictures), self.blocks)


def feature_distance(made: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean absolute difference of feature maps, relative to the mean of ``wanted`` (arXiv 1603.08155), averaged."""
    shares = [
        F.l1_loss(one.float(), other.float()) / other.float().abs().mean().clamp_min(1e-6)
        for one, other in zip(made, wanted, strict=True)
    ]
    return torch.stack(shares).mean()


def load_teacher(config: DistillConfig) -> Model:
    """The teacher, frozen.

    Raises:
        UsageError: no teacher is named, it enlarges pictures, or neither it nor the recipe says what it translates.
        ModelError: there is no such model, or it cannot be read.
    """
    if not config.teacher and not config.like:
        raise UsageError("No teacher: give a model's name, a model file or a checkpoint.")
    model = choose_model(teacher_of(config)).load()
    if UNKNOWN in (model.card.source, model.card.target):
        raise UsageError(f"{config.teacher} does not name its domains: give both with --from and --to.")
    if model.generator.enlarges > 1:
        raise UsageError(f"{config.teacher} enlarges pictures, and a student keeps their size: choose another teacher.")
    model.generator.eval().requires_grad_(False)
    return model


def teacher_of(config: DistillConfig) -> ModelChoice:
    """The choice of the teacher."""
    if config.like:
        return ModelChoice(like=config.like, like_now=True)
    return ModelChoice(
        model=config.teacher,
        to=config.target or None,
        source=config.source or None,
        direction=None if config.direction == "auto" else config.direction,
        batch_statistics=config.batch_statistics,
        model_inputs=config.model_inputs,
    )


def with_names(config: DistillConfig, teacher: ModelCard) -> DistillConfig:
    """The recipe with defaults from the teacher: domains, licence, the model's name, the folders."""
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


def with_channels(config: DistillConfig, channels: tuple[int, int]) -> DistillConfig:
    """The recipe for a teacher of these channels: the student has them too, and no features of stacks are compared."""
    if channels == (3, 3):
        return config
    seen = channels[1] in VIEWABLE
    return replace(
        config,
        student_settings={**config.student_settings, **dict(zip(CHANNELS, channels, strict=True))},
        perceptual_weight=config.perceptual_weight * seen,
        feature_weight=config.feature_weight * seen,
    )


def find_sides(config: DistillConfig, teacher: ModelCard) -> tuple[list[Path], list[Path]]:
    """The pictures to translate, and real pictures of the target domain, if any.

    A dataset folder without ``trainA`` and ``trainB`` holds pictures to translate.

    Raises:
        DataError: a folder is missing or empty.
    """
    root = config.dataset_dir
    direction = direction_of(teacher, root, config.direction)
    inputs, reals = (training_folder(root, domain) for domain in (direction.source, direction.target))
    plain = not inputs.is_dir() and not reals.is_dir()
    inputs = config.inputs or (root if plain else inputs)
    wanted = config.reals or (reals if reals.is_dir() and not config.inputs else None)
    used = wanted is not None and config.adversarial_weight > 0
    return find_pictures(inputs), find_pictures(wanted) if wanted is not None and used else []


def build_student(config: DistillConfig) -> Generator:
    """The student with fresh weights.

    Raises:
        UsageError: its architecture or a setting of it is unknown.
    """
    try:
        student = build_generator(config.student, **config.student_settings)
    except ValueError as error:
        raise UsageError(f"The student cannot be built: {error}.") from error
    initialise(student)
    return student
