"""The groups of settings that training and distillation share.

A recipe inherits from its groups, so that flags, TOML and attributes stay flat, and each part takes only the group that
it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cgpipe.errors import UsageError
from cgpipe.options import Precision
from cgpipe.recipe import setting

TAPS = {
    "feature_taps": ("Lite0", 16, 1),
    "moment_taps": ("Lite0", 16, 1),
    "moment_lite1_taps": ("Lite1", 21, 0),
}
"""Settings that name blocks of a network: its name, its last block (the head), and how many are required."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorSettings:
    """The discriminators."""

    dis_net: str = setting("n_layers", "Discriminator architecture: n_layers (PatchGAN) or pixel.")
    ndf: int = setting(32, "Width of the discriminators' first layer.", above=0)
    dis_layers: int = setting(
        3,
        "Layers of n_layers: with 3 a patch is 70 pixels wide, with 4 142, with 5 286; more for 512 pixels and above.",
        above=0,
    )
    dis_scales: int = setting(
        1,
        "Discriminators of each domain: a second looks at the picture at half its size, as in pix2pixHD, a third at a "
        "quarter.",
        above=0,
    )
    norm: str = setting("instance", "Normalization layers: instance, batch, instance_affine or none.")
    feature_weight: float = setting(
        0.5, "Weight of each discriminator head on pretrained features (Projected GAN); 0: none.", at_least=0
    )
    feature_taps: tuple[int, ...] = setting((4, 10), "Blocks of EfficientNet-Lite0 that those heads look at.")
    feature_pooled: bool = setting(False, "Add a head on those features averaged over the whole picture.")

    @property
    def least_patch(self) -> int:
        """Side, in pixels, of the smallest picture that has a patch at the smallest scale."""
        return 3 * 2 ** (self.dis_layers + self.dis_scales - 1) if self.dis_net == "n_layers" else 1

    def check_patches(self, side: int) -> None:
        """Raises UsageError if a picture of this side has no patch at the smallest scale."""
        if side < (least := self.least_patch):
            raise UsageError(
                f"Discriminators of {self.dis_layers} layers at {self.dis_scales} scales need crops of {least} pixels, "
                f"not of {side}: make dis_layers or dis_scales smaller, or the crop larger."
            )


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings:
    """The optimiser."""

    lr: float = setting(2e-4, "Learning rate of Adam.", above=0)
    beta1: float = setting(0.5, "Adam's decay of the mean gradient.", at_least=0, below=1)
    beta2: float = setting(0.999, "Adam's decay of the mean squared gradient.", at_least=0, below=1)
    ema: float = setting(0.999, "EMA decay of the exported weights; 0: no averaging.", at_least=0, below=1)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Devices, folders and intervals of a run; intervals are in steps."""

    checkpoint_dir: Path = setting(Path("checkpoints/horse2zebra"), "Folder for the run's state and model files.")
    results_dir: Path = setting(Path("results/horse2zebra"), "Folder for sample grids.")
    licence: str = setting("unknown", "License of the models, as an SPDX identifier, for their headers.")
    large_side: int = setting(
        0,
        "Short side, for the models' headers, up to which --size auto reduces large pictures to no less than a third: "
        "for styles, whose strokes would be blots. 0: to 256, as videos always.",
        at_least=0,
    )
    seed: int = setting(0, "Random seed.", at_least=0)
    gpu_ids: str = setting("auto", "GPUs to use, such as 0, or 0,1 with one process each; -1: CPU.")
    precision: Precision = setting("auto", "Numeric precision (dtype) of the networks; fp16 needs a GPU.")
    compile: bool = setting(
        True,
        "Compile the networks: slow to start, then faster. Has no effect on an x86 CPU, in fp32 on any CPU, where "
        "pictures are not cropped, or where one GPU replays steps as CUDA graphs.",
    )
    threads: int = setting(0, "CPU threads; 0: as many as torch chooses.", at_least=0)
    workers: int = setting(
        -1,
        "Processes, or with a GPU threads, that load pictures. 0: load in the training process. -1: with a GPU, one "
        "for each spare core, up to 8; without, 0.",
        at_least=-1,
    )
    log_every: int = setting(50, "Steps between lines of metrics.jsonl.", above=0)
    sample_every: int = setting(1000, "Steps between sample grids.", above=0)
    save_every: int = setting(500, "Steps between checkpoints.", above=0)
    snapshot_every: int = setting(
        0, "Epochs between copies of the models that are kept in epoch-N of the run's folder; 0: none.", at_least=0
    )
    watch_every: int = setting(
        0, "Steps between measurements (KID) on the test set; the best models are kept. 0: never.", at_least=0
    )
    patience: int = setting(
        0,
        "Early stopping: end the run when so many measurements of --watch-every in a row found no better model. 0: "
        "never.",
        at_least=0,
    )
    tensorboard: bool = setting(False, "Write metrics and grids for TensorBoard to <results-dir>/tensorboard.")
    histograms: bool = setting(False, "Same, with histograms of all weights.")
    publish: bool = setting(
        True,
        "Copy the finished models to your models folder, where --to finds them. A model of the same name that this "
        "run did not make is left alone.",
    )


def check_patience(settings: RunSettings) -> None:
    """Raises UsageError if nothing is measured that could stop a run early."""
    if settings.patience and not settings.watch_every:
        raise UsageError("patience counts measurements on the test set: set watch_every too.")


def check_taps(settings: object) -> None:
    """Raises UsageError if a setting names blocks that its network does not have."""
    for name, (network, last, fewest) in TAPS.items():
        taps = getattr(settings, name, None)
        if taps is None:
            continue
        in_order = list(taps) == sorted(set(taps)) and all(0 <= tap <= last for tap in taps)
        if not in_order or len(taps) < fewest:
            raise UsageError(
                f"{name} takes blocks of EfficientNet-{network}, 0 to {last} in rising order, not {list(taps)}."
            )
