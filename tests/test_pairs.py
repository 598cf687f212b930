"""Training on pairs: which pictures belong together, pix2pix, and how close translations come to their partners."""

from __future__ import annotations

import json
import math
import re
import runpy
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from runs import assert_equal_to_the_bit, config_of, logged, make_recipe, weights_of
from shell import invoke

from cgpipe.data.dataset import open_training_sets
from cgpipe.data.pairs import find_pairs
from cgpipe.data.pictures import Half
from cgpipe.data.settings import DataSettings
from cgpipe.data.unpaired import training_batches
from cgpipe.errors import DataError, TrainingError, UsageError
from cgpipe.evaluation.paired import PairedEvaluator, l1_distance, psnr, ssim
from cgpipe.models import load_model
from cgpipe.training.config import TrainConfig, load_config
from cgpipe.training.trainer import Trainer, train

TRAIN = Path(__file__).parent.parent / "train"
PAIRED = {"method": "pix2pix", "stages": []}


def draw(path: Path, *, height: int = 8, width: int = 8, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), value, np.uint8))
    return path


def inverted(root: Path, counts: tuple[int, int] = (12, 4), *, side: int = 40) -> Path:
    """Pairs of noise and its negative."""
    noise = np.random.default_rng(0)
    for split, count in zip(("train", "test"), counts, strict=True):
        for place in "AB":
            (root / f"{split}{place}").mkdir(parents=True)
        for index in range(count):
            pixels = noise.integers(0, 255, (side // 8, side // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            cv2.imwrite(str(root / f"{split}A" / f"{index}.png"), pixels)
            cv2.imwrite(str(root / f"{split}B" / f"{index}.png"), 255 - pixels)
    return root


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return inverted(tmp_path / "pairs")


@pytest.fixture
def recipe(tmp_path: Path, pairs: Path) -> Path:
    return make_recipe(tmp_path / "recipe.toml", pairs, **PAIRED)


# -- which pictures are pairs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("x.png", "x.png"),
        ("x.png", "x.jpg"),
        ("y/x.png", "y/x.png"),
        ("1_A.jpg", "1_B.jpg"),
        ("x_A.png", "x.png"),
    ],
)
def test_partners_have_the_same_name(tmp_path: Path, a: str, b: str) -> None:
    draw(tmp_path / "A" / a)
    draw(tmp_path / "A" / "alone.png")
    draw(tmp_path / "B" / b)
    found = find_pairs(tmp_path / "A", tmp_path / "B")
    assert found[:2] == ([tmp_path / "A" / a], [tmp_path / "B" / b])
    assert list(found.alone) == [tmp_path / "A" / "alone.png"]


def test_the_most_exact_name_decides_and_one_that_two_have_decides_nothing(tmp_path: Path) -> None:
    for name in ("A/x.png", "A/y.png", "A/y.jpg", "B/x.jpg", "B/x.png", "B/y.webp"):
        draw(tmp_path / name)
    found = find_pairs(tmp_path / "A", tmp_path / "B")
    assert found[:2] == ([tmp_path / "A" / "x.png"], [tmp_path / "B" / "x.png"])
    assert {path.name for path in found.alone} == {"y.png", "y.jpg", "x.jpg", "y.webp"}


def test_lists_are_pairs_by_line(tmp_path: Path) -> None:
    for name in ("p.png", "q.png", "r.png"):
        draw(tmp_path / name)
    (tmp_path / "a.txt").write_text("q.png\np.png\n")
    (tmp_path / "b.txt").write_text("r.png\nq.png\n")
    assert [path.name for path in find_pairs(tmp_path / "a.txt", tmp_path / "b.txt").b] == ["r.png", "q.png"]
    (tmp_path / "b.txt").write_text("r.png\n")
    with pytest.raises(DataError, match=r"names 2 pictures and .* 1: the same line"):
        find_pairs(tmp_path / "a.txt", tmp_path / "b.txt")


def test_folders_without_a_pair_are_refused_with_names_of_both(tmp_path: Path) -> None:
    draw(tmp_path / "A" / "horse.png")
    draw(tmp_path / "B" / "zebra.png")
    with pytest.raises(DataError, match=r"horse\.png .*zebra\.png"):
        find_pairs(tmp_path / "A", tmp_path / "B")


