"""Training steps that are recorded once and replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_equal_to_the_bit, config_of, make_dataset, make_recipe
from tape import Tape

from cgpipe.training.trainer import Trainer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    return make_recipe(folder / "recipe.toml", make_dataset(folder / "set"))


def trainer_of(recipe: Path, run: Path, record: Any, **overrides: Any) -> Trainer:
    trainer = Trainer(config_of(recipe, run, **overrides))
    for part in (trainer._generators_part, trainer._discriminators_part):
        part._record = record
    return trainer


def train(trainer: Trainer, steps: int) -> list[dict[str, float]]:
    found = []
    for batch in trainer.batches():
        found.append({name: float(loss) for name, loss in trainer.train_step(batch).items()})
        if len(found) == steps:
            break
    return found


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "motion": {"motion_weight": 1.0, "diffaugment": "color,translation,cutout"},
    "moments": {"moment_weight": 1.0, "moment_taps": (4,), "moment_lite1_taps": ()},
    "penalty": {"gan_loss": "wgan-gp"},
    "cut": {"method": "cut"},
    "fastcut": {"method": "fastcut"},
    "parts": {"accumulate": 2},
}


@pytest.mark.parametrize(
    "way", ["plain", *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS if way != "plain")]
)
def test_what_is_replayed_depends_on_nothing_but_its_inputs(recipe: Path, tmp_path: Path, way: str) -> None:
    steps = 6
    found: list[Any] = []
    for record in (None, Tape()):
        # A learning rate that is the same in 32 bits.
        trainer = trainer_of(recipe, tmp_path / "run", record, lr=2**-12, **WAYS[way])
        found.append((train(trainer, steps), dict(trainer.weights()), {"random": torch.get_rng_state()}))
    (expected, *tensors), (losses, *others) = found
    assert losses == expected
    for one, other in zip(tensors, others, strict=True):
        assert_equal_to_the_bit(one, other)
    assert record is not None and record.replays > 0
