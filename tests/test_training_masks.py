"""Training that is told where pictures may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cgpipe.data.dataset import find_training_masks, open_training_sets
from cgpipe.data.direction import A_TO_B
from cgpipe.data.loading import recolour
from cgpipe.data.unpaired import training_batches
from cgpipe.errors import DataError, UsageError
from cgpipe.training.config import TrainConfig
from cgpipe.training.methods import build_method

SIDE = 48


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Pictures whose red is 255 in a rectangle, another one in each, and masks of those of domain A."""
    random = np.random.default_rng(0)
    for folder in ("trainA", "trainB", "masks/below"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "trainA/below").mkdir()
    for index in range(6):
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        top, left = random.integers(0, 24, 2)
        pixels[top : top + 20, left : left + 20, 2] = 255
        name = f"below/{index}.png" if index % 2 else f"{index}.png"
        cv2.imwrite(str(tmp_path / "trainA" / name), pixels)
        cv2.imwrite(str(tmp_path / "masks" / name), pixels[..., 2])
        cv2.imwrite(str(tmp_path / "trainB" / f"{index}.png"), pixels)
    return tmp_path


def config_of(dataset: Path, **settings: Any) -> TrainConfig:
    small: dict[str, Any] = {"load_height": 40, "load_width": 40, "load_min": 34, "crop_height": 32, "crop_width": 32}
    chosen: dict[str, Any] = {"dataset_dir": dataset, "feature_weight": 0.0, "ndf": 2, "stages": ()}
    return TrainConfig(**(chosen | small | settings))


def test_a_mask_is_cropped_and_mirrored_like_its_picture(dataset: Path) -> None:
    config = config_of(dataset, masks_a=dataset / "masks")
    pictures = open_training_sets(config, seed=0)
    seen = 0
    for batch in training_batches(pictures, config, epoch=0, workers=2):
        assert set(batch) == {"a", "b", "mask_a"}
        assert batch["mask_a"].shape == (2, 1, 32, 32)
        red, mask = (batch["a"][:, 0] + 1) / 2, batch["mask_a"][:, 0]
        assert (mask[red < 0.1] < 0.1).all()  # black where nothing may change
        assert mask.sum() > 0.5 * red.sum()  # and not elsewhere; the soft edge lies inside
        assert mask.max() == 1
        seen += len(mask)
    assert seen == 6


def test_what_changes_outside_a_mask_costs_and_inside_does_not() -> None:
    config = TrainConfig(feature_weight=0.0, background_weight=4.0, ndf=2)
    networks = build_method(config)
    real = {d: torch.zeros(1, 3, 8, 8) for d in "ab"} | {"mask_a": torch.zeros(1, 1, 8, 8)}
    real["mask_a"][..., :4] = 1
    inside, outside = torch.zeros(2, 1, 3, 8, 8)
    inside[..., :4] = 0.5
    outside[..., 4:] = 0.5
    for fake, cost in ((inside, 0.0), (outside, 4 * 0.25)):
        losses = networks.background_losses(real, {"a": fake, "b": fake}, config)
        assert {name: loss.item() for name, loss in losses.items()} == {"background_a": pytest.approx(cost)}


@pytest.mark.parametrize("method", ["cyclegan", "cut", "fastcut"])
def test_every_method_learns_by_it(method: str) -> None:
    config = TrainConfig(method=method, feature_weight=0.0, ndf=2)  # type: ignore[arg-type]
    networks = build_method(config)
    side = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32).contiguous()
    batch = {"a": side, "b": side, "mask_a": torch.zeros(1, 1, 32, 32)}
    costs = set()
    for seed in range(6):  # FastCUT mirrors its input now and then, by chance
        torch.manual_seed(seed)
        losses, fake = networks.generator_losses(batch, config)
        mirrored = method == "fastcut" and bool((fake["b"] - networks.generators[A_TO_B](side)).abs().max() > 1e-4)
        made = fake["b"].flip(3) if mirrored else fake["b"]
        change = (made - side).abs().mean().item()
        assert losses["background_a"].item() == pytest.approx(config.background_weight * change, rel=1e-4)
        costs.add(round(losses["background_a"].item(), 5))
    assert len(costs) == (2 if method == "fastcut" else 1)


def test_a_picture_without_a_mask_is_named(dataset: Path) -> None:
    (dataset / "masks/below/3.png").unlink()
    config = config_of(dataset, masks_a=dataset / "masks")
    with pytest.raises(DataError, match=r"masks-a: There is no mask .*below.3\.png.*Each picture of .*trainA"):
        open_training_sets(config, seed=0)


def test_masks_that_are_not_there_are_said(dataset: Path) -> None:
    config = config_of(dataset, masks_b=dataset / "nowhere")
    with pytest.raises(UsageError, match="There is no mask"):
        open_training_sets(config, seed=0)


