"""Settings of training for larger pictures, longer runs and other discriminators."""

from __future__ import annotations

import copy
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_networks import patch_discriminator, randomise
from runs import assert_equal_to_the_bit, config_of, make_dataset, make_recipe, weights_of
from shell import invoke

from cgpipe.data.cache import PictureCache
from cgpipe.data.dataset import open_training_sets
from cgpipe.data.unpaired import TrainingPictures, training_batches
from cgpipe.errors import CgpipeWarning, DataError, TrainingError, UsageError
from cgpipe.evaluation.watch import Watch
from cgpipe.models import Model, load_model, save_model
from cgpipe.models.zoo import SHIPPED_FOLDER
from cgpipe.networks import build_generator
from cgpipe.networks.initialise import initialise
from cgpipe.training.config import TrainConfig, load_config
from cgpipe.training.device_plan import plan_device
from cgpipe.training.discriminator import Discriminator
from cgpipe.training.distill_config import load_distill_config
from cgpipe.training.methods.cut import CUT
from cgpipe.training.recompute import recompute_activations
from cgpipe.training.trainer import Trainer, train


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return make_recipe(tmp_path / "recipe.toml", make_dataset(tmp_path / "dataset"))


def noise(count: int, side: int = 32) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {domain: torch.rand(count, 3, side, side, generator=random) * 2 - 1 for domain in ("a", "b")}


# -- gradient accumulation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cyclegan", "pix2pix"])
@pytest.mark.parametrize("norm", ["instance", "none"])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(recipe: Path, tmp_path: Path, method: str, norm: str) -> None:
    batch, gradients, losses = noise(4), [], []
    for parts in (1, 4):
        run = tmp_path / f"run{parts}"
        settings = {"method": method, "norm": norm, "batch_size": 4, "pool_size": 0, "stages": ()}
        trainer = Trainer(config_of(recipe, run, **settings, accumulate=parts))
        trainer.method.double()
        trainer.averages.double()
        trainer.step = 1
        losses.append(trainer.train_step({domain: pictures.double() for domain, pictures in batch.items()}))
        named = trainer.method.named_parameters()
        gradients.append({name: w.grad.clone() for name, w in named if w.grad is not None})
    for name, gradient in gradients[0].items():
        difference = (gradients[1][name] - gradient).abs().max()
        assert difference <= 1e-5 * gradient.abs().max() + 1e-9, name  # losses are computed in fp32
    assert {name: pytest.approx(float(loss)) for name, loss in losses[0].items()} == losses[1]


