"""What a distillation is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cgpipe.data.settings import Way
from cgpipe.errors import UsageError
from cgpipe.recipe import read_recipe, require, setting
from cgpipe.training.config import TrainConfig

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Everything that decides how a distillation goes.

    Raises:
        UsageError: a value is out of its range, or two values contradict one another.
    """

    teacher: str = setting("", "Model file, of any known project, or name of a model.")
    dataset_dir: Path = setting(Path(), "Folder with trainA and trainB, or a folder of pictures.")
    student: str = setting("compact-xs", "Architecture of the student.")
    student_settings: Mapping[str, Any] = setting({}, "Settings of that architecture (in a recipe only).")
    init: str = setting("", "Model file, or name of a model, to start the student with.")
    name: str = setting("", "Name of the model file.  [<source>2<target>-fast]")

    checkpoint_dir: Path = setting(Path("checkpoints/<name>"), "Folder for the run's state and model file.")
    results_dir: Path = setting(Path("results/<name>"), "Folder for sample grids.")
    inputs: Path | None = setting(None, "Folder of pictures to translate.  [trainA or trainB, by the direction]")
    reals: Path | None = setting(None, "Folder of real pictures of what the result shows.  [the other one, if any]")
    direction: Way = setting("auto", "Which way the dataset, and a file that holds both generators, is taken.")
    source: str = setting("", "What goes in, where the teacher does not say.", flag="from")
    target: str = setting("", "What comes out, where the teacher does not say.", flag="to")
    batch_statistics: bool = setting(False, "Normalise a foreign teacher with batch norm by each picture's own.")
    licence: str = setting("", "Licence of the model, as an SPDX identifier.  [the teacher's]")

    steps: int = setting(12000, "Steps of the run.")
    decay: float = setting(0.5, "Share of the run, at its end, over which the learning rate falls linearly to 0.")
    batch_size: int = setting(2, "Pictures a step.")
    lr: float = setting(2e-4, "Learning rate of Adam (betas 0.5, 0.999).")
    load_max: int = setting(300, "Largest size to which pictures are resized before the crop.")
    load_min: int = setting(180, "Smallest such size.")
    crop: int = setting(160, "Side of the random crop.")

    pixel_weight: float = setting(10.0, "Weight of the distance from the teacher's pixels.")
    perceptual_weight: float = setting(1.0, "Weight of the distance from the teacher's in pretrained features.")
    adversarial_weight: float = setting(1.0, "Weight of the discriminator's say, where there are real pictures.")
    motion_weight: float = setting(
        0.0,
        "Weight of what keeps video still: the translation of a moved picture shall be the moved translation. 0: none.",
    )
    ndf: int = setting(32, "Width of the discriminator's first layer.")
    feature_weight: float = setting(0.5, "Weight of each discriminator head on pretrained features; 0: none.")
    feature_taps: tuple[int, ...] = setting((4, 10), "Blocks of EfficientNet-Lite0 whose features are used.")
    ema: float = setting(0.999, "Share of the old in the running average of weights that is shipped; 0: no average.")
    seed: int = setting(0, "Makes a run repeatable.")

    gpu_ids: str = setting("auto", "GPU to use, such as 0; -1 for the CPU.")
    precision: Precision = setting("auto", "Arithmetic of the networks: auto, fp32 or bf16.")
    compile: bool = setting(
        True,
        "Compile the networks: slower to start; in bf16 about twice as fast after. In fp32 on a CPU nothing is "
        "compiled: it would gain nothing.",
    )
    threads: int = setting(0, "CPU threads; 0: as many as torch chooses.")
    workers: int = setting(0, "Processes that prepare pictures; 0: none.")
    log_every: int = setting(50, "Steps between lines of metrics.jsonl.")
    sample_every: int = setting(1000, "Steps between sample grids.")
    save_every: int = setting(500, "Steps between saves.")
    watch_every: int = setting(0, "Steps between measurements on the test split; the best models are kept. 0: none.")
    tensorboard: bool = setting(False, "Write figures and grids for TensorBoard to <results-dir>/tensorboard.")
    histograms: bool = setting(False, "The same, with histograms of all weights.")
    publish: bool = setting(False, "Copy the model file to the user's model folder, where --model finds its name.")

    def __post_init__(self) -> None:
        require(
            self,
            positive=(
                *("steps", "batch_size", "lr", "load_max", "load_min", "crop", "ndf"),
                *("log_every", "sample_every", "save_every"),
            ),
            not_negative=(
                *("decay", "pixel_weight", "perceptual_weight", "adversarial_weight", "feature_weight"),
                "motion_weight",
                *("workers", "threads", "watch_every"),
            ),
        )
        for name, choices in (("precision", get_args(Precision)), ("direction", get_args(Way))):
            if getattr(self, name) not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}.")
        if self.decay > 1:
            raise UsageError(f"decay is a share of the run, at most 1, not {self.decay}.")
        if not 0 <= self.ema < 1:
            raise UsageError(f"ema must be at least 0 and less than 1, not {self.ema}.")
        if not self.pixel_weight and not self.perceptual_weight:
            raise UsageError("pixel_weight and perceptual_weight are both 0: nothing would be learnt from the teacher.")
        if not self.crop <= self.load_min <= self.load_max:
            raise UsageError(
                f"A crop of {self.crop} from pictures of {self.load_min} to {self.load_max} pixels is not possible: "
                "crop must be at most load_min, and load_min at most load_max."
            )

    def of_the_trainer(self) -> TrainConfig:
        """The same settings as the trainer's parts, data and discriminator, take them."""
        return TrainConfig(
            batch_size=self.batch_size,
            load_height=self.load_max,
            load_width=self.load_max,
            load_min=self.load_min,
            crop_height=self.crop,
            crop_width=self.crop,
            ndf=self.ndf,
            feature_weight=self.feature_weight,
            feature_taps=self.feature_taps,
            seed=self.seed,
            workers=self.workers,
            stages=(),
        )


def load_distill_config(recipe: Path | None, overrides: Mapping[str, Any]) -> DistillConfig:
    """The defaults, then what the TOML file ``recipe`` says, then ``overrides``.

    Raises:
        UsageError: the recipe cannot be read, or a name or a value in it cannot be used.
    """
    return DistillConfig(**read_recipe(recipe, DistillConfig) | dict(overrides))