def test_one_mask_serves_all(dataset: Path) -> None:
    one = dataset / "one.png"
    cv2.imwrite(str(one), np.full((10, 10), 255, np.uint8))
    config = config_of(dataset, masks_b=one)
    assert find_training_masks(config, "b", [dataset / "trainB/0.png", dataset / "elsewhere.png"]) == [one, one]
    assert find_training_masks(config, "a", [dataset / "trainA/0.png"]) == []
    batch = next(iter(training_batches(open_training_sets(config, seed=0), config, epoch=0)))
    assert batch["mask_b"].min() == 1


def test_a_picture_with_the_mask_of_another_is_named(dataset: Path) -> None:
    cv2.imwrite(str(dataset / "masks" / "0.png"), np.zeros((20, 40), np.uint8))
    config = config_of(dataset, masks_a=dataset / "masks")
    sets = open_training_sets(config, seed=0)
    list(training_batches(sets, config, epoch=0))
    assert "trainA/0.png: The mask is 40x20" in sets.unreadable[dataset / "trainA/0.png"]


def test_recolouring_changes_the_subject_and_nothing_else(dataset: Path) -> None:
    plain, changed = (
        next(training_batches(open_training_sets(config, seed=0), config, epoch=0))
        for config in (config_of(dataset, masks_a=dataset / "masks", recolour=part, batch_size=6) for part in (0, 0.99))
    )
    assert torch.equal(plain["mask_a"], changed["mask_a"])
    assert torch.equal(plain["b"], changed["b"])  # it has no masks
    subject = plain["mask_a"].expand_as(plain["a"])
    assert torch.equal(plain["a"][subject == 0], changed["a"][subject == 0])
    assert (plain["a"] != changed["a"]).flatten(1).any(dim=1).all()


def test_most_recoloured_subjects_are_lighter_and_grayer() -> None:
    brown = torch.tensor([120, 80, 50], dtype=torch.uint8).expand(8, 8, 3)
    mask = torch.full((8, 8, 1), 255, dtype=torch.uint8)
    made = [recolour(brown, mask, np.random.default_rng(seed)).int().numpy() for seed in range(40)]
    lighter = [pixels for pixels in made if pixels.mean() > brown.float().mean()]
    assert 20 <= len(lighter) < 40
    assert all(np.ptp(pixels, axis=2).max() < 70 for pixels in lighter)
    assert max(pixels.min() for pixels in lighter) > 200  # the shadows of a white coat are pale
    assert torch.equal(recolour(brown, 0 * mask, np.random.default_rng(0)), brown)


def test_opacity_is_no_colour() -> None:
    random = np.random.default_rng
    mask = torch.full((8, 8, 1), 255, dtype=torch.uint8)
    seen = torch.tensor([90, 200, 200, 60], dtype=torch.uint8).expand(8, 8, 4)
    made = recolour(seen, mask, random(3))
    assert torch.equal(made[..., :3], recolour(seen[..., :3], mask, random(3)))
    assert torch.equal(made[..., 3:], seen[..., 3:])


def test_edges_of_a_recoloured_subject_are_narrower_now_and_then() -> None:
    gray = torch.full((8, 8, 3), 128.0)
    mask = torch.full((8, 8, 1), 128, dtype=torch.uint8)
    shares = []
    for seed in range(20):
        whole, half = (
            recolour(gray, m, np.random.default_rng(seed)) - gray for m in (torch.full_like(mask, 255), mask)
        )
        shares.append(float(half.mean() / whole.mean()))
    assert 0.05 < min(shares) < 0.2 and 0.4 < max(shares) <= 0.51


@pytest.mark.parametrize("method", ["cyclegan", "cut", "fastcut", "pix2pix"])
def test_judges_see_the_background_of_the_source_if_asked_to(method: str) -> None:
    side = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32).contiguous()
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 4:20] = 1
    batch = {"a": side, "b": torch.zeros_like(side), "mask_a": mask}
    for composite in (True, False):
        small: dict[str, Any] = {"method": method, "gen_net": "resnet_6blocks", "ngf": 2, "ndf": 2}
        config = TrainConfig(**small, feature_weight=0.0, composite=composite)
        networks = build_method(config)
        for seed in range(4 if method == "fastcut" else 1):  # it mirrors its input now and then, by chance
            torch.manual_seed(seed)
            losses, judged = networks.generator_losses(batch, config)
            ways = [(judged["b"], mask, side), (judged["b"], mask.flip(3), side.flip(3))]
            kept = [not ((pictures - its) * (1 - where)).any() for pictures, where, its in ways]
            changed = [bool(((pictures - its) * where).any()) for pictures, where, its in ways]
            assert any(kept) == composite
            assert all(changed)
            assert losses["background_a"] > 0, "what the generator itself paints there costs"


def test_backgrounds_of_other_channels_are_not_put_back(dataset: Path) -> None:
    with pytest.raises(UsageError, match="omit composite"):
        config_of(dataset, masks_a=dataset / "masks", input_channels=1, composite=True)
