"""The loss against detail that sticks to a network's grid: what it costs, and what learns by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from cgpipe.training.aliasing import alias_loss, mean_matrix
from cgpipe.training.config import Stage, TrainConfig
from cgpipe.training.methods import build_method

SIDE = 64
Generator = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def pictures() -> torch.Tensor:
    """With detail of every size, (2, 3, 64, 64)."""
    torch.manual_seed(1)
    return sum(
        nn.functional.interpolate(torch.rand(2, 3, side, side) - 0.5, (SIDE, SIDE), mode="bicubic")
        for side in (8, 16, 32, 64)
    ).clamp(-1, 1)


def grid(period: float) -> torch.Tensor:
    """Stripes in fixed places, (1, 1, 64, 64)."""
    return torch.sin(torch.arange(SIDE) * 2 * torch.pi / period).expand(1, 1, SIDE, SIDE)


def sharpened(pictures: torch.Tensor) -> torch.Tensor:
    return 2 * pictures - nn.functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)


def cost(generator: Generator, pictures: torch.Tensor, *, draws: int = 12) -> float:
    torch.manual_seed(0)
    return float(np.mean([alias_loss(generator, pictures, generator(pictures)).item() for _ in range(draws)]))


@pytest.mark.parametrize("spread", [3, 9])
def test_means_are_those_of_pooling(pictures: torch.Tensor, spread: int) -> None:
    pooled = pictures
    for _ in range(2):
        pooled = nn.functional.avg_pool2d(pooled, spread, 1, spread // 2, count_include_pad=False)
    means = mean_matrix(SIDE, spread, pictures.device)
    torch.testing.assert_close(means @ pictures @ means.T, pooled, atol=1e-6, rtol=0)


def test_what_moves_with_the_picture_costs_little_and_a_grid_much(pictures: torch.Tensor) -> None:
    for generator in (lambda p: p, lambda p: -0.5 * p, sharpened):
        assert cost(generator, pictures) < 1e-3
    for period in (4.3, 8.6):
        assert cost(lambda p, period=period: p + 0.5 * grid(period), pictures) > 0.4


def test_weaker_contrast_costs_the_same(pictures: torch.Tensor) -> None:
    strong, weak = (cost(lambda p, by=by: p + by * grid(4.3), pictures) for by in (0.8, 0.2))
    assert weak == pytest.approx(strong, rel=0.1)


def test_both_sides_have_the_gradient_of_the_loss(pictures: torch.Tensor) -> None:
    def loss(weight: torch.Tensor) -> torch.Tensor:
        def generator(picture: torch.Tensor) -> torch.Tensor:
            return 1.5 * picture + weight * grid(5.1)

        torch.manual_seed(3)
        return alias_loss(generator, pictures, generator(pictures))

    weight = torch.tensor(0.3, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(weight), weight)
    step = 1e-2
    expected = (loss(weight + step) - loss(weight - step)).item() / (2 * step)
    assert slope.item() == pytest.approx(expected, rel=2e-2)
    assert slope.item() > 0.01
    translated, once_more = (sharpened(pictures).requires_grad_() for _ in range(2))
    slopes = torch.autograd.grad(alias_loss(lambda p: once_more, pictures, translated), (translated, once_more))
    assert all(slope.any() for slope in slopes)


def test_what_learns_by_it_keeps_detail_and_loses_the_grid(pictures: torch.Tensor) -> None:
    torch.manual_seed(0)
    of_grid, of_detail = torch.tensor(0.3, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.Adam([of_grid, of_detail], lr=0.02)

    def generator(picture: torch.Tensor) -> torch.Tensor:
        return picture + of_detail * (sharpened(picture) - picture) + of_grid * grid(4.3)

    for _ in range(60):
        loss = alias_loss(generator, pictures, generator(pictures))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(of_grid.item()) < 0.1
    assert of_detail.item() > 0.45


def test_what_comes_in_at_a_border_does_not_count(pictures: torch.Tensor) -> None:
    border = torch.zeros(1, 1, SIDE, SIDE)
    border[..., :2, :] = 1
    middle = border.roll(SIDE // 2, 2)
    of_border, of_middle = (cost(lambda p, line=line: p + line, pictures) for line in (border, middle))
    assert of_border < 0.05 < 0.5 < of_middle


def test_draws_follow_the_random_state_alone(pictures: torch.Tensor) -> None:
    def loss() -> torch.Tensor:
        return alias_loss(sharpened, pictures, sharpened(pictures))

    state = torch.get_rng_state()
    first = loss()
    assert loss() != first
    torch.set_rng_state(state)
    assert loss() == first


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"alias_a", "alias_b"}),
        ({"freeze": "b_to_a"}, {"alias_a"}),
        ({"method": "fastcut", "direction": "BtoA"}, {"alias_b"}),
        ({"input_channels": 1}, {"alias_a", "alias_b"}),
        ({"alias_weight": 0.0}, set()),
    ],
)
def test_generators_that_learn_have_it(settings: dict[str, object], expected: set[str]) -> None:
    chosen: dict[str, object] = {"feature_weight": 0.0, "ndf": 2, "alias_weight": 3.0, "gen_net": "compact-xs"}
    config = TrainConfig(**chosen | {"idt_coef": 0.0} | settings)  # type: ignore[arg-type]
    method = build_method(config)
    channels = {"a": config.input_channels, "b": 3}
    real = {domain: torch.rand(2, channels[domain], SIDE, SIDE) * 2 - 1 for domain in "ab"}
    losses, _ = method.generator_losses(real, config)
    assert {name for name in losses if name.startswith("alias")} == expected
    assert all(0 < losses[name] < 6 for name in expected)


def test_a_stage_can_bring_it_in() -> None:
    config = TrainConfig(stages=(Stage(from_epoch=2, alias_weight=2.0),))
    assert config.at_epoch(1).alias_weight == 0
    assert config.at_epoch(2).alias_weight == 2
