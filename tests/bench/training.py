"""Training: pictures a second, and how the losses go, beside a plain loop with the same networks and batch."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

from material import make_pictures
from measure import tell
from results import Aim, Row, Table
from settings import Settings
from torch.profiler import ProfilerActivity, profile
from training_loop import train_plainly

from cgpipe.training.config import TrainConfig
from cgpipe.training.trainer import Trainer

PLAIN, AGAIN, OURS = "plain loop", "plain loop, another seed", "cgpipe train"
NOT_TIMED = 5
"""First steps, in which things are compiled."""

NETWORKS: Mapping[str, tuple[dict[str, Any], int]] = {
    "compact": ({"gen_net": "compact", "ndf": 32, "batch_size": 2}, 300),
    "resnet": ({"gen_net": "resnet_9blocks", "ndf": 64, "batch_size": 1, "crop_height": 256, "crop_width": 256}, 12),
}
"""Settings, and steps: ResNet-9 at its own size would take hours for 300."""

LOSSES = ("cycle", "identity", "adversarial", "discriminator")
COLUMNS = {"way": "", "pictures a second": ".2f", "times the plain loop": ".2f"} | dict.fromkeys(LOSSES, ".3f")
PROFILE = {"operation": "", "share of the step": ".1%"}


def measure_train(which: str, settings: Settings) -> list[Table]:
    """Both loops, the plain one twice: how far apart its losses lie is the noise."""
    changes, steps = NETWORKS[which]
    steps = NOT_TIMED + 3 if settings.tiny else steps
    dataset = settings.dataset or settings.folder / "set"
    if not settings.dataset:
        for name in ("trainA", "trainB"):
            make_pictures(dataset / name, 4 if settings.tiny else 64)
    device = settings.device
    config = TrainConfig(
        gpu_ids="0" if device.type == "cuda" else "-1",
        dataset_dir=dataset,
        checkpoint_dir=settings.folder / "run",
        results_dir=settings.folder / "results",
        feature_weight=0.0,
        load_min=0,
        load_height=286,
        load_width=286,
        stages=(),
        compile=not settings.tiny,
        **changes,
    )
    loops = {PLAIN: train_plainly(config, 0, device), AGAIN: train_plainly(config, 1, device), OURS: _ours(config)}
    rows = [_row(name, itertools.islice(loop, steps), config.batch_size) for name, loop in loops.items()]
    for row in rows:
        row["times the plain loop"] = row["pictures a second"] / rows[0]["pictures a second"]
    table = Table(title=f"Training {config.gen_net}, crops of {config.crop_height}", columns=COLUMNS, rows=list(rows))
    table.notes = [
        f"Batch {config.batch_size}, discriminators on pixels alone; {steps} steps, all but {NOT_TIMED} of them timed.",
        "Losses are means over the last third of the steps. Each loop has random crops of its own.",
    ]
    if not settings.tiny:
        table.aims = [Aim("cgpipe train, times the plain loop", rows[-1]["times the plain loop"], 2.0)]
    return [table, Table(title="Where the time of a step goes", columns=PROFILE, rows=list(_profile(config)))]


def _ours(config: TrainConfig) -> Iterator[dict[str, float]]:
    """What ``cgpipe train`` does, giving the losses of every step."""
    trainer = Trainer(config)
    for batch in trainer.batches():
        losses = {name: float(loss) for name, loss in trainer.train_step(batch).items()}
        yield {kind: sum(loss for name, loss in losses.items() if name.startswith(kind)) for kind in LOSSES}


def _row(name: str, loop: Iterator[dict[str, float]], batch_size: int) -> dict[str, Any]:
    tell(f"  {name}")
    seen, ends = [], []
    for losses in loop:
        seen.append(losses)
        ends.append(time.perf_counter())
    rate = batch_size * (len(ends) - NOT_TIMED) / (ends[-1] - ends[NOT_TIMED - 1])
    last = seen[-max(1, len(seen) // 3) :]
    means = {kind: statistics.fmean(losses[kind] for losses in last) for kind in LOSSES}
    return {"way": name, "pictures a second": rate} | means


def _profile(config: TrainConfig) -> Iterator[Row]:
    """The operations that take most of a few steps of ``cgpipe train``, compiled ones by what they were made of."""
    tell("  profile")
    trainer = Trainer(config)
    batches = trainer.batches()
    for batch in itertools.islice(batches, 2):
        trainer.train_step(batch)
    on_gpu = trainer.plan.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as watched:
        for batch in itertools.islice(batches, 3):
            trainer.train_step(batch)
    spent = attrgetter("self_device_time_total" if on_gpu else "self_cpu_time_total")
    found = sorted(watched.key_averages(), key=spent, reverse=True)
    total = sum(map(spent, found))
    for event in found[:12]:
        yield {"operation": event.key, "share of the step": spent(event) / total}
