"""Training runs small enough for tests: two sets of coloured noise, a recipe, and what a run leaves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from shell import wait_until

from cgpipe.training.config import TrainConfig, load_config
from cgpipe.training.state import load_state

RECIPE = """
source = "red"
target = "blue"
gen_net = "compact-flat"
epochs = 4
decay_epoch = 2
batch_size = 2
ndf = 8
feature_weight = 0.0
pool_size = 3
load_height = 40
load_width = 40
load_min = 32
crop_height = 32
crop_width = 32
precision = "fp32"
compile = false
lamda = 10.0
log_every = 1
save_every = 3
sample_every = 1000
threads = 1
idt_coef = 0.5
gen_settings = { channels = 16, blocks = 2 }
stages = [{ from_epoch = 3, lamda = 5.0 }]
"""


COUNTS = {"trainA": 16, "trainB": 10, "testA": 2, "testB": 2}


def make_dataset(root: Path, counts: Mapping[str, int] = COUNTS, *, block: int = 1) -> Path:
    """Noise of 40x40 pixels, reddish in the folders of domain A and bluish in those of B, in blocks of so many."""
    noise = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = noise.integers(0, 90, (40 // block, 40 // block, 3), np.uint8)
            pixels[..., 2 if name.endswith("A") else 0] += 150
            cv2.imwrite(str(root / name / f"{index}.png"), pixels.repeat(block, 0).repeat(block, 1))
    return root


def make_recipe(path: Path, dataset: Path, **changed: object) -> Path:
    """:data:`RECIPE` for a dataset, with other values for some settings."""
    kept = [line for line in RECIPE.splitlines() if line.split(" = ")[0] not in changed]
    lines = [f"{name} = {_toml(value)}" for name, value in {"dataset_dir": str(dataset), **changed}.items()]
    path.write_text("\n".join([*lines, *kept]), encoding="utf-8")
    return path


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {json.dumps(item)}" for name, item in value.items()) + " }"
    return json.dumps(value)


def config_of(recipe: Path, run: Path, **overrides: Any) -> TrainConfig:
    return load_config(recipe, {"checkpoint_dir": run, "results_dir": run / "results", "publish": False, **overrides})


def weights_of(run: Path, parts: tuple[str, ...] = ("networks", "averages")) -> dict[str, torch.Tensor]:
    state = load_state(run / "state.pt")
    return {f"{part}.{k}": v for part in parts for k, v in state[part].items()}


def assert_equal_to_the_bit(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def logged(run: Path) -> list[dict[str, float]]:
    """The lines of losses in a run's metrics.jsonl, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "seconds_a_step")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines if "learning_rate" in line]


def wait_for_a_save(process: subprocess.Popen[Any], run: Path) -> None:
    """Until the state is written once more than it was, or the run is done."""
    path = run / "state.pt"
    before = path.stat().st_mtime_ns if path.exists() else 0
    wait_until(lambda: path.exists() and path.stat().st_mtime_ns != before, process)


def make_photos(folder: Path, count: int, side: int) -> Path:
    """PNG pictures of noise, every second one in a folder of its own inside."""
    for number in range(count):
        path = folder / f"{'sub/' * (number % 2)}{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder that are not hidden, by their paths in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}
