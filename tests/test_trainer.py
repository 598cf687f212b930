"""Training runs: small, but real ones."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from runs import RECIPE, assert_equal_to_the_bit, config_of, logged, wait_for_a_save, weights_of
from shell import CGPIPE, invoke

from cgpipe.cli.bar import TrainingBar
from cgpipe.errors import DataError, MissingDependencyError, TrainingError, UsageError
from cgpipe.evaluation.runs import record
from cgpipe.evaluation.runs import test as run_test
from cgpipe.models import find_model, load_model
from cgpipe.networks.compact import CompactGenerator
from cgpipe.training import device_plan
from cgpipe.training.config import TrainConfig
from cgpipe.training.methods.cut import Projection
from cgpipe.training.run import Progress
from cgpipe.training.state import load_state, save_state
from cgpipe.training.trainer import Trainer, train


def test_steps_are_those_of_a_plain_loop(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined passes, tiles and all: in fp64, on the same pictures, from the same weights."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "bench")
    import training_loop

    monkeypatch.setattr("cgpipe.networks.cpu.convolution.MIN_MULTIPLICATIONS", 0)
    config = TrainConfig(
        **{"dataset_dir": dataset, "checkpoint_dir": tmp_path / "run", "results_dir": tmp_path / "results"},
        **{
            "gen_net": "resnet_6blocks",
            "ngf": 16,
            "ndf": 16,
            "feature_weight": 0.0,
            "gpu_ids": "-1",
            "precision": "fp32",
            "stages": (),
        },
        **{"load_height": 40, "load_width": 40, "load_min": 32, "crop_height": 32, "crop_width": 32},
    )
    trainer = Trainer(config)
    trainer.method.double()
    trainer.averages.double()
    plain = copy.deepcopy(trainer.method)
    seen: dict[str, list[torch.Tensor]] = {"a": [], "b": []}
    monkeypatch.setattr(training_loop, "build_method", lambda _: plain)
    monkeypatch.setattr(training_loop, "pictures", lambda folder, *_: iter(seen[folder.name[-1].lower()]))
    for _, batch in zip(range(4), trainer.batches(), strict=False):
        for domain, pictures in batch.items():
            seen[domain].append(pictures.double())
    expected = training_loop.train_plainly(config, 0, torch.device("cpu"))
    trainer.step = 0
    for a, b in zip(seen["a"], seen["b"], strict=True):
        trainer.step += 1
        losses, wanted = trainer.train_step({"a": a, "b": b}), next(expected)
        for kind, loss in wanted.items():
            found = sum(float(value) for name, value in losses.items() if name.startswith(kind))
            assert found == pytest.approx(loss, rel=2e-3), (trainer.step, kind)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_trains_as_a_cpu_does_and_goes_on(recipe: Path, tmp_path: Path, precision: str) -> None:
    gpu, cpu = tmp_path / "gpu", tmp_path / "cpu"
    config = config_of(recipe, gpu, gpu_ids="0", precision=precision)
    assert train(replace(config, epochs=2)).losses.keys() == train(config, resume=True).losses.keys()
    train(config_of(recipe, cpu, gpu_ids="-1"))
    for one, other in zip(logged(gpu)[:3], logged(cpu)[:3], strict=True):
        assert one == pytest.approx(other, rel=0.02 if precision == "fp32" else 0.2)
    for model in (gpu / "red2blue.safetensors", gpu / "blue2red.safetensors"):
        assert load_model(model).generator(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_a_run_leaves_models_samples_and_figures(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    report = train(config_of(recipe, run))
    assert report.finished
    assert report.step == 4 * 8
    assert all(math.isfinite(loss) for loss in report.losses.values())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 33))
    assert {"adversarial_a", "cycle_b", "identity_a", "discriminator_b", "learning_rate"} <= set(lines[0])
    assert lines[15]["learning_rate"] == pytest.approx(2e-4)
    assert lines[-1]["learning_rate"] < lines[20]["learning_rate"] < 2e-4
    assert lines[-1]["cycle_a"] < lines[0]["cycle_a"]
    assert sorted(p.name for p in (run / "results").iterdir()) == ["blue-0000032.jpg", "red-0000032.jpg"]
    assert cv2.imread(str(run / "results" / "red-0000032.jpg")).shape[0] == 3 * 256 + 4 * 4
    card = load_model(run / "red2blue.safetensors").card
    assert (card.source, card.target, card.training_size) == ("red", "blue", 32)
    assert card.made_by["steps"] == 32
    assert card.made_by["recipe"]["lamda"] == 10.0


def test_a_stage_changes_the_loss_when_its_epoch_comes(recipe: Path, tmp_path: Path) -> None:
    trainer = Trainer(config_of(recipe, tmp_path / "run"))
    batch = {domain: torch.rand((2, 3, 32, 32)) * 2 - 1 for domain in "ab"}
    cycle_losses = []
    for epoch in (0, 3):
        losses, _ = trainer.method.generator_losses(batch, trainer.settings_at(epoch))
        cycle_losses.append(losses["cycle_a"].item())
    assert cycle_losses[1] == pytest.approx(cycle_losses[0] / 2)


def test_runs_repeat_by_their_seed(recipe: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        train(config_of(recipe, tmp_path / name, epochs=1, seed=seed))
    assert_equal_to_the_bit(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))
    one, three = weights_of(tmp_path / "one"), weights_of(tmp_path / "three")
    assert any(not torch.equal(one[name], three[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cyclegan", "fastcut"])
def test_a_run_killed_at_random_ends_like_one_that_was_not(recipe: Path, tmp_path: Path, method: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config_of(recipe, whole, epochs=4, method=method, motion_weight=1.0))
    with subprocess.Popen([*CGPIPE, *words(recipe, killed, workers=2, method=method)]) as process:
        wait_for_a_save(process, killed)
        time.sleep(random.Random(0).random() * 0.2)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was to be killed before it was done"
    resumed = invoke(*words(recipe, killed, workers=0, method=method), "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert_equal_to_the_bit(weights_of(whole), weights_of(killed))
    steps = [line["step"] for line in logged(killed)]
    assert steps == list(range(1, 33))


def words(recipe: Path, run: Path, workers: int, method: str) -> list[str]:
    return [
        *("train", "--config", str(recipe), "--workers", str(workers)),
        *("--epochs", "4", "--method", method, "--motion-weight", "1"),
        *("--checkpoint_dir", str(run), "--results-dir", str(run / "results"), "--no-publish"),
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_loses_nothing(recipe: Path, tmp_path: Path, small_disk: Path) -> None:
    whole, run = tmp_path / "whole", small_disk / "run"
    train(config_of(recipe, whole, epochs=2))
    train(config_of(recipe, run, epochs=1))
    before, lines = (run / "state.pt").read_bytes(), (run / "metrics.jsonl").read_text()
    for room, sample_every, refused in (
        (0, 1000, r"recipe\.toml cannot be written"),
        (50_000, 1, r"red-0000009\.jpg cannot be written"),
        (12_000, 1000, r"red2blue\.safetensors cannot be written"),
        (500_000, 1000, r"state could not be saved to .*state\.pt"),
    ):
        (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
        with pytest.raises(TrainingError, match=rf"{refused}: No space left.*last saved state is kept.*--resume"):
            train(config_of(recipe, run, epochs=2, sample_every=sample_every), resume=True)
        assert (run / "state.pt").read_bytes() == before
        assert (run / "metrics.jsonl").read_text().startswith(lines)
        (small_disk / "filler").unlink()
    assert train(config_of(recipe, run, epochs=2), resume=True).finished
    assert_equal_to_the_bit(weights_of(whole), weights_of(run))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "cycle_a" in line] == list(range(1, 17))


def test_models_are_published_where_to_finds_them(recipe: Path, tmp_path: Path, models_folder: Path) -> None:
    train(config_of(recipe, tmp_path / "run", epochs=1, publish=True))
    assert find_model("blue").path == models_folder / "red2blue.safetensors"
    assert find_model("red", source="blue").path == models_folder / "blue2red.safetensors"


def test_a_new_run_does_not_overwrite_another(recipe: Path, tmp_path: Path) -> None:
    train(config_of(recipe, tmp_path / "run", epochs=1))
    with pytest.raises(TrainingError, match="--resume"):
        train(config_of(recipe, tmp_path / "run"))


def test_networks_that_do_not_fit_what_was_saved_are_errors(recipe: Path, tmp_path: Path) -> None:
    train(config_of(recipe, tmp_path / "run", epochs=1))
    for settings in ({"gen_settings": {"channels": 32, "blocks": 2}}, {"norm": "batch"}, {"dis_net": "pixel"}):
        with pytest.raises(TrainingError, match=f"does not fit.* was made with {next(iter(settings))} = "):
            train(config_of(recipe, tmp_path / "run", **settings), resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gen_settings": {"nonsense": 1}}, "no setting|unexpected keyword"),
        ({"gen_net": "nonsense", "gen_settings": {}}, "gen_net 'nonsense' is not one of"),
        ({"dis_net": "nonsense"}, "unknown discriminator 'nonsense'"),
        ({"norm": "nonsense"}, "unknown norm 'nonsense'"),
        ({"gen_net": "unet_128", "gen_settings": {}}, "multiples of 128"),
    ],
)
def test_networks_that_cannot_be_built_are_wrong_usage(
    recipe: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(config_of(recipe, tmp_path / "run", **settings))


@pytest.mark.parametrize("log_every", [2, 1000])
def test_losses_that_explode_stop_the_run_and_keep_the_state(recipe: Path, tmp_path: Path, log_every: int) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=1))
    before = (run / "state.pt").read_bytes()
    with pytest.raises(TrainingError, match=r"exploded.*smaller --lr"):
        train(config_of(recipe, run, epochs=2, lamda=1e9, log_every=log_every), resume=True)
    assert (run / "state.pt").read_bytes() == before


def test_losses_that_are_not_finite_stop_the_run_and_keep_the_state(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=1))
    good = weights_of(run)
    with pytest.raises(TrainingError, match="no longer finite"):
        train(config_of(recipe, run, lr=1e30), resume=True)
    assert_equal_to_the_bit(weights_of(run), good)


def test_without_a_dataset_the_error_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="trainA"):
        train(TrainConfig())
    result = invoke("train")
    assert result.exit_code == 2
    assert "\nError: There is no dataset datasets/horse2zebra." in result.output
    assert "cgpipe data fetch horse2zebra" in result.output


def test_the_test_command_shows_every_picture_and_the_figures(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = config_of(recipe, run, epochs=1)
    train(config)
    with pytest.raises(UsageError, match="multiples of 4, not a size of 62"):
        run_test(config, config.checkpoint_dir, config.results_dir, size=62)
    report = run_test(config, config.checkpoint_dir, config.results_dir, size=64)
    assert [path.name for path in report.grids] == ["red2blue-0001.jpg", "blue2red-0001.jpg"]
    assert all(cv2.imread(str(path)).shape == (3 * 64 + 16, 2 * 64 + 12, 3) for path in report.grids)
    assert {d: e.input_count for d, e in report.evaluations.items()} == {("red", "blue"): 2, ("blue", "red"): 2}
    assert record(config, run, report) == [run / "red2blue.safetensors", run / "blue2red.safetensors"]
    quality = load_model(run / "red2blue.safetensors").card.quality["dataset/testA at 64"]
    assert quality["pictures"] == 2
    assert quality["mean_change_of_255"] == round(report.evaluations["red", "blue"].mean_change, 2)


@pytest.mark.parametrize(("method", "direction"), [("cut", "AtoB"), ("fastcut", "BtoA")])
def test_a_one_sided_run_makes_one_model_and_shows_and_measures_it(
    recipe: Path, tmp_path: Path, models_folder: Path, method: str, direction: str
) -> None:
    run = tmp_path / "run"
    config = config_of(recipe, run, epochs=1, method=method, direction=direction, publish=True, watch_every=8)
    report = train(config)
    (source, target), side = (("red", "blue"), "a") if direction == "AtoB" else (("blue", "red"), "b")
    name = f"{source}2{target}"
    assert [path.name for path in report.model_files] == [f"{name}.safetensors"]
    assert find_model(target, source=source).path == models_folder / f"{name}.safetensors"
    assert cv2.imread(str(run / "results" / f"{source}-0000008.jpg")).shape[0] == 2 * 256 + 3 * 4
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert f"nce_{side}" in lines[0] and not any("cycle" in key or "identity" in key for key in lines[0])
    assert f"kid_x1000_{name}" in lines[-1]
    shown = run_test(config, run, config.results_dir, size=64)  # the folder says what there is
    assert list(shown.evaluations) == [(source, target)]
    assert shown.evaluations[source, target].inputs == f"dataset/test{side.upper()}"
    assert record(config, run, shown) == [run / f"{name}.safetensors"]


@pytest.mark.parametrize("method", ["cyclegan", "cut"])
def test_a_run_on_pictures_of_their_own_sizes_is_resumed_exactly(recipe: Path, tmp_path: Path, method: str) -> None:
    for index, path in enumerate(sorted((tmp_path / "dataset" / "trainA").iterdir())):
        cv2.imwrite(str(path), cv2.imread(str(path))[: 24 + index, :])
    tiny = tmp_path / "dataset" / "trainB" / "0.png"
    cv2.imwrite(str(tiny), cv2.imread(str(tiny))[:1, :9])
    settings = {"preprocess": "none", "batch_size": 1, "method": method}
    train(config_of(recipe, tmp_path / "whole", epochs=2, **settings))
    for epochs in (1, 2):
        train(config_of(recipe, tmp_path / "parts", epochs=epochs, **settings), resume=epochs == 2)
    assert_equal_to_the_bit(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))
    assert load_state(tmp_path / "whole" / "state.pt")["step"] == 2 * 16
    assert load_model(tmp_path / "whole" / "red2blue.safetensors").card.training_size is None


def test_domains_come_from_folders_by_any_name_and_from_lists(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, run = tmp_path / "dataset", tmp_path / "run"
    (dataset / "trainA").rename(tmp_path / "red things")
    (tmp_path / "blue.txt").write_text("".join(f"dataset/trainB/{index}.png\n" for index in range(4)))
    (dataset / "testB").rename(tmp_path / "more blue")
    recipe.write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    command = ["train", "--config", str(recipe), "--domain-a", "red things", "--domain-b", "blue.txt", "--epochs", "1"]
    command += ["--test-a", "dataset/testA", "--test-b", "more blue", "--watch-every", "8", "--no-publish"]
    command += ["--checkpoint-dir", str(run), "--results-dir", str(run / "results")]
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    card = load_model(run / "red2blue.safetensors").card
    assert card.made_by["pictures"] == {"red": 16, "blue": 4}
    assert "red things" not in json.dumps(card.made_by)  # paths belong to one machine
    assert "kid_x1000_blue2red" in (run / "metrics.jsonl").read_text()
    tested = ["test", "--config", str(recipe), "--checkpoint-dir", str(run), "--results-dir", str(run / "tested")]
    result = invoke(*tested, "--test-a", "dataset/testA", "--test-b", "more blue", "--size", "64")
    assert result.exit_code == 0, result.output
    assert f"2 pictures of {tmp_path.name}/more blue" in result.output


def warnings_of(run: Path) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["warning"]) for line in lines if "warning" in line]


def test_a_generator_that_stays_the_identity_is_said_once(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgpipe.training.collapse.YOUNG", 0)
    monkeypatch.setattr(
        CompactGenerator, "forward", lambda self, x: x + 0.01 * torch.tanh(self.to_pixels.weight.mean())
    )
    shown: list[str] = []
    for epochs in (1, 2, 4):  # each samples at its end too, and what was said stays said
        config = config_of(recipe, tmp_path / "run", epochs=epochs, sample_every=4)
        train(config, resume=epochs > 1, on_progress=lambda progress: shown.extend(progress.warnings))
    assert [warning for _, warning in warnings_of(tmp_path / "run")] == shown
    shown = [warning for warning in shown if "epochs" not in warning]  # what the run goes on with
    assert [step for step, warning in warnings_of(tmp_path / "run") if warning in shown] == [8, 8]
    assert [warning.partition(":")[0] for warning in shown] == ["red to blue", "blue to red"]
    assert all("identity" in warning and "--lamda" in warning for warning in shown)


def test_a_generator_that_makes_one_output_is_said_where_people_look(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgpipe.training.collapse.YOUNG", 0)  # a fresh generator makes a grey of everything
    command = ["train", "--config", str(recipe), "--epochs", "1", "--lr", "1e-9", "--sample-every", "4", "--no-publish"]
    command += ["--checkpoint-dir", str(tmp_path / "run"), "--results-dir", str(tmp_path / "run" / "results")]
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert [step for step, _ in warnings_of(tmp_path / "run")] == [8, 8]
    assert "Warning: red to blue: translations of different pictures hardly differ" in result.output


def test_a_healthy_generator_is_not_warned_of(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.training.collapse.YOUNG", 0)
    # Other pictures than those that came in, and as different from one another.
    monkeypatch.setattr(CompactGenerator, "forward", lambda self, x: x.flip(1) + 0 * self.to_pixels.weight.mean())
    train(config_of(recipe, tmp_path / "run", epochs=2, sample_every=4))
    assert warnings_of(tmp_path / "run") == []


def test_the_projection_of_patches_learns_and_is_kept(recipe: Path, tmp_path: Path) -> None:
    first, second = (Trainer(config_of(recipe, tmp_path / "run", method="cut")) for _ in range(2))
    before = [weight.clone() for weight in first.method.projection.parameters()]
    first.step = 1
    first.train_step(noise_batch())
    learnt = list(first.method.projection.parameters())
    assert not any(torch.equal(old, new) for old, new in zip(before, learnt, strict=True))
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(x, y) for x, y in zip(learnt, second.method.projection.parameters(), strict=True))
    moments = second.generator_optimizer.state_dict()["state"]
    assert len(moments) == len(learnt) + len(list(second.method.a_to_b.parameters()))
    with pytest.raises(ValueError, match="was made with method = cut, not cyclegan"):
        Trainer(config_of(recipe, tmp_path / "run")).load_state_dict(first.state_dict())


def test_fastcut_mirrors_half_of_the_inputs_and_compares_their_features_mirrored_back(
    recipe: Path, tmp_path: Path
) -> None:
    networks = Trainer(config_of(recipe, tmp_path / "run", method="fastcut")).method
    batch, given = noise_batch(), []
    networks.a_to_b.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    for _ in range(40):
        networks.generator_losses(batch, networks.config)
    mirrored = [torch.equal(picture, batch["a"].flip(3)) for picture in given]
    assert 8 < sum(mirrored) < 32
    assert all(found or torch.equal(picture, batch["a"]) for found, picture in zip(mirrored, given, strict=True))
    networks.projection, networks._encode = Projection([3]), lambda pictures: [pictures]
    costs = []
    for translated, flipped in ((batch["a"], False), (batch["a"].flip(3), True), (batch["a"].flip(3), False)):
        torch.manual_seed(0)
        costs.append(networks.nce_loss(batch["a"], translated, flipped=flipped).item())
    assert costs[0] == costs[1] < costs[2]


def test_a_run_can_start_with_models_that_are_there(recipe: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(config_of(recipe, first, epochs=1))
    files = {"init_a_to_b": str(first / "red2blue.safetensors"), "init_b_to_a": str(first / "blue2red.safetensors")}
    warm, cold = (Trainer(config_of(recipe, tmp_path / "run", **chosen)) for chosen in (files, {}))
    taken = load_model(first / "red2blue.safetensors").generator.state_dict()
    assert_equal_to_the_bit(dict(warm.method.a_to_b.state_dict()), dict(taken))
    assert not torch.equal(warm.method.b_to_a.stem.weight, cold.method.b_to_a.stem.weight)
    recipe_of = {path.name: model.card.made_by["recipe"] for path, model in warm.models()}["red2blue.safetensors"]
    assert recipe_of["init_a_to_b"] == "red2blue.safetensors"  # where it lay belongs to one machine
    with pytest.raises(TrainingError, match="architecture"):
        Trainer(config_of(recipe, tmp_path / "run", **files, gen_settings={"channels": 32, "blocks": 2}))


def test_a_run_goes_on_without_the_model_that_it_began_with(recipe: Path, tmp_path: Path) -> None:
    train(config_of(recipe, tmp_path / "first", epochs=1))
    start = tmp_path / "first/red2blue.safetensors"
    train(config_of(recipe, tmp_path / "run", epochs=1, init_a_to_b=str(start)))
    start.unlink()
    report = train(config_of(recipe, tmp_path / "run", epochs=2, init_a_to_b=str(start)), resume=True)
    assert report.finished


@pytest.mark.parametrize(("part", "off"), [("signed_skip", 1e-5), ("attention", 0.02)])
def test_a_run_with_a_new_part_can_start_with_a_model_without(
    part: str, off: float, recipe: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    train(config_of(recipe, first, epochs=1))
    finished, made_as = first / "red2blue.safetensors", config_of(recipe, first).gen_settings
    chosen = {"init_a_to_b": str(finished), "gen_settings": made_as | {part: True}}
    trainer = Trainer(config_of(recipe, tmp_path / "run", **chosen))
    assert not any("learned otherwise" in notice for notice in trainer.notices)
    picture = torch.rand((1, 3, 32, 32)) * 2 - 1
    with torch.inference_mode():
        result = trainer.method.a_to_b.eval()(picture)
        expected = load_model(finished).generator(picture)
        assert (result - expected).abs().mean() < off * (expected - picture).abs().mean()
    trained = tmp_path / "trained"
    train(config_of(recipe, trained, epochs=1, **chosen))
    with pytest.raises(TrainingError, match="architecture"):  # what was learned with it would be lost without
        without = {
            "init_a_to_b": str(trained / "red2blue.safetensors"),
            "gen_settings": made_as | {part: False},
        }
        Trainer(config_of(recipe, tmp_path / "run", **without))


def test_a_set_of_a_few_pictures_is_said(recipe: Path, dataset: Path, tmp_path: Path) -> None:
    for picture in sorted((dataset / "trainB").iterdir())[3:]:
        picture.unlink()
    (notice,) = Trainer(config_of(recipe, tmp_path / "run")).notices
    assert notice.startswith("Domain B has 3 pictures")


def test_weights_that_fit_a_network_of_other_settings_are_remarked_upon_once(recipe: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    train(config_of(recipe, first, epochs=1))
    made_as = config_of(recipe, first).gen_settings
    start = {"init_a_to_b": str(first / "red2blue.safetensors")}
    for name, settings in (("same", made_as), ("other", made_as | {"padding": "reflect"})):
        said: list[str] = []
        run = config_of(recipe, tmp_path / name, epochs=1, gen_settings=settings, **start)
        train(run, on_progress=lambda progress, said=said: said.extend(progress.warnings))  # type: ignore[misc]
        remarks = [warning for warning in said if "was made with" in warning]
        expected = "red2blue.safetensors was made with padding = zeros, and this run has padding = reflect"
        assert len(remarks) == (name == "other") and all(expected in remark for remark in remarks)
        written = (tmp_path / name / "metrics.jsonl").read_text()
        assert written.count("was made with") == len(remarks)
    assert not Trainer(config_of(recipe, tmp_path / "cold", epochs=1)).notices


@pytest.mark.parametrize(
    ("precision", "x86", "records", "compiles"),
    [("fp32", False, 0, 0), ("bf16", False, 0, 1), ("bf16", False, 1, 0), ("bf16", True, 0, 0)],
)
def test_what_would_not_gain_is_not_compiled(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    x86: bool,
    records: int,
    compiles: int,
) -> None:
    monkeypatch.setattr(device_plan, "MEASURED", x86)
    monkeypatch.setattr(Trainer, "_recorder", lambda self: (lambda work: work) if records else None)
    trainer = Trainer(config_of(recipe, tmp_path / "run", compile=True, precision=precision))
    networks = [*trainer.method.generators.values(), *trainer.method.discriminators.values()]
    assert [network._compiled_call_impl is not None for network in networks] == [bool(compiles)] * 4


def test_discriminators_can_have_a_head_start(recipe: Path, tmp_path: Path) -> None:
    trainer = Trainer(config_of(recipe, tmp_path / "run", head_start=2))
    batch = noise_batch()
    for step, moves in ((1, False), (2, False), (3, True)):
        trainer.step = step
        assert moved_by_a_step(trainer, batch) == {
            "a_to_b": moves,
            "b_to_a": moves,
            "discriminator_a": True,
            "discriminator_b": True,
        }


def noise_batch(count: int = 2, side: int = 32) -> dict[str, torch.Tensor]:
    return {domain: torch.rand((count, 3, side, side)) * 2 - 1 for domain in "ab"}


def moved_by_a_step(trainer: Trainer, batch: dict[str, torch.Tensor]) -> dict[str, bool]:
    """Which networks a training step changes."""
    trainer.step = max(trainer.step, 1)  # no step is done yet: that is before any head start
    names = ("a_to_b", "b_to_a", "discriminator_a", "discriminator_b")
    before = {name: [p.clone() for p in getattr(trainer.method, name).parameters()] for name in names}
    trainer.train_step(batch)
    after = {name: list(getattr(trainer.method, name).parameters()) for name in names}
    return {n: not all(torch.equal(x, y) for x, y in zip(before[n], after[n], strict=True)) for n in names}


@pytest.mark.parametrize("frozen", ["a_to_b", "discriminator_a,discriminator_b", "a_to_b, b_to_a"])
def test_what_is_frozen_does_not_learn_and_the_rest_does(recipe: Path, tmp_path: Path, frozen: str) -> None:
    trainer = Trainer(config_of(recipe, tmp_path / "run", freeze=frozen))
    moved = moved_by_a_step(trainer, noise_batch())
    assert {name for name, moves in moved.items() if not moves} == set(frozen.replace(" ", "").split(","))


def test_a_run_can_be_resumed_with_other_networks_frozen(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=1, freeze="discriminator_a"))
    assert train(config_of(recipe, run, epochs=2, freeze="b_to_a"), resume=True).finished


@pytest.mark.parametrize("gan_loss", ["vanilla", "hinge", "wgan-gp"])
def test_every_adversarial_loss_trains(recipe: Path, tmp_path: Path, gan_loss: str) -> None:
    trainer = Trainer(config_of(recipe, tmp_path / "run", gan_loss=gan_loss))
    assert all(moved_by_a_step(trainer, noise_batch()).values())
    losses = trainer.train_step(noise_batch())
    assert all(loss.isfinite() for loss in losses.values())
    assert ("penalty_a" in losses) == (gan_loss == "wgan-gp")


def test_diffaugment_changes_what_the_discriminators_see_in_a_way_that_repeats(recipe: Path, tmp_path: Path) -> None:
    for name, kinds in (("plain", ""), ("one", "color,translation,cutout"), ("two", "color,translation,cutout")):
        train(config_of(recipe, tmp_path / name, epochs=1, diffaugment=kinds))
    plain, one, two = (weights_of(tmp_path / name) for name in ("plain", "one", "two"))
    assert_equal_to_the_bit(one, two)
    assert any(not torch.equal(plain[name], one[name]) for name in one)


def test_the_learning_rate_rises_over_the_warmup_and_then_follows_its_schedule(recipe: Path, tmp_path: Path) -> None:
    train(config_of(recipe, tmp_path, steps=8, epochs=1, decay_epoch=0, lr=0.01, lr_warmup=4, log_every=1))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    falling = [0.01 * (1 - step / 8) for step in range(1, 9)]
    assert rates == pytest.approx([min(1, step / 4) * rate for step, rate in enumerate(falling, start=1)])


def test_a_plateau_is_remembered_by_a_resumed_run(recipe: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings: dict[str, Any] = {"lr_policy": "plateau", "lr_step": 1, "gan_loss": "hinge", "lr": 0.01}
    train(config_of(recipe, whole, epochs=6, **settings))
    for epochs in (1, 2, 6):
        train(config_of(recipe, parts, epochs=epochs, **settings), resume=epochs > 1)
    assert_equal_to_the_bit(weights_of(whole), weights_of(parts))
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates[0] == 0.01
    assert rates[-1] < 0.01


def test_a_state_without_what_was_added_later_goes_on_to_the_same_weights(recipe: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config_of(recipe, whole, epochs=2, decay_epoch=9))
    train(config_of(recipe, parts, epochs=1, decay_epoch=9))
    state = load_state(parts / "state.pt")
    for name in ("plateau", "scaler"):
        del state[name]
    save_state(parts / "state.pt", state)
    train(config_of(recipe, parts, epochs=2, decay_epoch=9), resume=True)
    assert_equal_to_the_bit(weights_of(whole), weights_of(parts))


def test_fp16_gradients_are_kept_in_range_and_the_scale_is_remembered(recipe: Path, tmp_path: Path) -> None:
    trainers = [Trainer(config_of(recipe, tmp_path / "run")) for _ in range(2)]
    for trainer, scale in zip(trainers, (2.0**40, 16.0), strict=True):
        # As on a GPU: a CPU has the types, if not the speed.
        trainer.plan = replace(trainer.plan, dtype=torch.float16)
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    first, second = trainers
    assert not any(moved_by_a_step(first, noise_batch()).values())  # the gradients have left the range
    assert first.scaler.get_scale() < 2.0**40
    assert all(moved_by_a_step(second, noise_batch()).values())
    second.load_state_dict(first.state_dict())
    assert second.scaler.get_scale() == first.scaler.get_scale()


def test_testing_shows_the_models_and_does_not_train(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=1))
    before = (run / "state.pt").read_bytes()
    command = ["train", "--config", str(recipe), "--checkpoint-dir", str(run), "--results-dir", str(tmp_path / "shown")]
    result = invoke(*command, "--testing")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "shown").glob("*.jpg"))) == 2
    assert (run / "state.pt").read_bytes() == before


def test_a_run_that_is_watched_keeps_its_best_models(recipe: Path, tmp_path: Path) -> None:
    watched, plain = tmp_path / "watched", tmp_path / "plain"
    train(config_of(recipe, watched, epochs=1, watch_every=4))
    train(config_of(recipe, plain, epochs=1))
    assert_equal_to_the_bit(weights_of(watched), weights_of(plain))
    lines = [json.loads(line) for line in (watched / "metrics.jsonl").read_text().splitlines()]
    figures = {line["step"]: line["kid_x1000_red2blue"] for line in lines if "kid_x1000_red2blue" in line}
    assert list(figures) == [4, 8]
    best = load_model(watched / "red2blue-best.safetensors").card.made_by["steps"]
    assert best == min(figures, key=lambda step: (figures[step], -step))
    assert (watched / "blue2red-best.safetensors").is_file()


def test_tensorboard_shows_figures_grids_and_histograms_once(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    shown: dict[str, Any] = {"tensorboard": True, "histograms": True, "sample_every": 4, "save_every": 6}
    train(config_of(recipe, run, epochs=1, **shown))
    state = (run / "state.pt").read_bytes()
    train(config_of(recipe, run, epochs=2, **shown), resume=True)
    (run / "state.pt").write_bytes(state)  # as if the rest had been killed before it was saved
    train(config_of(recipe, run, epochs=2, **shown), resume=True)
    everything = {"images": 0, "histograms": 0}
    events = EventAccumulator(str(run / "results" / "tensorboard"), size_guidance=everything).Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "cycle_a" in line]
    assert len(lines) == 16
    for name in ("cycle_a", "discriminator_b", "learning_rate"):
        assert [(e.step, pytest.approx(e.value)) for e in events.Scalars(name)] == [(d["step"], d[name]) for d in lines]
    assert [(e.step, e.width) for e in events.Images("red")] == [(step, 2 * 256 + 3 * 4) for step in (4, 8, 12, 16)]
    assert [e.step for e in events.Histograms("a_to_b.stem.weight")] == [4, 8, 12, 16]
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


def test_without_tensorboard_the_error_says_what_to_install(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cgpipe\[tensorboard\]'"):
        train(config_of(recipe, tmp_path / "run", tensorboard=True))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_line_shows_losses_pictures_a_second_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with TrainingBar() as bar:
        for step in range(5, 9):
            progress = Progress(
                epoch=0,
                step=step,
                total_steps=8,
                losses={"cycle_a": 0.25},
                learning_rate=1e-4,
                seconds_a_step=1,
                pictures=4,
            )
            bar.update(progress)
    line = terminal.getvalue().split("\r")[-1]
    assert re.search(r"8/8, 00:00 left, .*\d pictures/s, cycle_a 0\.250", line), line