@pytest.mark.parametrize("named", [False, True])
def test_halves_of_pictures_side_by_side_are_pairs(tmp_path: Path, named: bool) -> None:
    root = tmp_path / "facades"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        both = np.concatenate([np.full((16, 16, 3), 50, np.uint8), np.full((16, 16, 3), 200, np.uint8)], axis=1)
        cv2.imwrite(str(root / split / "1.png"), both)
    places: dict[str, Any] = {"pairs": root / "train", "test_pairs": root / "val"} if named else {"dataset_dir": root}
    sizes: dict[str, Any] = {"load_height": 16, "load_width": 16, "load_min": 0, "crop_height": 8, "crop_width": 8}
    settings = DataSettings(**places, **sizes, batch_size=1)
    sets = open_training_sets(settings, seed=0, paired=True)
    assert sets.files == {"a": [Half(root / "train" / "1.png")], "b": [Half(root / "train" / "1.png", right=True)]}
    (batch,) = training_batches(sets, settings, epoch=0)
    assert [round(float(batch[domain].mean() * 127.5 + 127.5)) for domain in ("a", "b")] == [50, 200]


def test_pairs_are_drawn_cropped_and_flipped_together(pairs: Path) -> None:
    config = TrainConfig(dataset_dir=pairs, load_height=40, load_width=40, load_min=34, crop_height=32, crop_width=32)
    sets = open_training_sets(config, seed=3, paired=True)
    shown = list(training_batches(sets, config, epoch=0))
    for batch in shown:
        torch.testing.assert_close(batch["a"], -batch["b"], atol=0.02, rtol=0)
    crops = torch.cat([batch["a"] for batch in shown])
    assert len({tuple(crop.flatten()[:50].tolist()) for crop in crops}) == len(crops)
    unpaired = next(training_batches(open_training_sets(config, seed=3), config, epoch=0))
    assert (unpaired["a"] + unpaired["b"]).abs().mean() > 0.2


