"""The settings of a distillation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgpipe.data.settings import PictureSettings, Way
from cgpipe.errors import UsageError
from cgpipe.recipe import check_settings, read_recipe, read_run_recipe, setting
from cgpipe.training.settings import DiscriminatorSettings, OptimiserSettings, RunSettings, check_patience, check_taps
from cgpipe.training.start import drop_settings, with_parts_of


@dataclass(frozen=True, kw_only=True)
class DistillConfig(RunSettings, OptimiserSettings, DiscriminatorSettings):
    """All settings of a distillation.

    Raises:
        UsageError: a value is out of its range, or two values contradict each other.
    """

    teacher: str = setting("", "Model file, of any known project, or name of a model.")
    dataset_dir: Path = setting(Path(), "Folder with trainA and trainB, or a folder of pictures.")
    student: str = setting("compact-xs", "Architecture of the student.")
    student_settings: Mapping[str, object] = setting({}, "Settings of that architecture (in a recipe only).")
    init: str = setting("", "Model to start the student with: a model file, or a name.")
    name: str = setting("", "Name of the model file.  [<source>2<target>-fast]")

    checkpoint_dir: Path = setting(Path("checkpoints/<name>"), "Folder for the run's state and model file.")
    results_dir: Path = setting(Path("results/<name>"), "Folder for sample grids.")
    inputs: Path | None = setting(None, "Folder of pictures to translate.  [trainA or trainB, by --direction]")
    reals: Path | None = setting(None, "Folder of real pictures of the target domain.  [the other one, if any]")
    direction: Way = setting("auto", "Direction: which domain is the input.")
    source: str = setting("", "Source domain, where the teacher does not say.", flag="from")
    target: str = setting("", "Target domain, where the teacher does not say.", flag="to")
    model_inputs: tuple[str, ...] = setting(
        (),
        "What a teacher that is an ONNX file takes besides the picture, as NAME=VALUE. May be given several times.",
        flag="input",
    )
    like: Path | None = setting(
        None,
        "Painting, in place of a teacher: the network of the extra styles, which takes any painting, teaches its look.",
        files=True,
    )
    batch_statistics: bool = setting(
        False, "Normalize a foreign teacher with batch norm by each picture's own statistics."
    )
    licence: str = setting("", "License of the model, as an SPDX identifier.  [the teacher's]")
    large_side: int = setting(
        0,
        "Short side, for the model's header, up to which --size auto reduces large pictures to no less than a third.  "
        "[the teacher's]",
        at_least=0,
    )

    steps: int = setting(12000, "Training steps.", above=0)
    decay: float = setting(
        0.5, "Share of the run, at its end, over which the learning rate falls linearly to 0.", at_least=0
    )
    batch_size: int = setting(2, "Pictures per step.", above=0)
    load_max: int = setting(300, "Largest size to which pictures are resized before the crop.", above=0)
    load_min: int = setting(180, "Smallest such size.", above=0)
    crop: int = setting(
        160,
        "Side of the random crop. A teacher with instance norm translates a crop unlike the whole picture: for one, "
        "give --crop, --load-min and --load-max the same value.",
        above=0,
    )

    pixel_weight: float = setting(10.0, "Weight of the L1 distance from the teacher's output.", at_least=0)
    perceptual_weight: float = setting(
        1.0, "Weight of the perceptual loss: distance from the teacher's output in pretrained features.", at_least=0
    )
    adversarial_weight: float = setting(
        1.0, "Weight of the adversarial loss, where there are real pictures.", at_least=0
    )
    motion_weight: float = setting(
        0.0,
        "Weight of the temporal consistency loss, which keeps videos still: translating a moved picture must give the "
        "moved translation. 0: none.",
        at_least=0,
    )
    alias_weight: float = setting(
        0.0,
        "Weight of the aliasing loss: fine detail must move with the picture, not stick to the network's grid. It is "
        "relative to the detail's contrast, so it does not fade stripes. Try 1. 0: none.",
        at_least=0,
    )
    norm: str = setting("instance", "Normalization layers of the discriminator: instance, batch or none.")
    publish: bool = setting(False, "Copy the finished model to your models folder, where --model finds its name.")

    def __post_init__(self) -> None:
        check_settings(self)
        check_taps(self)
        check_patience(self)
        self.check_patches(self.crop)
        if self.precision == "fp16":
            raise UsageError("precision must be one of auto, fp32, bf16, not 'fp16'.")
        if self.like and (self.teacher or self.model_inputs):
            raise UsageError("like names the teacher: omit teacher and model_inputs.")
        if self.decay > 1:
            raise UsageError(f"decay is a share of the run, at most 1, not {self.decay}.")
        if not self.pixel_weight and not self.perceptual_weight:
            raise UsageError(
                "pixel_weight and perceptual_weight are both 0: nothing would be learned from the teacher."
            )
        if not self.crop <= self.load_min <= self.load_max:
            raise UsageError(
                f"A crop of {self.crop} from pictures of {self.load_min} to {self.load_max} pixels is not possible: "
                "crop must be at most load_min, and load_min at most load_max."
            )

    def of_discriminators(self) -> list[str]:
        """Settings of the discriminators that differ from their defaults."""
        names = ("dis_net", "ndf", "dis_layers", "dis_scales", "norm", "adversarial_weight")
        return [name for name in names if getattr(self, name) != getattr(DistillConfig, name)]

    @property
    def picture_settings(self) -> PictureSettings:
        """How pictures are resized and cropped."""
        return PictureSettings(
            batch_size=self.batch_size,
            load_height=self.load_max,
            load_width=self.load_max,
            load_min=self.load_min,
            crop_height=self.crop,
            crop_width=self.crop,
        )


def load_distill_config(recipe: Path | None, overrides: Mapping[str, object], *, resume: bool = False) -> DistillConfig:
    """Merges the defaults, the TOML file ``recipe``, and ``overrides``, in this order.

    Args:
        recipe: a TOML file.
        overrides: settings from the command line.
        resume: start from the recipe of the run in ``checkpoint_dir`` instead of the defaults. There may be none yet if
            ``overrides`` or ``recipe`` name a teacher.

    Raises:
        UsageError: the recipe cannot be read, or a name or a value in it is invalid.
    """
    named = read_recipe(recipe, DistillConfig)
    folder = str(overrides.get("checkpoint_dir", named.get("checkpoint_dir", DistillConfig.checkpoint_dir)))
    folder = folder.replace("<name>", str(overrides.get("name", named.get("name", ""))) or "<name>")
    complete = any(overrides.get(name, named.get(name)) for name in ("teacher", "like"))
    run: dict[str, Any] = {}
    if resume and "<name>" not in folder:
        run = read_run_recipe(Path(folder), DistillConfig, required=not complete)
    chosen = run | named
    drop_settings(chosen, overrides, network="student", settings="student_settings", default=DistillConfig.student)
    chosen |= dict(overrides)
    if not run:
        student, start = (str(chosen.get(name, getattr(DistillConfig, name))) for name in ("student", "init"))
        chosen["student_settings"] = with_parts_of(chosen.get("student_settings", {}), student, start)
    return DistillConfig(**chosen)
