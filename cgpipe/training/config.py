"""What a training run is told: one frozen dataclass, filled from defaults, a TOML recipe and the command line.

The defaults are the recipe of the shipped horse and zebra models. Names are those of the original trainers where they
have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cgpipe.data.settings import DataSettings
from cgpipe.errors import UsageError
from cgpipe.models.card import plain_name
from cgpipe.recipe import read_recipe
from cgpipe.recipe import setting as _setting

GanLoss = Literal["lsgan", "vanilla", "hinge", "wgan-gp"]
MethodName = Literal["cyclegan", "cut", "fastcut"]
Direction = Literal["AtoB", "BtoA"]
Policy = Literal["linear", "cosine", "step", "plateau"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]
TAPS = (
    ("feature_taps", "Lite0", 16, 1),
    ("moment_taps", "Lite0", 16, 1),
    ("moment_lite1_taps", "Lite1", 21, 0),
)
"""Settings that name blocks: of which network, its last, which is the head, and how many there must be at least."""
AUGMENTATIONS = ("color", "translation", "cutout")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Settings that take over at an epoch; ``None`` leaves a setting as it was."""

    from_epoch: int
    lamda: float | None = None
    lamda_b: float | None = None
    idt_coef: float | None = None
    moment_weight: float | None = None
    background_weight: float | None = None
    motion_weight: float | None = None
    batch_size: int | None = None
    load_min: int | None = None
    load_height: int | None = None
    load_width: int | None = None
    crop_height: int | None = None
    crop_width: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataSettings):
    """Everything that decides how a run goes.

    Raises:
        UsageError: a value is out of its range, or two values contradict one another.
    """

    checkpoint_dir: Path = _setting(Path("checkpoints/horse2zebra"), "Folder for the run's state and model files.")
    results_dir: Path = _setting(Path("results/horse2zebra"), "Folder for sample grids.")
    licence: str = _setting("unknown", "Licence of the models, as an SPDX identifier, for their headers.")

    method: MethodName = _setting(
        "cyclegan",
        "What is trained: cyclegan, both directions, each of which undoes the other; cut or fastcut, one direction, "
        "held to its input by the likeness of patches.",
    )
    direction: Direction = _setting("AtoB", "The direction of cut and fastcut.")
    epochs: int = _setting(16, "Passes over the larger of the two sets.")
    lr_policy: Policy = _setting("linear", "How the learning rate falls.")
    decay_epoch: int = _setting(8, "Epoch from which the learning rate falls, by linear or cosine to 0.")
    lr_step: int = _setting(50, "Epochs from one fall to the next, by step; without progress until a fall, by plateau.")
    lr: float = _setting(2e-4, "Learning rate of Adam (betas 0.5, 0.999).")
    lamda: float = _setting(10.0, "Weight of the cycle loss of cyclegan.")
    lamda_b: float = _setting(-1.0, "That of B to A and back, where it is to differ; -1: --lamda for both.")
    idt_coef: float = _setting(0.5, "Weight of its identity loss, as a share of the cycle loss's; 0: none.")
    nce_weight: float = _setting(
        0.0,
        "Weight of the loss of patches of cut and fastcut; 0: that of the paper, 1 and 10. With 10, horses were seen "
        "to stay horses: try 1.",
    )
    background_weight: float = _setting(10.0, "Weight of what changes outside the masks, where there are any.")
    motion_weight: float = _setting(
        0.0,
        "Weight of what keeps video still: the translation of a moved picture shall be the moved translation. Stripes "
        "take 5, brush strokes 1 to 2. 0: none.",
    )
    gan_loss: GanLoss = _setting("lsgan", "The adversarial loss.")
    label_smoothing: float = _setting(0.0, "What is taken off the 1 that real pictures shall be judged.")
    diffaugment: str = _setting(
        "", "For small sets: what the discriminators see changed at random, of color,translation,cutout."
    )
    freeze: str = _setting(
        "", "Networks that do not learn, of a_to_b,b_to_a,judge_a,judge_b, those that the method has."
    )

    gen_net: str = _setting(
        "compact",
        "Architecture of the generators: compact, compact-flat, compact-xs, resnet_9blocks, resnet_6blocks (also with "
        "_antialias, as in CUT), unet_128 or unet_256.",
    )
    gen_settings: Mapping[str, Any] = _setting({}, "Settings of that architecture (in a recipe only).")
    dis_net: str = _setting("n_layers", "Architecture of the discriminators: n_layers or pixel.")
    norm: str = _setting("instance", "Normalisation: instance, batch, instance_affine or none.")
    dropout: bool = _setting(False, "Dropout in the generators (resnet and unet).")
    ngf: int = _setting(64, "Width of the generators' first layer (resnet and unet).")
    ndf: int = _setting(32, "Width of the discriminators' first layer.")
    feature_weight: float = _setting(0.5, "Weight of each discriminator head on pretrained features; 0: none.")
    feature_taps: tuple[int, ...] = _setting((4, 10), "Blocks of EfficientNet-Lite0 that those heads look at.")
    feature_pooled: bool = _setting(False, "One more head, on the means of those features over the whole picture.")
    moment_weight: float = _setting(
        0.0,
        "Weight of the distance between mean features of translations and of real pictures; it needs no discriminator, "
        "so a finished model can be trained further. 0: none.",
    )
    moment_taps: tuple[int, ...] = _setting(
        (2, 4, 10, 15, 16), "Blocks of EfficientNet-Lite0 whose features it compares; 16 is its head."
    )
    moment_lite1_taps: tuple[int, ...] = _setting(
        (), "Blocks of Lite1 that it compares too, as (3, 6, 14, 20, 21): two networks are harder to trick than one."
    )

    init_a_to_b: str = _setting("", "Model file, of any known project, or name of a model, to start A to B with.")
    init_b_to_a: str = _setting("", "The same for B to A.")
    head_start: int = _setting(0, "First steps in which only the discriminators learn: for generators that know much.")
    pool_size: int = _setting(50, "Translated pictures kept to train the discriminators on; 0: only the newest.")
    ema: float = _setting(0.999, "Share of the old in the running average of weights that is shipped; 0: no average.")

    gpu_ids: str = _setting("auto", "GPUs to use, such as 0, or 0,1 with a process for each; -1 for the CPU.")
    sync_batchnorm: bool = _setting(False, "With norm batch and several processes: by the statistics of all.")
    precision: Precision = _setting("auto", "Arithmetic of the networks; fp16 needs a GPU.")
    compile: bool = _setting(
        True,
        "Compile the networks, where pictures are cropped: slower to start; in bf16 about twice as fast after. In fp32 "
        "on a CPU nothing is compiled: it would gain nothing.",
    )
    threads: int = _setting(0, "CPU threads; 0: as many as torch chooses.")
    log_every: int = _setting(50, "Steps between lines of metrics.jsonl.")
    sample_every: int = _setting(1000, "Steps between sample grids.")
    save_every: int = _setting(500, "Steps between saves.")
    watch_every: int = _setting(0, "Steps between measurements on the test split; the best models are kept. 0: none.")
    tensorboard: bool = _setting(False, "Write figures and grids for TensorBoard to <results-dir>/tensorboard.")
    histograms: bool = _setting(False, "The same, with histograms of all weights.")
    publish: bool = _setting(True, "Copy the model files to the user's model folder, where --to finds them.")
    stages: tuple[Stage, ...] = _setting(
        (Stage(from_epoch=1, lamda=2.5),), "Settings that change at an epoch (in a recipe only)."
    )

    def __post_init__(self) -> None:
        for name, choices in _choices().items():
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}.")
        for name in (
            *("epochs", "batch_size", "lr", "lr_step", "load_height", "load_width", "crop_height", "crop_width"),
            *("ngf", "ndf", "log_every", "sample_every", "save_every"),
        ):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be greater than 0, not {getattr(self, name)}.")
        for name in (
            *(
                "decay_epoch",
                "lamda",
                "idt_coef",
                "nce_weight",
                "pool_size",
                "feature_weight",
                "moment_weight",
                "background_weight",
                "motion_weight",
                "workers",
                "threads",
                "head_start",
                "watch_every",
            ),
        ):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must not be negative, but is {getattr(self, name)}.")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema must be at least 0 and less than 1, not {self.ema}.")
        if self.source == self.target:
            raise UsageError(f"Both domains are called {self.source!r}: give them different names.")
        for config in (self, *(self._merged(stage) for stage in self.stages)):
            config.check_sizes()
        self._check_method()
        self._check_losses()
        self._check_taps()

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the networks that the method has, generators first."""
        one_sided = {"AtoB": ("a_to_b", "judge_b"), "BtoA": ("b_to_a", "judge_a")}
        both = ("a_to_b", "b_to_a", "judge_a", "judge_b")
        return both if self.method == "cyclegan" else one_sided[self.direction]

    @property
    def uses_moments(self) -> bool:
        """Whether mean features count for anything, in the whole run or from some stage on."""
        return any((self.moment_weight, *(stage.moment_weight for stage in self.stages)))

    @property
    def made_domains(self) -> tuple[str, ...]:
        """The domains that translations show."""
        return tuple(name[-1] for name in self.networks if name.startswith("judge_"))

    def _check_method(self) -> None:
        if (self.domain_a is None) != (self.domain_b is None):
            raise UsageError("One domain is named and the other is not: name both, with --domain-a and --domain-b.")
        if self.method == "cyclegan" and self.direction != "AtoB":
            raise UsageError("cyclegan learns both directions: leave out direction, or take method cut or fastcut.")
        for name in ("a_to_b", "b_to_a"):
            if getattr(self, f"init_{name}") and name not in self.networks:
                raise UsageError(f"{self.method} {self.direction} has no {name}: leave out init_{name}.")
            if getattr(self, f"masks_{name[0]}") and name not in self.networks:
                raise UsageError(f"{self.method} {self.direction} translates no {name[0]}: leave out masks_{name[0]}.")

    def _check_losses(self) -> None:
        for name, known in (("freeze", self.networks), ("diffaugment", AUGMENTATIONS)):
            unknown = [word for word in self.listed(name) if word not in known]
            if unknown:
                raise UsageError(f"{name} takes {', '.join(known)}, not {unknown[0]!r}.")
        if set(self.listed("freeze")) == set(self.networks):
            raise UsageError("All networks are frozen: nothing is left that could learn. Shorten freeze.")
        if self.sync_batchnorm and self.norm != "batch":
            raise UsageError(f"norm {self.norm} has no statistics of a batch to share: leave out sync_batchnorm.")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"label_smoothing must be at least 0 and less than 1, not {self.label_smoothing}.")
        if self.label_smoothing and self.gan_loss not in ("lsgan", "vanilla"):
            raise UsageError(f"{self.gan_loss} has no labels to smooth: leave out label_smoothing, or take lsgan.")
        if not self.crops and self.gan_loss == "wgan-gp":
            raise UsageError("wgan-gp mixes pictures of both kinds, which must have one size: choose a crop.")
        if self.gan_loss == "wgan-gp" and self.norm == "batch":
            raise UsageError("wgan-gp penalises each picture alone, which batch norm mixes: use norm instance or none.")

    def _check_taps(self) -> None:
        for name, network, last, fewest in TAPS:
            taps = getattr(self, name)
            in_order = list(taps) == sorted(set(taps)) and all(0 <= tap <= last for tap in taps)
            if not in_order or len(taps) < fewest:
                raise UsageError(
                    f"{name} takes blocks of EfficientNet-{network}, 0 to {last} in rising order, not {list(taps)}."
                )

    def _merged(self, stage: Stage) -> TrainConfig:
        changes = {k: v for k, v in asdict(stage).items() if v is not None and k != "from_epoch"}
        return replace(self, stages=(), **changes)

    def at_epoch(self, epoch: int) -> TrainConfig:
        """The settings in force during ``epoch`` (counted from 0): those of every stage begun so far."""
        config = replace(self, stages=())
        for stage in sorted(self.stages, key=lambda s: s.from_epoch):
            if stage.from_epoch <= epoch:
                config = config._merged(stage)
        return config

    def listed(self, name: str) -> tuple[str, ...]:
        """The words of a setting that is a list with commas."""
        return tuple(word.strip() for word in getattr(self, name).split(",") if word.strip())

    def pair(self) -> str:
        """What is translated into what, in words."""
        if self.method == "cyclegan":
            return f"{self.source} and {self.target}"
        first, second = (self.source, self.target) if self.direction == "AtoB" else (self.target, self.source)
        return f"{first} to {second} by {self.method}"

    def schedule(self) -> str:
        """The learning rate over the run, in words."""
        rate = f"learning rate {self.lr:g}"
        if self.lr_policy == "plateau":
            return f"{self.epochs} epochs: {rate}, a fifth of it after {self.lr_step} epochs without progress"
        if self.decay_epoch >= self.epochs:
            never = f" (it would fall from epoch {self.decay_epoch} on)" if self.decay_epoch > self.epochs else ""
            return f"{self.epochs} epochs at {rate} throughout{never}"
        falls = {
            "linear": "falling linearly to 0",
            "cosine": "falling along a cosine to 0",
            "step": f"and every {self.lr_step} epochs a tenth of it",
        }
        return f"{self.epochs} epochs: {rate}, from epoch {self.decay_epoch} on {falls[self.lr_policy]}"

    def model_path(self, source: str, target: str) -> Path:
        """Where the run keeps the model of one direction."""
        return self.checkpoint_dir / f"{plain_name(source, target)}.safetensors"

    def generator_settings(self) -> dict[str, Any]:
        """Keyword arguments for :func:`cgpipe.networks.build_generator`."""
        settings: dict[str, Any] = {"norm": self.norm}
        if not self.gen_net.startswith("compact"):
            settings |= {"ngf": self.ngf, "dropout": self.dropout}
        return settings | dict(self.gen_settings)


@cache  # a recipe is checked anew for every epoch
def _choices() -> dict[str, tuple[str, ...]]:
    hints = get_type_hints(TrainConfig)
    return {name: get_args(kind) for name, kind in hints.items() if get_origin(kind) is Literal}


def load_config(recipe: Path | None, overrides: Mapping[str, Any]) -> TrainConfig:
    """The defaults, then what the TOML file ``recipe`` says, then ``overrides``.

    What ``overrides`` names holds for the whole run, whatever a stage says. A recipe without stages has none.

    Raises:
        UsageError: the recipe cannot be read, or a name in it is unknown.
    """
    chosen = read_recipe(recipe, TrainConfig)
    try:
        stages = tuple(Stage(**stage) for stage in chosen.get("stages", ()))
    except TypeError as error:
        raise UsageError(f"stages: {error}.") from error
    if recipe is None:
        stages = TrainConfig.stages
    fixed: dict[str, Any] = {f.name: None for f in fields(Stage) if f.name in overrides}
    chosen["stages"] = tuple(replace(stage, **fixed) for stage in stages)
    return TrainConfig(**chosen | dict(overrides))