def test_partners_of_another_size_get_the_same_crop(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 80).astype(np.uint8)
    for name, width in (("trainA", 80), ("trainB", 40)):
        (tmp_path / name).mkdir()
        row = cv2.resize(ramp[None], (width, 1), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(tmp_path / name / "x.png"), np.repeat(row, width // 2, 0)[..., None].repeat(3, 2))
    sizes: dict[str, Any] = {"load_height": 40, "load_width": 80, "crop_height": 32, "crop_width": 32, "load_min": 32}
    for preprocess in ("resize_and_crop", "scale_width_and_crop", "crop"):
        settings = DataSettings(dataset_dir=tmp_path, preprocess=preprocess, batch_size=1, **sizes)
        (batch,) = training_batches(open_training_sets(settings, seed=0, paired=True), settings, epoch=0)
        torch.testing.assert_close(batch["a"], batch["b"], atol=0.05, rtol=0)


def test_what_is_no_pair_is_named_and_the_rest_trains(recipe: Path, pairs: Path, tmp_path: Path) -> None:
    draw(pairs / "trainA" / "lonely.png")
    draw(pairs / "trainA" / "wide.png", height=40, width=80)
    draw(pairs / "trainB" / "wide.png", height=40, width=40)
    (pairs / "trainB" / "3.png").write_bytes(b"broken")
    run = tmp_path / "run"
    result = invoke(
        *("train", "--config", recipe, "--checkpoint-dir", run, "--results-dir", run / "results"),
        *("--no-publish", "--epochs", 1, "--decay-epoch", 1),
    )
    assert result.exit_code == 0
    for words in ("lonely.png: ", "wide.png (?:.|\n)*40x40", r"3\.png", "excluded from training: 3"):
        assert re.search(words, result.output), (words, result.output)


# -- pix2pix -----------------------------------------------------------------------------------------------------------


def test_the_discriminator_sees_the_input_and_the_l1_weight_is_a_hundred(recipe: Path, tmp_path: Path) -> None:
    trainer = Trainer(config_of(recipe, tmp_path / "run"))
    method, batch = trainer.method, next(trainer.batches())
    first = next(weight for weight in method.discriminators["b"].parameters() if weight.ndim == 4)
    assert first.shape[1] == 6
    losses, fake = method.generator_losses(batch, trainer.config)
    distance = (fake["b"] - batch["b"]).abs().mean()
    assert losses["l1_b"].item() == pytest.approx(100 * distance.item(), rel=1e-5)
    assert set(losses) == {"adversarial_b", "l1_b"}
    other = batch | {"a": batch["a"].flip(0)}
    real = method.discriminator_losses(batch, fake)["discriminator_b"]
    assert not torch.equal(real, method.discriminator_losses(other, fake)["discriminator_b"])


@pytest.mark.parametrize("settings", [{"gan_loss": "wgan-gp"}, {"diffaugment": "color,translation,cutout"}])
def test_other_losses_and_augmentations_train_pairs_too(recipe: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    trainer = Trainer(config_of(recipe, tmp_path / "run", **settings))
    losses = [trainer.train_step(batch) for _, batch in zip(range(2), trainer.batches(), strict=False)][-1]
    assert all(math.isfinite(loss) for loss in losses.values())
    assert ("penalty_b" in losses) == ("gan_loss" in settings)


def test_a_run_on_pairs_resumes_to_the_bit_and_names_its_direction(recipe: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings: dict[str, Any] = {"direction": "BtoA", "diffaugment": "translation", "epochs": 2, "decay_epoch": 1}
    train(config_of(recipe, whole, **settings))
    stopped = train(
        config_of(recipe, parts, **settings),
        on_progress=lambda progress: signal.raise_signal(signal.SIGTERM) if progress.step == 7 else None,
    )
    assert stopped.step < 12 and not stopped.finished
    train(config_of(recipe, parts, **settings), resume=True)
    assert_equal_to_the_bit(weights_of(whole), weights_of(parts))
    assert logged(whole)[-1] == logged(parts)[-1]
    assert load_model(whole / "blue2red.safetensors").card.name == "blue2red"
    with pytest.raises(TrainingError, match="method = pix2pix, not cut"):
        train(config_of(recipe, whole, **settings | {"method": "cut"}), resume=True)


def test_the_defaults_are_those_of_the_paper_and_its_recipe_says_so() -> None:
    plain = load_config(None, {"method": "pix2pix"})
    written = load_config(TRAIN / "pix2pix.toml", {"ema": plain.ema})
    assert plain == written
    assert (plain.gen_net, plain.l1_weight, plain.dropout, plain.batch_size) == ("unet_256", 100.0, True, 1)
    assert load_config(None, {"method": "pix2pix", "gen_net": "compact"}).without_effect() == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pairs": "x", "domain_a": "x", "domain_b": "y"}, "named twice"),
        ({"direction": "BtoA", "masks_a": "x"}, "translates no a"),
        ({"gen_net": "unet_128", "gen_settings": {}, "ngf": 2}, "multiples of 128"),
    ],
)
def test_what_does_not_fit_pairs_is_refused(recipe: Path, tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    paths = {name: Path(value) if value in ("x", "y") else value for name, value in wrong.items()}
    with pytest.raises(UsageError, match=message):
        Trainer(config_of(recipe, tmp_path / "run", **paths))


def test_a_few_seconds_of_training_beat_what_needs_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the mean picture of the targets, which is the best that can be made without looking at the outlines."""
    script = runpy.run_path(str(TRAIN / "drawn_outlines.py"))
    monkeypatch.setitem(script["main"].__globals__, "COUNTS", {"train": 60, "test": 12})
    script["main"](tmp_path / "shapes")
    run = tmp_path / "run"
    small: dict[str, Any] = {"ndf": 8, "batch_size": 2, "crop_height": 48, "crop_width": 48}
    small |= {"gen_net": "compact-flat", "gen_settings": {"channels": 32, "blocks": 2}}
    small |= {"dataset_dir": tmp_path / "shapes", "checkpoint_dir": run, "results_dir": run, "publish": False}
    config = load_config(TRAIN / "shapes.toml", {**small, "lr": 2e-3, "steps": 60, "watch_every": 60})
    train(config)
    targets = [cv2.imread(str(path)) for path in sorted((tmp_path / "shapes" / "trainB").iterdir())]
    mean = np.mean(targets, axis=0)
    tests = [cv2.imread(str(path)) for path in sorted((tmp_path / "shapes" / "testB").iterdir())]
    baseline = float(np.mean([np.abs(picture - mean).mean() for picture in tests]))
    (line,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "l1_of" in line]
    assert line["l1_of_255_outline2shape"] < 0.75 * baseline
    assert (run / "outline2shape-best.safetensors").is_file()


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_of_pairs_are_those_of_their_definitions() -> None:
    one = torch.zeros(2, 3, 24, 24)
    other = torch.stack([torch.full((3, 24, 24), 0.2), torch.zeros(3, 24, 24)])
    assert l1_distance(one, other).tolist() == pytest.approx([25.5, 0])
    assert psnr(one, other).tolist() == pytest.approx([20.0, 100.0])
    # Without variance, SSIM is its term of luminance.
    x, y = 0.5, 0.6
    luminance = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)
    assert ssim(one, other).tolist() == pytest.approx([luminance, 1.0], abs=1e-4)
    noise = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert ssim(noise, -noise).item() < 0 < ssim(noise, 0.8 * noise).item() < 1


def test_a_generator_that_knows_the_answer_is_perfect_and_one_that_does_nothing_is_not(pairs: Path) -> None:
    evaluator = PairedEvaluator(pairs / "testA", pairs / "testB", size=40)
    perfect, idle = evaluator.evaluate(lambda x: -x), evaluator.evaluate(lambda x: x)
    assert perfect.l1 < 0.01 and perfect.psnr > 90 and perfect.ssim > 0.999
    assert idle.l1 == pytest.approx(perfect.unchanged_l1) and idle.l1 > 20
    assert (perfect.count, perfect.left_out) == (4, ())


def test_commands_measure_pairs_and_show_the_partners(recipe: Path, pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=1, decay_epoch=1, watch_every=6))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [set(line) >= {"psnr_red2blue", "ssim_red2blue", "l1_of_255_red2blue"} for line in lines].count(True) == 1
    assert "Best PSNR in dB, red2blue" in (run / "run.html").read_text()
    tested = invoke("test", "--checkpoint-dir", run, "--results-dir", tmp_path / "out", "--record")
    assert tested.exit_code == 0 and "| translated |" in tested.output and "4 pairs" in tested.output
    height, _ = cv2.imread(str(tmp_path / "out" / "red2blue-0001.jpg")).shape[:2]
    assert height == 3 * (40 + 4) + 4
    assert load_model(run / "red2blue.safetensors").card.quality["pairs/testA in pairs at 40"]["pairs"] == 4
    draw(pairs / "testA" / "lonely.png")
    draw(pairs / "testA" / "wide.png", height=40, width=80)
    draw(pairs / "testB" / "wide.png", height=40, width=40)
    (pairs / "testB" / "3.png").write_bytes(b"broken")
    model = run / "red2blue.safetensors"
    measured = invoke("evaluate", model, pairs, "--paired", "--size", 40, "-o", tmp_path / "figures")
    assert measured.exit_code == 0
    assert [line.split(": ")[1].split("/")[-1] for line in measured.output.splitlines() if "Left out" in line] == [
        *("lonely.png", "3.png", "wide.png")
    ]
    assert json.loads((tmp_path / "figures" / "figures.json").read_text())["pairs"]["count"] == 3


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are written, but for a step or two on small pictures."""
    page = (TRAIN.parent / "docs" / "training.md").read_text(encoding="utf-8")
    section = page.split("## Pairs\n")[1].split("\n## ")[0].replace("\\\n", " ")
    lines = [shlex.split(line) for line in section.splitlines() if line.startswith("    ")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").symlink_to(TRAIN)
    for name in ("trainA/1_A.png", "trainB/1_B.png", "testA/2_A.png", "testB/2_B.png"):
        draw(tmp_path / "datasets" / "facades" / name, height=16, width=16)
    small = ["--gen-net", "compact-xs", "--dis-layers", "1", "--steps", "2", "--no-publish", "--watch-every", "2"]
    small += [word for side in ("load", "crop") for word in (f"--{side}-height", "16", f"--{side}-width", "16")]
    ran = []
    for program, *words in lines:
        ran.append(words[0])
        if program == "python":
            monkeypatch.setattr(sys, "argv", words)
            runpy.run_path(words[0], run_name="__main__")
        else:
            result = invoke(*words, *small)
            assert result.exit_code == 0, result.output
    assert ran == ["train/drawn_outlines.py", "train", "train"]
    assert "psnr_labels2facade" in (tmp_path / "runs" / "facades" / "metrics.jsonl").read_text()
