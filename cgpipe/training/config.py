"""The settings of a training run: one frozen dataclass, filled from defaults, a TOML recipe and the command line.

The defaults are the recipe of the shipped horse and zebra models. Names are those of the original trainers where they
have one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from cgpipe.data.direction import A_TO_B, B_TO_A, DIRECTIONS, Direction, Domain
from cgpipe.data.settings import VIEWABLE, DataSettings, whole_side
from cgpipe.errors import CgpipeWarning, ModelError, UsageError
from cgpipe.models.card import GENERIC, check_domain, is_domain, plain_name
from cgpipe.models.looks import look_name
from cgpipe.models.zoo import SHIPPED_FOLDER, STARTS_FOLDER
from cgpipe.options import InitKind
from cgpipe.recipe import check_settings, parse_list, read_recipe, read_run_recipe, setting
from cgpipe.training.settings import DiscriminatorSettings, OptimiserSettings, RunSettings, check_patience, check_taps
from cgpipe.training.start import drop_settings, with_parts_of

GanLoss = Literal["lsgan", "vanilla", "hinge", "wgan-gp"]
Colours = Literal["painting", "photo"]
MethodName = Literal["cyclegan", "cut", "fastcut", "pix2pix", "style"]
Policy = Literal["linear", "cosine", "step", "plateau"]
AUGMENTATIONS = ("color", "translation", "cutout")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Settings that change at an epoch; ``None`` leaves a setting as it was."""

    from_epoch: int
    lamda: float | None = None
    lamda_b: float | None = None
    idt_coef: float | None = None
    moment_weight: float | None = None
    background_weight: float | None = None
    motion_weight: float | None = None
    alias_weight: float | None = None
    l1_weight: float | None = None
    batch_size: int | None = None
    load_min: int | None = None
    load_height: int | None = None
    load_width: int | None = None
    crop_height: int | None = None
    crop_width: int | None = None


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(DiscriminatorSettings):
    """The networks and their initial weights."""

    gen_net: str = setting(
        "compact",
        "Generator architecture: compact, compact-flat, compact-xs, resnet_9blocks, resnet_6blocks (each also with "
        "_antialias, as in CUT), unet_128 or unet_256.",
    )
    gen_settings: Mapping[str, object] = setting({}, "Settings of that architecture (in a recipe only).")
    ngf: int = setting(64, "Width of the generators' first layer (resnet and unet).", above=0)
    dropout: bool = setting(False, "Dropout in the generators (resnet and unet).")
    sync_batchnorm: bool = setting(False, "Share batch statistics among processes (with --norm batch).")
    init_type: InitKind = setting("normal", "Initial weights: normal (as in CycleGAN), xavier, kaiming or orthogonal.")
    init_gain: float = setting(
        0.02, "Standard deviation of normal, factor of xavier and orthogonal; kaiming has none.", above=0
    )
    init_a_to_b: str = setting("", "Model to start A to B with: a model file of any known project, or a name.")
    init_b_to_a: str = setting("", "Same, for B to A.")
    init_discriminators: Path | None = setting(
        None,
        "Run whose discriminators this one starts with; fresh ones harm a finished generator. The folder of a run of "
        "cgpipe, or one with latest_net_D_A.pth and latest_net_D_B.pth of pytorch-CycleGAN-and-pix2pix, where D_A "
        "looks at domain B; for a method with one discriminator also its file.",
        files=True,
    )
    freeze: str = setting(
        "", "Networks to freeze: any of a_to_b, b_to_a, discriminator_a, discriminator_b, with commas."
    )

    def generator_settings(self, channels: tuple[int, int] = (3, 3)) -> dict[str, object]:
        """Keyword arguments for :func:`cgpipe.networks.build_generator`, for so many input and output channels."""
        from cgpipe.networks.generators import setting_names

        taken = setting_names(self.gen_net)
        settings = {"norm": self.norm, "ngf": self.ngf, "dropout": self.dropout}
        ends = {} if channels == (3, 3) else {"in_channels": channels[0], "out_channels": channels[1]}
        return {name: value for name, value in settings.items() if name in taken} | dict(self.gen_settings) | ends

    @property
    def initial_models(self) -> Mapping[Direction, str]:
        """The model that each generator starts with; empty for fresh weights."""
        return {A_TO_B: self.init_a_to_b, B_TO_A: self.init_b_to_a}

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the frozen networks."""
        return tuple(name.replace("judge_", "discriminator_") for name in parse_list(self.freeze))


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The training method and its losses."""

    method: MethodName = setting(
        "cyclegan",
        "Training method. cyclegan: both directions, each of which must undo the other. cut, fastcut: one direction, "
        "held to its input by a patchwise contrastive loss (PatchNCE). pix2pix: one direction, from pairs: pictures of "
        "the same name in both sets, or side by side; its defaults are those of its paper. style: photos to the look "
        "of the paintings named with --like, in minutes; it has defaults of its own, which `cgpipe train --method "
        "style` begins with.",
    )
    direction: Literal["AtoB", "BtoA"] = setting("AtoB", "Direction of cut, fastcut and pix2pix.")
    gan_loss: GanLoss = setting("lsgan", "Adversarial loss.")
    label_smoothing: float = setting(
        0.0, "Label smoothing: subtracted from the target (1) for real images.", at_least=0, below=1
    )
    diffaugment: str = setting(
        "",
        "DiffAugment augmentations for discriminator inputs, for small sets: any of color, translation, cutout, with "
        "commas.",
    )
    pool_size: int = setting(
        50,
        "Size of the pool of earlier translations shown to the discriminators; 0: no pool. pix2pix has none.",
        at_least=0,
    )
    l1_weight: float = setting(
        100.0, "Weight of the L1 distance between a translation and its partner (pix2pix).", at_least=0
    )
    lamda: float = setting(
        10.0,
        "Weight of the cycle-consistency loss (cyclegan). Without this option and without a recipe it is 2.5 from the "
        "second epoch on.",
        at_least=0,
    )
    lamda_b: float = setting(-1.0, "Same, for B to A and back; -1: as --lamda.")
    idt_coef: float = setting(
        0.5, "Weight of the identity loss, relative to the cycle loss of its direction; 0: none.", at_least=0
    )
    nce_weight: float = setting(
        0.0,
        "Weight of the PatchNCE loss; 0: the paper's, 1 for cut and 10 for fastcut. With 10, results may stay close to "
        "the input: try 1.",
        at_least=0,
    )
    nce_layers: str = setting(
        "",
        "Layers of the generator whose patches are compared, as 0,2,4: 0 is the picture, the last the middle of the "
        "network.  [all]",
    )
    nce_patches: int = setting(256, "Most patches of a layer that are compared.", above=0)
    background_weight: float = setting(10.0, "Weight of changes outside the masks.", at_least=0)
    composite: bool = setting(
        False,
        "With masks: judge translations with their source's background put back, so that no discriminator asks "
        "for changes outside the masks.",
    )
    motion_weight: float = setting(
        0.0,
        "Weight of the temporal consistency loss, which keeps videos still: translating a moved picture must give the "
        "moved translation. Try 5 for stripes, 1 to 2 for brush strokes. 0: none.",
        at_least=0,
    )
    alias_weight: float = setting(
        0.0,
        "Weight of the aliasing loss: fine detail must move with the picture, not stick to the network's grid. It is "
        "relative to the detail's contrast, so it does not fade stripes. Try 1. 0: none.",
        at_least=0,
    )
    moment_weight: float = setting(
        0.0,
        "Weight of the feature-matching loss: distance between mean features of translations and of real pictures. It "
        "needs no discriminator, so a finished model can be trained further. 0: none.",
        at_least=0,
    )
    moment_taps: tuple[int, ...] = setting(
        (2, 4, 10, 15, 16), "Blocks of EfficientNet-Lite0 whose features it compares; 16 is its head."
    )
    moment_lite1_taps: tuple[int, ...] = setting(
        (), "Blocks of Lite1 that it compares too, as (3, 6, 14, 20, 21): two networks are harder to trick than one."
    )

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions that are trained."""
        return (A_TO_B, B_TO_A) if self.method == "cyclegan" else (DIRECTIONS[self.direction],)

    @property
    def is_paired(self) -> bool:
        """Whether the method learns from pairs."""
        return self.method == "pix2pix"

    @property
    def has_discriminators(self) -> bool:
        """Whether the method has discriminators."""
        return self.method != "style"

    @property
    def network_names(self) -> tuple[str, ...]:
        """The networks that the method has, generators first."""
        adversaries = self.directions if self.has_discriminators else ()
        discriminators = sorted(direction.discriminator for direction in adversaries)
        return (*(direction.generator for direction in self.directions), *discriminators)

    @property
    def target_domains(self) -> tuple[Domain, ...]:
        """The domains that are translated into."""
        return tuple(sorted(direction.target for direction in self.directions))

    @property
    def compared_layers(self) -> tuple[int, ...]:
        """Numbers of the layers that PatchNCE compares; empty for all."""
        return tuple(int(word) for word in parse_list(self.nce_layers))

    def cycle_weight(self, direction: Direction) -> float:
        """Weight of the cycle that begins with ``direction``."""
        return self.lamda if direction == A_TO_B or self.lamda_b < 0 else self.lamda_b

    def identity_weight(self, direction: Direction) -> float:
        """Weight of the identity loss on the pictures that ``direction`` takes."""
        return self.cycle_weight(direction) * self.idt_coef


@dataclass(frozen=True, kw_only=True)
class StyleSettings:
    """Settings of method style, which learns a look from paintings."""

    like: tuple[Path, ...] = setting(
        (),
        "Painting whose look is learned, with --method style. Given several times: one look of them all.",
        files=True,
    )
    like_note: str = setting("", "Where the paintings come from and their license, for the model's header.")
    painting_size: int = setting(
        320,
        "Short side, in pixels, to which paintings are reduced: their strokes are learned at the size that they have "
        "then, on photos of --load-min to --load-height.",
        at_least=64,
    )
    colours: Colours = setting("painting", "Whose colours the result has: the painting's or the photo's.")
    style_weight: float = setting(5.0, "Weight of the look of the paintings (Gram matrices).", at_least=0)
    content_weight: float = setting(1.0, "Weight of what the photo shows (features).", at_least=0)
    smooth_weight: float = setting(0.05, "Weight of total variation, which keeps grain away.", at_least=0)
    colour_weight: float = setting(5.0, "Weight of the photo's colours, with --colours photo.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings(OptimiserSettings):
    """The length of a run and its learning rate."""

    epochs: int = setting(16, "Passes over the larger of the two sets.", above=0)
    accumulate: int = setting(
        1,
        "Gradient accumulation: parts in which a batch passes through the networks, one after the other. It takes the "
        "memory of a part and learns as from the whole batch (batch norm and --moment-weight see parts).",
        above=0,
    )
    activation_checkpointing: bool = setting(
        False,
        "Keep only the inputs of the generators' blocks and compute the rest again for the gradients: less memory for "
        "512 pixels and above, but slower.",
    )
    steps: int = setting(
        0,
        "Steps of the run, however many passes that makes; the schedule in --epochs is stretched over them. 0: by "
        "--epochs.",
        at_least=0,
    )
    lr_policy: Policy = setting("linear", "Learning-rate schedule.")
    decay_epoch: int = setting(8, "Epoch at which the learning rate begins to fall.", at_least=0)
    lr_step: int = setting(50, "Epochs between drops (step), or without improvement before a drop (plateau).", above=0)
    lr_warmup: int = setting(
        0,
        "Steps over which the learning rate rises to --lr (for pretrained networks: Adam's first steps are as large as "
        "any and undo part of what they know).",
        at_least=0,
    )
    head_start: int = setting(
        0, "First steps that train only the discriminators (for pretrained generators).", at_least=0
    )

    def schedule(self) -> str:
        """The learning-rate schedule, as text."""
        rate = f"learning rate {self.lr:g}" + (f", reached after {self.lr_warmup} steps," if self.lr_warmup else "")
        if self.steps:
            return f"{self.steps} steps: {rate} and the schedule of {self.epochs} epochs"
        if self.lr_policy == "plateau":
            return f"{self.epochs} epochs: {rate}, divided by 5 after {self.lr_step} epochs without improvement"
        if self.decay_epoch >= self.epochs:
            never = f" (it would fall from epoch {self.decay_epoch} on)" if self.decay_epoch > self.epochs else ""
            return f"{self.epochs} epochs at {rate} throughout{never}"
        falls = {
            "linear": "falling linearly to 0",
            "cosine": "falling along a cosine to 0",
            "step": f"and every {self.lr_step} epochs divided by 10",
        }
        return f"{self.epochs} epochs: {rate}, from epoch {self.decay_epoch} on {falls[self.lr_policy]}"


_CYCLE = ("lamda", "lamda_b", "idt_coef")
_NCE = ("nce_weight", "nce_layers", "nce_patches")
_STYLE = tuple(entry.name for entry in fields(StyleSettings) if entry.name not in ("like", "colour_weight"))
IDLE: Mapping[str, tuple[str, ...]] = {
    "cyclegan": (*_NCE, "l1_weight", *_STYLE),
    "pix2pix": (*_NCE, "pool_size", *_CYCLE, *_STYLE),
    "style": (
        *("gan_loss", "label_smoothing", "diffaugment", "pool_size", "head_start", *_CYCLE),
        *(*_NCE, "l1_weight", "moment_weight", "dis_net", "dis_layers", "dis_scales", "ndf", "init_discriminators"),
    ),
}
"""Settings without effect, by method; for methods that are not listed, the cycle weights and those of style."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunSettings, ScheduleSettings, StyleSettings, LossSettings, NetworkSettings, DataSettings):
    """All settings of a training run.

    Raises:
        UsageError: a value is out of its range, or two values contradict each other.
    """

    stages: tuple[Stage, ...] = setting(
        (Stage(from_epoch=1, lamda=2.5),),
        "Settings that change at an epoch, counted from 0 (in a recipe only). With --steps: of the schedule that is "
        "stretched over them.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        super().__post_init__()
        for config in (self, *(self._merged(stage) for stage in self.stages)):
            config.check_sizes()
            if self.has_discriminators and config.crops:
                config.check_patches(min(config.crop_height, config.crop_width))
            if config.batch_size % self.accumulate:
                raise UsageError(
                    f"A batch of {config.batch_size} cannot be divided into {self.accumulate} equal parts: change "
                    "batch_size or accumulate."
                )
        self._check_names()
        self._check_network()
        self._check_method()
        self._check_losses()
        self._check_channels()
        check_taps(self)
        check_patience(self)

    @property
    def uses_moments(self) -> bool:
        """Whether the feature-matching loss has a weight, in the whole run or from some stage on."""
        return any((self.moment_weight, *(stage.moment_weight for stage in self.stages)))

    def _check_names(self) -> None:
        try:
            for name in ("source", "target"):
                check_domain(getattr(self, name), name)
        except ModelError as error:  # now, and not when the first model is saved
            raise UsageError(str(error)) from error

    def _check_network(self) -> None:
        from cgpipe.networks.generators import GENERATORS

        if self.gen_net not in GENERATORS:
            raise UsageError(f"gen_net {self.gen_net!r} is not one of {', '.join(GENERATORS)}.")

    def _check_method(self) -> None:
        if self.method == "style":
            self._check_style()
        elif self.like or self.photos:
            raise UsageError(f"{self.method} learns from two sets of pictures: for like and photos, use method style.")
        if self.method == "cyclegan" and self.direction != "AtoB":
            raise UsageError(
                "Method cyclegan trains both directions: omit direction, or use method cut, fastcut or pix2pix."
            )
        for direction in {A_TO_B, B_TO_A} - set(self.directions):
            if self.initial_models[direction]:
                name = direction.generator
                raise UsageError(f"{self.method} {self.direction} has no {name}: omit init_{name}.")
            if self.masks[direction.source]:
                domain = direction.source
                raise UsageError(f"{self.method} {self.direction} translates no {domain}: omit masks_{domain}.")

    def _check_style(self) -> None:
        if not self.like:
            raise UsageError("No painting: name one, or several, with --like.")
        if self.photos is None:
            raise UsageError("No photos to learn on: name a folder of them with --photos.")
        if self.direction != "AtoB":
            raise UsageError("Style training goes from photos to the look of paintings: omit direction.")
        if self.watch_every:
            raise UsageError("Style training has no real pictures to measure against: omit watch_every.")
        if not self.style_weight:
            raise UsageError("style_weight is 0: nothing would be learned from the paintings.")

    def _check_losses(self) -> None:
        named = {"freeze": (self.frozen, self.network_names)}
        named["diffaugment"] = (parse_list(self.diffaugment), AUGMENTATIONS)
        for name, (words, known) in named.items():
            if unknown := [word for word in words if word not in known]:
                raise UsageError(f"{name} takes {', '.join(known)}, not {unknown[0]!r}.")
        if not all(word.isdecimal() for word in parse_list(self.nce_layers)):
            raise UsageError(f"nce_layers takes numbers of layers, as 0,2,4, not {self.nce_layers!r}.")
        if set(self.frozen) == set(self.network_names):
            raise UsageError("All networks are frozen, so nothing would be trained: shorten freeze.")
        if self.sync_batchnorm and self.norm != "batch":
            raise UsageError(f"norm {self.norm} has no batch statistics to share: omit sync_batchnorm.")
        if self.label_smoothing and self.gan_loss not in ("lsgan", "vanilla"):
            raise UsageError(f"{self.gan_loss} has no labels to smooth: omit label_smoothing, or use lsgan.")
        if self.activation_checkpointing and self.norm == "batch":
            raise UsageError(
                "activation_checkpointing computes layers twice, and batch norm would count each batch twice: use norm "
                "instance or none."
            )
        if self.gan_loss == "wgan-gp" and not self.crops:
            raise UsageError(
                "The loss wgan-gp interpolates real and generated pictures, which must have one size: choose a crop."
            )
        if self.gan_loss == "wgan-gp" and self.norm == "batch":
            raise UsageError(
                "The loss wgan-gp penalises gradients per picture, which batch norm mixes: use norm instance or none."
            )

    def _check_channels(self) -> None:
        counts = tuple(self.channels.values())
        if self.method in ("cut", "fastcut") and self.differ_in_channels:
            raise UsageError(
                f"{self.method} compares input and output by one network, and they differ in channels: use cyclegan, "
                "or pix2pix for pairs."
            )
        if self.method == "style" and counts != (3, 3):
            raise UsageError("Style training takes RGB photos: omit input_channels and output_channels.")
        if self.differ_in_channels and not {*counts} <= {1, 3} and any(self.masks.values()):
            raise UsageError("Masks compare input and output, which have other channels: omit masks_a and masks_b.")
        if self.differ_in_channels and self.composite:
            raise UsageError("The background of a picture of other channels cannot be put back: omit composite.")
        if all(count in VIEWABLE for count in counts):
            return
        seeing = {"feature_weight": self.feature_weight, "moment_weight": self.uses_moments}
        for name, used in (seeing | {"watch_every": self.watch_every and not self.is_paired}).items():
            if used:
                raise UsageError(f"{name} uses a network that sees gray, RGB and RGBA pictures alone: set it to 0.")

    def channels_of(self, direction: Direction) -> tuple[int, int]:
        """Input and output channels of a generator."""
        return self.channels[direction.source], self.channels[direction.target]

    @property
    def differ_in_channels(self) -> bool:
        """Whether the domains have other channels, so that no generator can take what it gives."""
        return self.input_channels != self.output_channels

    def _merged(self, stage: Stage) -> TrainConfig:
        changes = {k: v for k, v in asdict(stage).items() if v is not None and k != "from_epoch"}
        return replace(self, stages=(), **changes)

    def at_epoch(self, epoch: int) -> TrainConfig:
        """The effective settings during ``epoch`` (counted from 0), with all stages begun so far."""
        config = replace(self, stages=())
        for stage in sorted(self.stages, key=lambda s: s.from_epoch):
            if stage.from_epoch <= epoch:
                config = config._merged(stage)
        return config

    def without_effect(self) -> dict[str, str]:
        """Settings that differ from their defaults but have no effect, by name, with the reason."""
        idle = {
            f"does nothing for {self.dis_net}": () if self.dis_net == "n_layers" else ("dis_layers",),
            f"does nothing for {self.gen_net}": ("ngf", "dropout") if self.gen_net.startswith("compact") else (),
            f"does nothing with method {self.method}": IDLE.get(self.method, ("l1_weight", *_CYCLE, *_STYLE)),
            "does nothing with the painting's colours": () if self.colours == "photo" else ("colour_weight",),
            f"does nothing with lr_policy {self.lr_policy}": (
                *(() if self.lr_policy in ("step", "plateau") else ("lr_step",)),
                *(("decay_epoch",) if self.lr_policy == "plateau" else ()),
            ),
            "does nothing where the domains have other channels": ("idt_coef",) if self.differ_in_channels else (),
            "does nothing without masks": (
                () if any(self.masks.values()) else ("background_weight", "composite", "recolour")
            ),
            "does nothing with feature_weight 0": () if self.feature_weight else ("feature_taps", "feature_pooled"),
            "does nothing without moment_weight": () if self.uses_moments else ("moment_taps", "moment_lite1_taps"),
            f"does nothing with preprocess {self.preprocess}": (
                *(("load_height",) if self.preprocess in ("crop", "none") else ()),
                *(("load_width",) if self.preprocess.startswith(("crop", "none", "scale_shortest")) else ()),
            ),
            f"does nothing with init_type {self.init_type}": ("init_gain",) if self.init_type == "kaiming" else (),
        }
        late = [stage.from_epoch for stage in self.stages if self.steps and stage.from_epoch >= self.epochs]
        if late:
            length = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
            why = f"from epoch {min(late)} on never begin: the schedule that is stretched over the steps has {length}"
            idle[why] = ("stages",)
        defaults = {entry.name: entry.default for entry in fields(self) if entry.default is not MISSING}
        return {n: why for why, names in idle.items() for n in names if getattr(self, n) != defaults[n]}

    def pair(self) -> str:
        """The directions, as text."""
        if self.method == "cyclegan":
            return f"{self.source} and {self.target}"
        first, second = self.names(self.directions[0])
        if self.method == "style":
            return f"{first} to {second}, as in {', '.join(path.name for path in self.like)}"
        return f"{first} to {second} by {self.method}"

    def test_size(self, multiple: int) -> int:
        """Side at which pictures have the scale of training, as a multiple of ``multiple``; 256 if none is fixed."""
        return whole_side(self.load_height if self.preprocess == "resize_and_crop" else 256, multiple)

    def model_path(self, direction: Direction) -> Path:
        """Path of the run's model of one direction."""
        return self.checkpoint_dir / f"{plain_name(*self.names(direction))}.safetensors"


STYLE: Mapping[str, object] = {
    **{"source": GENERIC, "gen_net": "compact-xs", "feature_weight": 0.0},
    # The temporal loss slows learning down, so it starts once the look is there.
    **{"stages": (Stage(from_epoch=5, motion_weight=2.0),)},
    **{"steps": 600, "epochs": 10, "decay_epoch": 6, "lr": 1e-3, "beta1": 0.9, "ema": 0.99, "batch_size": 1},
    **{"preprocess": "scale_shortest_and_crop", "load_height": 300, "load_min": 200},
    **{"crop_height": 192, "crop_width": 192, "compile": False, "log_every": 20},
    **{"sample_every": 200, "save_every": 100},
}
"""Defaults of method style, in place of the others."""

PIX2PIX: Mapping[str, object] = {
    **{"gen_net": "unet_256", "dropout": True, "ndf": 64, "feature_weight": 0.0, "gan_loss": "vanilla"},
    **{"epochs": 200, "decay_epoch": 100, "batch_size": 1, "stages": ()},
    **{"load_height": 286, "load_width": 286, "load_min": 0, "crop_height": 256, "crop_width": 256},
}
"""Defaults of method pix2pix: those of its paper. At batch size 1, instance norm is the paper's batch norm."""

STARTS: Mapping[str, tuple[Path, Mapping[str, object]]] = {
    "compact-xs": (STARTS_FOLDER / "compact-xs.safetensors", {"padding": "reflect"}),
    "compact": (SHIPPED_FOLDER / "photo2monet.safetensors", {"padding": "reflect"}),
}
"""The weights that the generator of a look starts from, since they already reproduce pictures, and its settings."""


def load_config(recipe: Path | None, overrides: Mapping[str, Any], *, resume: bool = False) -> TrainConfig:
    """Merges the defaults, the TOML file ``recipe``, and ``overrides``, in this order.

    A setting in ``overrides`` holds for the whole run, also in stages. A recipe that names no stages has none.

    Args:
        recipe: a TOML file.
        overrides: settings from the command line.
        resume: start from the recipe of the run in ``checkpoint_dir`` instead of the defaults. There may be none yet if
            ``recipe`` or ``overrides`` name what to train on.

    Raises:
        UsageError: the recipe cannot be read, a name in it is unknown, or there is no run.
    """
    named = read_recipe(recipe, TrainConfig)
    given = named | dict(overrides)
    method = given.get("method")
    complete = recipe is not None or any(given.get(name) for name in (*PLACES, "like"))
    names, defaults = _names_of(method, given, resume), _defaults_of(method, given)
    folder = Path((names | defaults | given).get("checkpoint_dir", TrainConfig.checkpoint_dir))
    run = read_run_recipe(folder, TrainConfig, required=not complete) if resume else {}
    chosen = _without_other_sets(defaults | run | named, overrides)
    if recipe is None and not chosen:
        chosen["stages"] = TrainConfig.stages
    fixed: dict[str, Any] = {f.name: None for f in fields(Stage) if f.name in overrides}
    chosen["stages"] = tuple(replace(stage, **fixed) for stage in chosen.get("stages", ()))
    if method != "style":
        drop_settings(chosen, overrides, network="gen_net", settings="gen_settings", default=TrainConfig.gen_net)
    fitted = _fitting(names | chosen | dict(overrides))
    if not run:
        network = fitted.get("gen_net", TrainConfig.gen_net)
        starts = (fitted.get("init_a_to_b", ""), fitted.get("init_b_to_a", ""))
        fitted["gen_settings"] = with_parts_of(fitted.get("gen_settings", {}), network, *starts)
    return TrainConfig(**fitted)


PLACES = ("dataset_dir", "pairs", "domain_a")
"""Settings that say where training pictures are, each in its own way."""


def _without_other_sets(chosen: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of recipes, without the sets that they name in another way than the command line does."""
    typed = [name for name in PLACES if overrides.get(name)]
    if not typed or not any(chosen.get(name) for name in ("pairs", "domain_a") if name not in typed):
        return chosen
    others = ("pairs", "domain_a", "domain_b", "test_pairs", "test_a", "test_b")
    return {name: value for name, value in chosen.items() if name not in others}


def _names_of(method: str | None, named: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """The domains that are not named, as in the name of a dataset called horse2zebra; and folders by the domains."""
    dataset = next((named[place] for place in PLACES if named.get(place)), None)
    if dataset is None or method == "style":
        return {}
    source, two, target = Path(dataset).resolve().name.partition("2")
    two_names = two and is_domain(source) and is_domain(target) and source != target
    known = {"source": source, "target": target} if two_names else {}
    names = known | {name: named[name] for name in ("source", "target") if name in named}
    if len(names) == 2:
        return known | _folders_of(plain_name(names["source"], names["target"]))
    if not resume and Path(dataset).exists():
        unnamed = [name for name in ("source", "target") if name not in names]
        which = "The domains are not named, and are" if len(unnamed) == 2 else "One domain is not named, and is"
        called = " and ".join(getattr(TrainConfig, name) for name in unnamed)
        options = " and ".join(f"--{name}" for name in unnamed)
        warnings.warn(f"{which} called {called}: name yours with {options}.", CgpipeWarning, stacklevel=3)
    return {}


def _folders_of(run: str) -> dict[str, Path]:
    return {"checkpoint_dir": Path("checkpoints", run), "results_dir": Path("results", run)}


def _defaults_of(method: str | None, named: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a method that has its own."""
    if method == "style":
        return _style_defaults(named)
    if method != "pix2pix":
        return {}
    compact = str(named.get("gen_net", "")).startswith("compact")
    return {**PIX2PIX, "dropout": not compact}


def _style_defaults(named: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of method style, including those that depend on the paintings and the generator."""
    target = look_name(named.get("like", ())) if named.get("like") else TrainConfig.target
    run = plain_name(named.get("source", GENERIC), named.get("target", target))
    defaults = {**STYLE, **_folders_of(run), "target": target}
    start = STARTS.get(named.get("gen_net", STYLE["gen_net"]))
    if start and not any(named.get(name) for name in ("init_a_to_b", "gen_settings")):
        defaults |= {"init_a_to_b": str(start[0]), "gen_settings": dict(start[1])}
    return defaults


def _fitting(chosen: dict[str, Any]) -> dict[str, Any]:
    """Adapts defaults to the given settings: crops fit into small pictures, features to the channels."""
    height = chosen.get("load_height", TrainConfig.load_height)
    width = chosen.get("load_width", TrainConfig.load_width)
    fitted = {
        "crop_height": min(TrainConfig.crop_height, height // 8 * 8 or height),
        "crop_width": min(TrainConfig.crop_width, width // 8 * 8 or width),
    } | chosen
    if not {chosen.get("input_channels", 3), chosen.get("output_channels", 3)} <= {*VIEWABLE}:
        fitted = {"feature_weight": 0.0} | fitted  # its network sees pictures
    smallest = max(fitted["crop_height"], -(-fitted["crop_width"] * height // max(1, width)))
    half = TrainConfig.load_min * height // TrainConfig.load_height
    return {"load_min": min(height, max(half, smallest))} | fitted
