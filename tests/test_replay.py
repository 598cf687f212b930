"""Training steps that are recorded once and replayed; a tape stands in for CUDA graphs."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_equal_to_the_bit, config_of, make_dataset, make_recipe
from tape import Tape

from cgpipe.errors import CgpipeWarning
from cgpipe.training.draws import chosen, drawn
from cgpipe.training.optimise import adam, apply_gradients, set_learning_rate
from cgpipe.training.replay import Replayed
from cgpipe.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    return make_recipe(folder / "recipe.toml", make_dataset(folder / "set"))


def train(trainer: Trainer, steps: int, tape: Tape | None) -> list[dict[str, float]]:
    for part in (trainer._generators_part, trainer._discriminators_part):
        part._record = tape
    batches = itertools.islice(trainer.batches(), steps)
    return [{name: float(loss) for name, loss in trainer.train_step(batch).items()} for batch in batches]


def sum_of(weight: torch.Tensor) -> Any:
    """Where autograd adds up a weight's gradient: made anew, unless a graph that leads there is still kept."""
    function = weight.view_as(weight).grad_fn
    assert function is not None
    return function.next_functions[0][0]


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """The weights of each step, marked where their gradients are added up; nothing collects cycles of garbage."""
    weights: list[torch.Tensor] = []

    def mark(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
        learnt = [weight for group in optimizer.param_groups for weight in group["params"]]
        for weight in learnt:
            sum_of(weight).metadata["step"] = len(weights)
        assert all("step" in sum_of(weight).metadata for weight in learnt)
        weights.extend(learnt)
        apply_gradients(optimizer, scaler)

    monkeypatch.setattr("cgpipe.training.trainer.apply_gradients", mark)
    gc.disable()
    yield weights
    gc.enable()


WAYS: dict[str, dict[str, Any]] = {
    "motion": {"motion_weight": 1.0, "alias_weight": 1.0, "diffaugment": "color,translation,cutout"},
    "moments": {"moment_weight": 1.0, "moment_taps": (4,), "moment_lite1_taps": ()},
    "penalty": {"gan_loss": "wgan-gp"},
    "cut": {"method": "cut"},
    "parts": {"accumulate": 2},
}


@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way == "motion" else pytest.mark.slow) for way in WAYS])
def test_what_is_replayed_depends_on_nothing_but_its_inputs(
    recipe: Path, tmp_path: Path, stepped: list[torch.Tensor], way: str
) -> None:
    found: list[Any] = []
    for tape in (None, Tape()):
        # A learning rate that is the same in 32 bits.
        trainer = Trainer(config_of(recipe, tmp_path / "run", lr=2**-12, **WAYS[way]))
        if way == "parts":  # in fp16, where some steps overflow
            trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2)
        losses = train(trainer, 6, tape)
        if tape is None:
            # No graph outlives its step: a GPU cannot record gradients that were added up elsewhere before.
            assert stepped and not any("step" in sum_of(weight).metadata for weight in stepped)
        found.append((losses, dict(trainer.weights()), {"random": torch.get_rng_state()}))
    (expected, *tensors), (losses, *others) = found
    assert losses == expected
    for one, other in zip(tensors, others, strict=True):
        assert_equal_to_the_bit(one, other)
    assert tape is not None and tape.replays > 0


@pytest.mark.slow
def test_a_stage_and_the_end_of_a_head_start_are_recorded_anew(recipe: Path, tmp_path: Path) -> None:
    settings = {"batch_size": 8, "epochs": 8, "decay_epoch": 8, "head_start": 3, "lr": 2**-12}  # 2 steps an epoch
    tape = Tape()
    expected, losses = (train(Trainer(config_of(recipe, tmp_path / "run", **settings)), 10, t) for t in (None, tape))
    assert losses == expected
    assert expected[6]["cycle_a"] < 0.7 * expected[5]["cycle_a"]  # the stage
    assert tape.recordings == 2 * 3


class Fitting:
    """One weight that learns to multiply by what is drawn or chosen."""

    def __init__(self, tape: Any, factor: Any) -> None:
        self.network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.network.weight)
        self.optimizer = adam(self.network, 0.5)
        self.factor = factor
        self.part: Replayed[torch.Tensor] = Replayed(self._learn, self.optimizer, tape)

    def _learn(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = (self.network(batch["a"]) - self.factor() * batch["a"]).abs().mean()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def steps(self, count: int, side: int = 4) -> list[float]:
        torch.manual_seed(0)
        found = []
        for step in range(count):
            set_learning_rate(self.optimizer, 0.5**step)
            found.append(float(self.part({"a": torch.full((side, 1), 1.0 + step)})))
        return [*found, float(self.network.weight.detach())]


@pytest.mark.parametrize("factor", [lambda: drawn(lambda: torch.rand(()), CPU), lambda: float(chosen(3))])
def test_pictures_numbers_choices_and_the_learning_rate_are_those_of_each_step(factor: Any) -> None:
    tape = Tape()
    assert Fitting(tape, factor).steps(20) == pytest.approx(Fitting(None, factor).steps(20), rel=1e-6)
    assert tape.recordings == (1 if isinstance(factor(), torch.Tensor) else 3)


def test_another_shape_is_recorded_anew() -> None:
    tape = Tape()
    fitting = Fitting(tape, lambda: 2.0)
    fitting.steps(4, side=4)
    fitting.steps(2, side=3)
    assert tape.recordings == 1
    fitting.steps(2, side=3)
    assert tape.recordings == 2


def test_what_cannot_be_recorded_goes_on_without_as_if_nothing_had_been_tried() -> None:
    def factor() -> float:
        return float(torch.rand(()))  # read back from the device

    with pytest.warns(CgpipeWarning, match=r"No CUDA graph \(aten::rand cannot be recorded\): continuing without"):
        found = Fitting(Tape(), factor).steps(8)
    assert found == Fitting(None, factor).steps(8)
