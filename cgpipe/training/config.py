"""What a training run is told: one frozen dataclass, filled from defaults, a TOML recipe and the command line.

The defaults are the recipe of the shipped horse and zebra models. Names are those of the original trainers where they
have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from cgpipe.errors import UsageError
from cgpipe.training.recipe import read_recipe
from cgpipe.training.recipe import setting as _setting

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Settings that take over at an epoch; ``None`` leaves a setting as it was."""

    from_epoch: int
    lamda: float | None = None
    idt_coef: float | None = None
    batch_size: int | None = None
    load_min: int | None = None
    load_height: int | None = None
    load_width: int | None = None
    crop_height: int | None = None
    crop_width: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides how a run goes.

    Raises:
        UsageError: a value is out of its range, or two values contradict one another.
    """

    dataset_dir: Path = _setting(
        Path("datasets/horse2zebra"), "Folder with trainA and trainB, optionally testA, testB."
    )
    checkpoint_dir: Path = _setting(Path("checkpoints/horse2zebra"), "Folder for the run's state and model files.")
    results_dir: Path = _setting(Path("results/horse2zebra"), "Folder for sample grids.")
    source: str = _setting("horse", "What domain A shows, for --from and --to.")
    target: str = _setting("zebra", "What domain B shows.")

    licence: str = _setting("unknown", "Licence of the models, as an SPDX identifier, for their headers.")

    epochs: int = _setting(16, "Passes over the larger of the two sets.")
    decay_epoch: int = _setting(8, "Epoch from which the learning rate falls linearly to 0.")
    batch_size: int = _setting(2, "Pictures of each domain a step.")
    lr: float = _setting(2e-4, "Learning rate of Adam (betas 0.5, 0.999).")
    lamda: float = _setting(10.0, "Weight of the cycle loss.")
    idt_coef: float = _setting(0.5, "Weight of the identity loss, as a share of the cycle loss's; 0 leaves it out.")

    load_height: int = _setting(280, "Height to which pictures are resized before the crop.")
    load_width: int = _setting(280, "Width to which pictures are resized before the crop.")
    load_min: int = _setting(140, "Resize to a random size between this height and --load-height; 0: no variation.")
    crop_height: int = _setting(128, "Height of the random crop.")
    crop_width: int = _setting(128, "Width of the random crop.")

    gen_net: str = _setting("compact", "Architecture of the generators.")
    gen_settings: Mapping[str, Any] = _setting({}, "Settings of that architecture (in a recipe only).")
    dis_net: str = _setting("n_layers", "Architecture of the discriminators.")
    norm: str = _setting("instance", "Normalisation: instance, batch, instance_affine or none.")
    dropout: bool = _setting(False, "Dropout in the generators (resnet and unet).")
    ngf: int = _setting(64, "Width of the generators' first layer (resnet and unet).")
    ndf: int = _setting(32, "Width of the discriminators' first layer.")
    feature_weight: float = _setting(0.5, "Weight of each discriminator head on pretrained features; 0: none.")
    feature_taps: tuple[int, ...] = _setting((4, 10), "Blocks of EfficientNet-Lite0 that those heads look at.")

    init_a_to_b: str = _setting("", "Model file, of any known project, or name of a model, to start A to B with.")
    init_b_to_a: str = _setting("", "The same for B to A.")
    head_start: int = _setting(0, "First steps in which only the discriminators learn: for generators that know much.")
    pool_size: int = _setting(50, "Translated pictures kept to train the discriminators on; 0: only the newest.")
    ema: float = _setting(0.999, "Share of the old in the running average of weights that is shipped; 0: no average.")
    seed: int = _setting(0, "Makes a run repeatable.")

    gpu_ids: str = _setting("auto", "GPUs to use, such as 0 or 0,1; -1 for the CPU.")
    precision: Precision = _setting("auto", "Arithmetic of the networks: auto, fp32 or bf16.")
    compile: bool = _setting(True, "Compile the networks: slower to start, about twice as fast.")
    threads: int = _setting(0, "CPU threads; 0: as many as torch chooses.")
    workers: int = _setting(0, "Processes that prepare pictures; 0: none.")
    log_every: int = _setting(50, "Steps between lines of metrics.jsonl.")
    sample_every: int = _setting(1000, "Steps between sample grids.")
    save_every: int = _setting(500, "Steps between saves.")
    watch_every: int = _setting(0, "Steps between measurements on the test split; the best models are kept. 0: none.")
    publish: bool = _setting(True, "Copy the model files to the user's model folder, where --to finds them.")
    stages: tuple[Stage, ...] = _setting(
        (Stage(from_epoch=1, lamda=2.5),), "Settings that change at an epoch (in a recipe only)."
    )

    def __post_init__(self) -> None:
        positive = (
            "epochs",
            "batch_size",
            "lr",
            "load_height",
            "load_width",
            "crop_height",
            "crop_width",
            "ngf",
            "ndf",
        )
        for name in (*positive, "log_every", "sample_every", "save_every"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be greater than 0, not {getattr(self, name)}.")
        for name in (
            *(
                "decay_epoch",
                "lamda",
                "idt_coef",
                "pool_size",
                "feature_weight",
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
        if self.precision not in get_args(Precision):
            raise UsageError(f"precision must be one of {', '.join(get_args(Precision))}, not {self.precision!r}.")
        if self.source == self.target:
            raise UsageError(f"Both domains are called {self.source!r}: give them different names.")
        for config in (self, *(self._merged(stage) for stage in self.stages)):
            config._check_sizes()

    def _check_sizes(self) -> None:
        smallest = self.load_min or self.load_height
        if self.crop_height > smallest or self.crop_width > self.load_width * smallest // self.load_height:
            raise UsageError(
                f"A crop of {self.crop_width}x{self.crop_height} does not fit into pictures of height {smallest}: "
                "make crop_height and crop_width smaller, or load_min, load_height and load_width larger."
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

    def schedule(self) -> str:
        """The learning rate over the run, in words."""
        if self.decay_epoch >= self.epochs:
            return f"{self.epochs} epochs at learning rate {self.lr:g}"
        return f"{self.epochs} epochs: learning rate {self.lr:g}, from epoch {self.decay_epoch} on falling to 0"

    def model_path(self, source: str, target: str) -> Path:
        """Where the run keeps the model of one direction."""
        return self.checkpoint_dir / f"{source}2{target}.safetensors"

    def generator_settings(self) -> dict[str, Any]:
        """Keyword arguments for :func:`cgpipe.networks.build_generator`."""
        settings: dict[str, Any] = {"norm": self.norm}
        if not self.gen_net.startswith("compact"):
            settings |= {"ngf": self.ngf, "dropout": self.dropout}
        return settings | dict(self.gen_settings)


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