def test_parts_must_divide_the_batch(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A batch of 2 cannot be divided into 3 equal parts"):
        config_of(recipe, tmp_path / "run", accumulate=3)


# -- activation checkpointing ------------------------------------------------------------------------------------------


def kept_bytes(network: torch.nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Bytes that a forward pass keeps for the backward pass, and what it made."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = network(x)
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    return sum(size for place, size in kept.items() if place not in weights), y


@pytest.mark.parametrize(
    ("name", "settings", "side", "share"),
    [
        ("resnet_6blocks", {"ngf": 8, "dropout": True}, 64, 0.6),
        ("compact", {}, 64, 0.7),
        ("unet_128", {"ngf": 8, "dropout": True}, 128, 0.8),
    ],
)
def test_recomputed_activations_give_the_same_gradients_from_less_memory(
    name: str, settings: dict[str, Any], side: int, share: float
) -> None:
    torch.manual_seed(0)
    plain = build_generator(name, **settings)
    initialise(plain)
    frugal = copy.deepcopy(plain)
    recompute_activations(frugal)
    x, kept, made = noise(1, side)["a"], [], []
    for network in (plain, frugal):
        torch.manual_seed(5)  # dropout
        size, y = kept_bytes(network, x)
        kept.append(size)
        made.append(y.detach())
        (y * y).sum().backward()
    assert torch.equal(*made)
    for (key, one), other in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=key)
    assert kept[1] < share * kept[0], kept
    assert plain.state_dict().keys() == frugal.state_dict().keys()


def test_a_run_with_recomputed_activations_learns_the_same(recipe: Path, tmp_path: Path) -> None:
    plain, frugal = tmp_path / "plain", tmp_path / "frugal"
    for run, wanted in ((plain, False), (frugal, True)):
        train(config_of(recipe, run, steps=2, activation_checkpointing=wanted))
    assert_equal_to_the_bit(weights_of(plain), weights_of(frugal))
    with pytest.raises(UsageError, match="batch norm would count"):
        config_of(recipe, plain, activation_checkpointing=True, norm="batch")


# -- discriminators ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("scales", [1, 2, 3])
def test_discriminators_have_any_depth_and_look_at_several_scales(layers: int, scales: int) -> None:
    settings = TrainConfig(dis_layers=layers, dis_scales=scales, ndf=4, feature_weight=0.0)
    torch.manual_seed(0)
    network, picture = Discriminator(settings, None).requires_grad_(False), torch.rand(1, 3, 128, 128)
    maps = network(picture)
    assert [weight for weight, _ in maps] == [1.0] * scales
    sides = [logits.shape[2] for _, logits in maps]
    assert sides == [128 // 2 ** (layers + scale) - 2 for scale in range(scales)]
    # A change of one pixel's detail that the halved picture does not show is seen at full size alone.
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(64, 64) * 0.2
    changed = [float((a - b).abs().max()) for (_, a), (_, b) in zip(maps, network(picture + checks), strict=True)]
    assert all(change < 0.35 * changed[0] for change in changed[1:])


def test_a_discriminator_that_is_too_deep_for_the_crop_is_refused_at_once(recipe: Path, tmp_path: Path) -> None:
    for wrong in ({"dis_layers": 5}, {"dis_scales": 2}):
        with pytest.raises(UsageError, match=r"need crops of \d+ pixels, not of 32"):
            config_of(recipe, tmp_path / "run", **wrong)


def test_a_run_with_two_scales_trains_and_another_number_cannot_resume_it(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"dis_scales": 2, "dis_layers": 2, "steps": 1}
    train(config_of(recipe, run, **settings))
    assert any(name.startswith("networks.discriminator_a.coarser.0") for name in weights_of(run))
    with pytest.raises(TrainingError, match="dis_scales = 2, not 1"):
        train(config_of(recipe, run, **settings | {"dis_scales": 1, "steps": 2}), resume=True)


def test_a_run_can_start_with_the_discriminators_of_another(recipe: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(config_of(recipe, first, steps=1))
    trainer = Trainer(config_of(recipe, tmp_path / "second", init_discriminators=first, seed=7))
    kept = weights_of(first, ("networks",))
    for name, weight in trainer.method.named_parameters():
        if weight.ndim == 1:  # biases begin with 0
            continue
        assert torch.equal(weight, kept[f"networks.{name}"]) == name.startswith("discriminator"), name
    with pytest.raises(TrainingError, match="differ from those of this run: set the same"):
        Trainer(config_of(recipe, tmp_path / "third", init_discriminators=first, ndf=16))
    with pytest.raises(TrainingError, match=r"has no state\.pt"):
        Trainer(config_of(recipe, tmp_path / "fourth", init_discriminators=tmp_path / "dataset"))
    train(config_of(recipe, tmp_path / "one-sided", method="cut", steps=1))
    with pytest.raises(TrainingError, match="no discriminator of domain A"):
        Trainer(config_of(recipe, tmp_path / "fifth", init_discriminators=tmp_path / "one-sided"))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """The folder of a run of pytorch-CycleGAN-and-pix2pix, as far as discriminators go."""
    folder = tmp_path / "summer2winter"
    folder.mkdir()
    for seed, name in enumerate(("latest_net_D_A", "latest_net_D_B", "5_net_D_A")):
        torch.save(randomise(patch_discriminator(ndf=8), seed).state_dict(), folder / f"{name}.pth")
    return folder


def first_weights(file: Path) -> torch.Tensor:
    weights: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return weights["model.0.weight"]


def test_discriminators_of_the_reference_go_to_the_domain_that_they_looked_at(
    recipe: Path, tmp_path: Path, checkpoints: Path
) -> None:
    trainer = Trainer(config_of(recipe, tmp_path / "run", init_discriminators=checkpoints))
    for domain, letter in (("a", "B"), ("b", "A")):
        file = checkpoints / f"latest_net_D_{letter}.pth"
        weights = trainer.method.get_parameter(f"discriminator_{domain}.pixels.0.weight")
        assert torch.equal(weights, first_weights(file))
        assert f"The discriminator of domain {domain.upper()} starts as {file}." in trainer.notices
    for place, method, direction, letter in (
        (checkpoints, "cut", "AtoB", "A"),
        (checkpoints, "cut", "BtoA", "B"),
        (checkpoints / "latest_net_D_B.pth", "cut", "AtoB", "B"),
    ):
        settings = {"method": method, "direction": direction, "init_discriminators": place}
        (network,) = Trainer(config_of(recipe, tmp_path / "run", **settings)).method.discriminators.values()
        expected = first_weights(checkpoints / f"latest_net_D_{letter}.pth")
        assert torch.equal(network.get_parameter("pixels.0.weight"), expected)


def test_the_discriminator_of_pix2pix_looks_at_input_and_output(recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "latest_net_D.pth"
    torch.save(randomise(patch_discriminator(ndf=8, channels=6)).state_dict(), file)
    settings = {"init_discriminators": tmp_path, "norm": "instance", "direction": "BtoA"}
    trainer = Trainer(config_of(recipe, tmp_path / "run", method="pix2pix", **settings))
    assert torch.equal(trainer.method.get_parameter("discriminator_a.pixels.0.weight"), first_weights(file))
    with pytest.raises(TrainingError, match="looks at 6 channels"):
        Trainer(config_of(recipe, tmp_path / "run", method="cut", **settings))


def test_discriminators_of_the_reference_that_do_not_fit_say_what_would(
    recipe: Path, tmp_path: Path, checkpoints: Path
) -> None:
    options = ["train", "--config", recipe, "--checkpoint-dir", tmp_path / "run", "--no-publish"]
    refused = invoke(*options, "--init-discriminators", checkpoints, "--ndf", 16, "--feature-weight", 0.5)
    needed = "--dis-net n_layers --dis-layers 3 --dis-scales 1 --ndf 8 --norm instance --feature-weight 0"
    assert (refused.exit_code, needed in refused.output) == (1, True)
    one = invoke(*options, "--init-discriminators", checkpoints / "latest_net_D_A.pth")
    assert one.exit_code == 1 and "is one discriminator, and this run has 2" in one.output
    (checkpoints / "latest_net_D_A.pth").rename(checkpoints / "4_net_D_A.pth")
    several = invoke(*options, "--init-discriminators", checkpoints)
    assert several.exit_code == 1 and "2 files *_net_D_A.pth, and none is called latest" in several.output
    (checkpoints / "latest_net_D_B.pth").unlink()
    missing = invoke(*options, "--init-discriminators", checkpoints)
    assert missing.exit_code == 1 and "has no latest_net_D_B.pth, the discriminator of domain A" in missing.output


# -- early stopping ----------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """KIDs that the next measurements find, in order."""
    values: list[float] = []
    monkeypatch.setattr(Watch, "_evaluator", lambda *_: None)
    monkeypatch.setattr(Watch, "_figures", lambda *_: {"kid_x1000": values.pop(0)})
    return values


def test_a_run_ends_when_its_models_no_longer_get_better(recipe: Path, tmp_path: Path, measured: list[float]) -> None:
    run = tmp_path / "run"
    settings = {"watch_every": 1, "method": "cut", "epochs": 1, "decay_epoch": 1}
    config = config_of(recipe, run, **settings, patience=2)
    measured += [9.0, 7.0, 8.0, 6.0, 6.5, 7.5, 1.0]
    report = train(config)
    assert (report.stopped_early, report.finished, report.step) == (True, True, 6)
    assert measured == [1.0]
    again = train(config, resume=True)
    assert (again.step, again.stopped_early) == (6, True)
    measured += [5.0] * 20
    more = train(config_of(recipe, run, **settings), resume=True)
    assert more.finished and not more.stopped_early and more.step == 8


def test_measurements_without_progress_are_remembered_by_a_resumed_run(
    recipe: Path, tmp_path: Path, measured: list[float]
) -> None:
    run = tmp_path / "run"
    measured += [3.0, 4.0]
    train(config_of(recipe, run, watch_every=1, method="cut", patience=3, steps=2))
    measured += [5.0, 5.5]
    report = train(config_of(recipe, run, watch_every=1, method="cut", patience=3, steps=6), resume=True)
    assert (report.stopped_early, report.step) == (True, 4)


def test_the_command_says_why_a_run_ended_and_what_patience_needs(
    recipe: Path, tmp_path: Path, measured: list[float]
) -> None:
    measured += [1.0, 2.0]
    options = ("train", "--config", recipe, "--checkpoint-dir", tmp_path / "run", "--no-publish", "--method", "cut")
    options += ("--results-dir", tmp_path / "results", "--watch-every", 1)
    result = invoke(*options, "--patience", 1)
    assert result.exit_code == 0 and "Stopped early" in result.output and "at step 2" in result.output
    with pytest.raises(UsageError, match="patience counts measurements"):
        config_of(recipe, tmp_path / "run", patience=1)


@pytest.mark.parametrize("method", ["cyclegan", "pix2pix"])
def test_what_is_missing_to_measure_on_is_said_before_the_first_step(recipe: Path, tmp_path: Path, method: str) -> None:
    test, run = tmp_path / "dataset" / "testB", tmp_path / "run"
    test.rename(tmp_path / "elsewhere")
    options = ("train", "--config", recipe, "--method", method, "--no-publish", "--steps", 2, "--watch-every", 100000)
    options += ("--checkpoint-dir", run, "--results-dir", run / "results")
    missing = invoke(*options)
    assert missing.exit_code == 2 and f"There is no folder {test}." in missing.output and "--test-b" in missing.output
    assert "--watch-every needs test pictures: add them, or train without it." in missing.output
    test.mkdir()
    empty = invoke(*options, "--patience", 3)
    assert (empty.exit_code, "holds no pictures" in empty.output) == (1, True)
    assert not [path for path in run.glob("*") if not path.name.startswith(".")]


def test_one_picture_is_too_few_to_measure_on(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset" / "testA" / "1.png").unlink()
    with pytest.raises(DataError, match="testA holds one picture"):
        train(config_of(recipe, tmp_path / "run", watch_every=100000))


# -- initial weights and PatchNCE --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [("normal", 0.3), ("xavier", 0.3 * (2 / (16 * 9 + 16 * 9)) ** 0.5), ("kaiming", (2 / (16 * 9)) ** 0.5)],
)
def test_initial_weights_have_the_scale_of_their_kind(kind: Any, deviation: float) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 16, 3)
    initialise(conv, kind=kind, gain=0.3)
    assert conv.weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert conv.bias is not None and not conv.bias.any()


def test_orthogonal_weights_are_and_a_run_takes_the_kind_from_its_recipe(recipe: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(16, 16, 3)
    initialise(conv, kind="orthogonal", gain=0.5)
    rows = conv.weight.flatten(1)
    torch.testing.assert_close(rows @ rows.T, 0.25 * torch.eye(16), atol=1e-5, rtol=0)
    wide = Trainer(config_of(recipe, tmp_path / "run", init_gain=0.2)).method.generators
    first = next(iter(next(iter(wide.values())).parameters()))
    assert first.std().item() == pytest.approx(0.2, rel=0.1)


def test_layers_and_patches_of_the_contrastive_loss_can_be_named(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(config_of(recipe, tmp_path / "run", method="cut", nce_layers="0,2", nce_patches=5))
    method = trainer.method
    assert isinstance(method, CUT)
    seen: list[tuple[int, ...]] = []
    projection = method.projection.forward
    monkeypatch.setattr(
        method.projection, "forward", lambda f, places: seen.append(tuple(map(len, places))) or projection(f, places)
    )
    loss = method.nce_loss(noise(2)["a"], noise(2)["b"])
    assert loss.isfinite() and seen[0] == (5, 5) and len(method.projection.heads) == 2
    for wrong, message in (("0,x", "nce_layers takes numbers"), ("9", "numbers up to 2 with compact-flat")):
        with pytest.raises(UsageError, match=message):
            Trainer(config_of(recipe, tmp_path / "run", method="cut", nce_layers=wrong))


# -- decoded pictures and workers --------------------------------------------------------------------------------------


def test_a_cache_keeps_what_fits_and_gives_it_back_unchanged() -> None:
    cache = PictureCache(4, 1000)
    small = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    fine = np.linspace(0, 255, 75, dtype=np.float32).reshape(5, 5, 3)
    cache.put(1, small)
    cache.put(3, fine)
    cache.put(0, np.zeros((20, 20, 3), np.uint8))  # no longer fits
    cache.put(2, small[:, ::-1])
    found = [cache.get(number) for number in range(4)]
    assert found[0] is None and all(picture is not None for picture in found[1:])
    for picture, wanted in zip(found[1:], (small, small[:, ::-1], fine), strict=True):
        assert picture is not None and picture.dtype == wanted.dtype
        np.testing.assert_array_equal(picture, wanted)
    assert PictureCache(4, 0).get(1) is None and pickle.loads(pickle.dumps(cache)).get(1) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_are_read_once_and_shown_the_same(
    recipe: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if workers and not hasattr(os, "fork"):
        pytest.skip("processes that are not forked have no cache")
    config = config_of(recipe, tmp_path / "run")
    cached, plain = (open_training_sets(config_of(recipe, tmp_path, cache_mb=mb), seed=0) for mb in (1, 0))
    list(training_batches(cached, config, epoch=0, workers=workers))
    expected = list(training_batches(plain, config, epoch=1))
    monkeypatch.setattr(TrainingPictures, "_read", None)  # nothing is read again
    for batch, wanted in zip(training_batches(cached, config, epoch=1, workers=workers), expected, strict=True):
        assert all(torch.equal(batch[name], wanted[name]) for name in wanted)


def test_workers_are_as_many_as_the_machine_can_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_device("-1", "fp32")
    assert (plan.loaders(-1), plan.loaders(0), plan.loaders(3)) == (0, 0, 3)
    object.__setattr__(plan, "device", torch.device("cuda"))
    for cores, wanted in ((1, 1), (4, 3), (64, 8), (None, 1)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert plan.loaders(-1) == wanted
    assert plan.loaders(20) == 20


def test_the_recipe_of_the_paper_has_its_values() -> None:
    """arXiv 1703.10593, section 4 and 7.1, and its authors' code."""
    config = load_config(Path(__file__).parent.parent / "train" / "cyclegan-paper.toml", {})
    values = {
        **{"gen_net": "resnet_9blocks", "ngf": 64, "norm": "instance", "init_type": "normal", "init_gain": 0.02},
        **{"dis_net": "n_layers", "dis_layers": 3, "dis_scales": 1, "ndf": 64, "feature_weight": 0.0},
        **{"gan_loss": "lsgan", "lamda": 10.0, "idt_coef": 0.5, "pool_size": 50, "stages": ()},
        **{"lr": 2e-4, "beta1": 0.5, "beta2": 0.999, "batch_size": 1, "ema": 0.0, "epochs": 200, "decay_epoch": 100},
        **{"load_height": 286, "load_width": 286, "load_min": 0, "crop_height": 256, "crop_width": 256, "flip": True},
        **{"moment_weight": 0.0, "motion_weight": 0.0, "alias_weight": 0.0, "label_smoothing": 0.0},
        **{"diffaugment": "", "dropout": False},
    }
    assert {name: getattr(config, name) for name in values} == values


def test_a_dataset_names_the_domains_and_the_folders_of_a_run(tmp_path: Path) -> None:
    config = load_config(None, {"dataset_dir": Path("sets/cats2dogs")})
    places = (Path("checkpoints/cats2dogs"), Path("results/cats2dogs"))
    assert (config.source, config.target, config.checkpoint_dir, config.results_dir) == ("cats", "dogs", *places)
    assert config.stages == TrainConfig.stages
    config = load_config(None, {"dataset_dir": Path("sets/cats2dogs"), "source": "lions", "checkpoint_dir": tmp_path})
    assert (config.source, config.target, config.checkpoint_dir) == ("lions", "dogs", tmp_path)
    config = load_config(None, {"dataset_dir": tmp_path, "source": "a", "target": "b"})
    assert (config.checkpoint_dir, config.results_dir) == (Path("checkpoints/a2b"), Path("results/a2b"))
    with pytest.warns(CgpipeWarning, match="called horse and zebra: name yours"):
        load_config(None, {"dataset_dir": tmp_path})
    with pytest.warns(CgpipeWarning, match="One domain is not named, and is called zebra: name yours with --target"):
        load_config(None, {"dataset_dir": tmp_path, "source": "a"})


def test_a_run_has_the_parts_of_what_it_starts_with(tmp_path: Path) -> None:
    signed = {"init_a_to_b": "photo2monet", "gen_net": "compact"}
    assert load_config(None, signed).gen_settings == {"signed_skip": True}
    assert load_config(None, signed | {"gen_settings": {"padding": "reflect"}}).gen_settings["signed_skip"] is True
    assert load_config(None, signed | {"init_a_to_b": "monet2photo"}).gen_settings == {}
    assert load_config(None, signed | {"gen_net": "resnet_9blocks"}).gen_settings == {}
    attending = build_generator("compact", attention=True)
    file = tmp_path / "attending.safetensors"
    card = load_model(SHIPPED_FOLDER / "zebra2horse.safetensors").card
    save_model(file, Model(replace(card, settings={"attention": True}), attending))
    both = load_config(None, signed | {"init_b_to_a": str(file)})
    assert both.gen_settings == {"signed_skip": True, "attention": True}
    student = load_distill_config(None, {"teacher": "x", "dataset_dir": tmp_path, "init": "horse2zebra-fast"})
    assert student.student_settings == {"signed_skip": True, "attention": True}
