"""The groups of settings that training and distillation share.

A recipe inherits from its groups, so that flags, TOML and attributes stay flat, and each part takes only the group that
it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cgpipe.errors import UsageError
from cgpipe.recipe import setting

Precision = Literal["auto", "fp32", "fp16", "bf16"]

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
    norm: str = setting("instance", "Normalization layers: instance, batch, instance_affine or none.")
    feature_weight: float = setting(
        0.5, "Weight of each discriminator head on pretrained features (Projected GAN); 0: none.", at_least=0
    )
    feature_taps: tuple[int, ...] = setting((4, 10), "Blocks of EfficientNet-Lite0 that those heads look at.")
    feature_pooled: bool = setting(False, "Add a head on those features averaged over the whole picture.")


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
    seed: int = setting(0, "Random seed.")
    gpu_ids: str = setting("auto", "GPUs to use, such as 0, or 0,1 with one process each; -1: CPU.")
    precision: Precision = setting("auto", "Numeric precision (dtype) of the networks; fp16 needs a GPU.")
    compile: bool = setting(
        True,
        "Compile the networks: slow to start, then in bf16 about twice as fast. Has no effect in fp32 on a CPU, or "
        "where pictures are not cropped.",
    )
    threads: int = setting(0, "CPU threads; 0: as many as torch chooses.", at_least=0)
    workers: int = setting(0, "Processes that load pictures; 0: load in the training process.", at_least=0)
    log_every: int = setting(50, "Steps between lines of metrics.jsonl.", above=0)
    sample_every: int = setting(1000, "Steps between sample grids.", above=0)
    save_every: int = setting(500, "Steps between checkpoints.", above=0)
    snapshot_every: int = setting(
        0, "Epochs between copies of the models that are kept in epoch-N of the run's folder; 0: none.", at_least=0
    )
    watch_every: int = setting(
        0, "Steps between measurements (KID) on the test set; the best models are kept. 0: never.", at_least=0
    )
    tensorboard: bool = setting(False, "Write metrics and grids for TensorBoard to <results-dir>/tensorboard.")
    histograms: bool = setting(False, "Same, with histograms of all weights.")
    publish: bool = setting(
        True,
        "Copy the finished models to your models folder, where --to finds them. A model of the same name that this "
        "run did not make is left alone.",
    )


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
