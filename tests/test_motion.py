"""The loss that keeps video still: what it costs, and that what learns by it moves with its pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from cgpipe.training import motion as module
from cgpipe.training.config import Stage, TrainConfig
from cgpipe.training.methods import build_method
from cgpipe.training.motion import Motion, motion_loss, random_motion

SIDE = 64
Generator = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def pictures() -> torch.Tensor:
    """Smooth ones, (2, 3, 64, 64)."""
    noise = np.random.default_rng(0).standard_normal((2, SIDE, SIDE, 3)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(picture, (0, 0), 5) for picture in noise])
    return torch.from_numpy(smooth / np.abs(smooth).max()).movedim(-1, 1)


def stripes() -> torch.Tensor:
    """A fixed grid, (1, 1, 64, 64)."""
    return 0.5 * torch.sin(torch.arange(SIDE) * 1.5).expand(1, 1, SIDE, SIDE)


def cost(generator: Generator, pictures: torch.Tensor, *, draws: int = 4) -> float:
    torch.manual_seed(0)
    return float(np.mean([motion_loss(generator, pictures, generator(pictures)).item() for _ in range(draws)]))


def test_local_changes_of_colour_cost_nothing_and_a_fixed_grid_costs_a_lot(
    pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_grain = cost(lambda p: -0.5 * p + 0.2, pictures)
    assert of_grain < module.NOISE
    monkeypatch.setattr(module, "NOISE", 0.0)
    assert cost(lambda p: -0.5 * p + 0.2, pictures) < 1e-6
    assert cost(lambda p: torch.tanh(2 * p).flip(1), pictures) < 0.005
    assert cost(lambda p: p + stripes(), pictures) > 0.3
    assert cost(lambda p: p + stripes() * (p > 0), pictures) > 0.1


def test_what_follows_grain_costs(pictures: torch.Tensor) -> None:
    assert cost(lambda p: p + 5 * (p - blurred(p)), pictures) > 3 * cost(lambda p: p, pictures)


def blurred(pictures: torch.Tensor) -> torch.Tensor:
    return nn.functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)


def test_what_comes_in_at_the_border_costs_nothing(pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    shift = torch.tensor([[1, 0, 2 * 5 / SIDE], [0, 1, 0]]).expand(2, 2, 3)
    moved = Motion(nn.functional.affine_grid(shift, list(pictures.shape), align_corners=False))
    monkeypatch.setattr(module, "random_motion", lambda pictures: moved)
    monkeypatch.setattr(module, "NOISE", 0.0)

    def wrong_in(columns: int) -> float:
        places = (torch.arange(SIDE) >= SIDE - columns).float()
        return motion_loss(lambda picture: picture + places, pictures, pictures).item()

    assert wrong_in(5) == 0
    assert wrong_in(6) > 0


def test_gradients_are_those_of_the_loss(pictures: torch.Tensor) -> None:
    def loss(weight: torch.Tensor) -> torch.Tensor:
        def generator(picture: torch.Tensor) -> torch.Tensor:
            return picture + weight * stripes() * picture

        torch.manual_seed(3)
        return motion_loss(generator, pictures, generator(pictures))

    weight = torch.tensor(0.7, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(weight), weight)
    step = 1e-2
    expected = (loss(weight + step) - loss(weight - step)).item() / (2 * step)
    assert slope.item() == pytest.approx(expected, rel=2e-2)
    assert slope.item() > 0.05


def test_both_sides_have_a_gradient(pictures: torch.Tensor) -> None:
    translated, once_more = (pictures.clone().requires_grad_() for _ in range(2))
    slopes = torch.autograd.grad(motion_loss(lambda p: once_more, pictures, translated), (translated, once_more))
    assert all(slope.any() for slope in slopes)


def test_what_learns_by_it_stops_painting_a_grid(pictures: torch.Tensor) -> None:
    torch.manual_seed(0)
    weight = torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.05)

    def generator(picture: torch.Tensor) -> torch.Tensor:
        return picture + weight * stripes()

    for _ in range(30):
        loss = motion_loss(generator, pictures, generator(pictures))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(weight.item()) < 0.1


def test_places_are_exact_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Motion] = []

    def remembered(pictures: torch.Tensor) -> Motion:
        moved.append(random_motion(pictures))
        return moved[-1]

    monkeypatch.setattr(module, "random_motion", remembered)
    pictures = torch.zeros(4, 3, 64, 64)
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            motion_loss(torch.tanh, pictures, pictures)
    assert torch.equal(moved[0].grid, moved[1].grid)


def test_half_of_the_pictures_are_shifted_by_whole_pixels() -> None:
    torch.manual_seed(0)
    grid = random_motion(torch.zeros(60, 3, 64, 64)).grid
    still = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, 64, 64], align_corners=False)
    moved = (grid - still) * 32
    is_whole = ((moved - moved.round()).abs() < 1e-4).flatten(1).all(dim=1)
    assert 15 < is_whole.sum() < 45
    assert (moved[is_whole].flatten(1, 2).std(dim=1) < 1e-4).all()
    noise = torch.randn(60, 3, 64, 64)
    # A sharp picture moved so is as sharp as before.
    kept = Motion(grid)(noise)[:, :, 16:-16, 16:-16].std(dim=(1, 2, 3))
    assert kept[is_whole].min() > 0.95 > 0.9 > kept[~is_whole].max()


def test_a_motion_is_smooth_small_and_another_one_for_each_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WHOLE", 0.0)
    torch.manual_seed(0)
    pictures = torch.zeros(50, 3, 96, 192)
    grid = random_motion(pictures).grid
    assert grid.shape == (50, 96, 192, 2)
    still = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, 96, 192], align_corners=False)
    moved = (grid - still) * torch.tensor([192, 96]) / 2
    middle = moved[:, 48, 96].norm(dim=-1)
    most = 96 * (module.SHIFT + module.BEND) * 2**0.5
    assert middle.max() < most
    assert middle.max() > 0.5 * most
    assert len(set(middle.tolist())) > 40
    assert moved.diff(dim=1).norm(dim=-1).max() < 0.6
    assert moved.diff(dim=2).norm(dim=-1).max() < 0.6


def test_a_shift_moves_the_picture_and_what_comes_in_is_outside(pictures: torch.Tensor) -> None:
    still = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, SIDE, SIDE], align_corners=False)
    move = Motion(still.repeat(2, 1, 1, 1) + torch.tensor([2 * 5 / SIDE, 0]))
    assert torch.allclose(move(pictures)[..., :-5], pictures[..., 5:], atol=1e-5)
    assert move.inside[..., :-5].all()
    assert not move.inside[..., -5:].any()


def test_draws_follow_the_random_state_alone(pictures: torch.Tensor) -> None:
    state = torch.get_rng_state()
    first = motion_loss(blurred, pictures, blurred(pictures))
    assert motion_loss(blurred, pictures, blurred(pictures)) != first
    torch.set_rng_state(state)
    assert motion_loss(blurred, pictures, blurred(pictures)) == first


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"motion_a", "motion_b"}),
        ({"freeze": "b_to_a"}, {"motion_a"}),
        ({"method": "fastcut", "direction": "BtoA"}, {"motion_b"}),
        ({"motion_weight": 0.0}, set()),
    ],
)
def test_generators_that_learn_have_it(settings: dict[str, object], expected: set[str], tmp_path: Path) -> None:
    chosen: dict[str, object] = {"feature_weight": 0.0, "ndf": 2, "motion_weight": 3.0, "gen_net": "compact-xs"}
    config = TrainConfig(**chosen | settings)  # type: ignore[arg-type]
    method = build_method(config)
    real = {domain: torch.rand(2, 3, 64, 64) * 2 - 1 for domain in "ab"}
    losses, _ = method.generator_losses(real, config)
    assert {name for name in losses if name.startswith("motion")} == expected
    assert all(losses[name] > 0 for name in expected)


def test_a_stage_can_bring_it_in() -> None:
    config = TrainConfig(stages=(Stage(from_epoch=2, motion_weight=2.0),))
    assert config.at_epoch(1).motion_weight == 0
    assert config.at_epoch(2).motion_weight == 2
