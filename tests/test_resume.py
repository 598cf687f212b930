"""Where a run is, what it was told, and what stands in its way: stops, changes of sets and settings, damaged files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from runs import assert_equal_to_the_bit, config_of, logged, wait_for_a_save, weights_of
from shell import CGPIPE, invoke

from cgpipe.data.loading import ValueRange, find_range, load_pixels
from cgpipe.data.pictures import find_pictures
from cgpipe.errors import CgpipeWarning, DataError, TrainingError, UsageError
from cgpipe.models import load_model
from cgpipe.recipe import RECIPE_NAME, read_recipe, to_toml
from cgpipe.training.config import Stage, TrainConfig, load_config
from cgpipe.training.distill_config import load_distill_config
from cgpipe.training.run import Progress
from cgpipe.training.state import LOCK_NAME, STATE_NAME, load_state, locked, save_state
from cgpipe.training.trainer import Trainer, train


def stop_at(step: int, number: int = signal.SIGINT) -> Any:
    """Sends this process a signal during a step, as Ctrl-C does; the run ends after it."""

    def watch(progress: Progress) -> None:
        if progress.step == step - 1:
            os.kill(os.getpid(), number)

    return watch


def said(config: TrainConfig) -> tuple[Any, list[str]]:
    """Resumes a run; its report and the warnings of its first step."""
    warnings: list[str] = []
    report = train(config, resume=True, on_progress=lambda progress: warnings.extend(progress.warnings))
    return report, warnings


# -- where a run is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (2, 5),  # stopped after 6 pictures of 16: one more batch of 5 fits
        (2, 12),  # no batch of 12 fits: the next epoch begins
        (4, 2),
        (5, 2),  # stopped at an epoch's border
    ],
)
def test_a_run_is_resumed_with_another_batch_and_ends_saved(
    recipe: Path, tmp_path: Path, first: int, second: int
) -> None:
    run = tmp_path / "run"
    stopped = train(config_of(recipe, run, epochs=2, batch_size=first), on_progress=stop_at(3))
    assert stopped.stopped_by == signal.SIGINT
    assert load_state(run / "state.pt")["picture"] in (3 * first, 0)
    report, warnings = said(config_of(recipe, run, epochs=2, batch_size=second))
    assert report.finished
    assert load_state(run / "state.pt")["step"] == report.step
    assert load_state(run / "state.pt")["epoch"] == 2
    assert f"The run continues with batch_size = {second}; it was {first}" in warnings
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "cycle_a" in line] == list(range(1, report.step + 1))


@pytest.mark.parametrize("count", [4, 30])
def test_a_run_is_resumed_with_another_set_and_ends_saved(
    recipe: Path, dataset: Path, tmp_path: Path, count: int
) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=2), on_progress=stop_at(5))
    pictures = sorted((dataset / "trainA").iterdir())
    for path in pictures[count:]:
        path.unlink()
    for index in range(len(pictures), count):
        shutil.copy(pictures[0], dataset / "trainA" / f"more{index}.png")
    report, warnings = said(config_of(recipe, run, epochs=2))
    assert report.finished and load_state(run / "state.pt")["step"] == report.step
    assert warnings == [f"The run continues with {count} pictures of domain A; there were 16"]


def test_saves_after_a_smaller_epoch_come_when_they_are_due(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=1, batch_size=2))
    seen = []

    def watch(progress: Progress) -> None:
        seen.append((progress.step, progress.total_steps, load_state(run / "state.pt")["step"]))

    train(config_of(recipe, run, epochs=2, batch_size=4, save_every=1000), resume=True, on_progress=watch)
    assert seen == [(9, 12, 8), (10, 12, 8), (11, 12, 8), (12, 12, 12)]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_signal_ends_a_run_saved_with_its_own_exit_code(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*CGPIPE, "train", "--config", str(recipe), "--epochs", "1000", "--no-publish"]
    command += ["--checkpoint-dir", str(run), "--results-dir", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        wait_for_a_save(process, run)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 143
    assert "Stopped; continue with --resume at step" in output
    assert load_state(run / "state.pt")["step"] == int(output.split("at step ")[1].split(".")[0])


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_other_signals_end_a_run_alike(recipe: Path, tmp_path: Path, number: int) -> None:
    report = train(config_of(recipe, tmp_path / "run", save_every=1000), on_progress=stop_at(5, number))
    assert (report.step, report.finished, report.stopped_by) == (5, False, number)
    assert load_state(tmp_path / "run" / "state.pt")["step"] == 5


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_lines_of_losses_are_those_of_a_run_that_was_not_stopped(recipe: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config_of(recipe, whole, epochs=1, log_every=4))
    train(config_of(recipe, parts, epochs=1, log_every=4), on_progress=stop_at(6))
    train(config_of(recipe, parts, epochs=1, log_every=4), resume=True)
    assert [line["step"] for line in logged(parts)] == [4, 8]
    assert logged(parts) == logged(whole)


def test_a_state_of_an_earlier_version_goes_on_to_the_same_weights(recipe: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config_of(recipe, whole, epochs=2))
    train(config_of(recipe, parts, epochs=2), on_progress=stop_at(5))
    state = load_state(parts / "state.pt")
    old = {name.replace("discriminator", "judge"): value for name, value in state.items()}
    old["networks"] = {name.replace("discriminator", "judge"): value for name, value in state["networks"].items()}
    old |= {"step_in_epoch": 5, "config": old.pop("settings")}
    for name in ("picture", "pictures", "published", "log"):
        del old[name]
    save_state(parts / "state.pt", old)
    assert train(config_of(recipe, parts, epochs=2), resume=True).finished
    assert_equal_to_the_bit(weights_of(whole), weights_of(parts))


def test_stages_of_a_run_of_steps_begin_by_its_schedule(recipe: Path, tmp_path: Path) -> None:
    """Also those of crops and batches, within a pass over the 16 pictures, of which the run makes one and a half."""
    stages = (Stage(from_epoch=1, crop_height=24, crop_width=24), Stage(from_epoch=2, batch_size=4))
    config = replace(config_of(recipe, tmp_path / "run", steps=9, epochs=3), stages=stages)
    whole = [batch["a"] for batch in Trainer(config).batches()]
    assert [pictures.shape[::3] for pictures in whole] == [(2, 32)] * 3 + [(2, 24)] * 3 + [(4, 24)] * 3
    first, second = Trainer(config), Trainer(config)
    next(islice(first.batches(), 4, None))
    second.load_state_dict(first.state_dict())
    assert (second.step, second.settings.crop_height) == (5, 24)
    for pictures, batch in zip(whole[5:], second.batches(), strict=True):
        assert torch.equal(pictures, batch["a"])


# -- what a run was told ---------------------------------------------------------------------------------------------


def test_a_recipe_is_written_and_read_back_the_same(tmp_path: Path) -> None:
    config = TrainConfig(
        dataset_dir=Path("some where"),
        lr=1e-5,
        gen_settings={"channels": 16, "kinds": ["x", "y"]},
        moment_lite1_taps=(),
        stages=(Stage(from_epoch=2, lamda=1.5), Stage(from_epoch=3, crop_height=64)),
        domain_a=Path('a "quoted" \\ näme'),
        domain_b=Path("b"),
    )
    (tmp_path / "recipe.toml").write_text(to_toml(config), encoding="utf-8")
    again = load_config(tmp_path / "recipe.toml", {})
    assert again.dataset_dir == Path("some where").absolute()
    assert to_toml(again) == to_toml(config)
    assert tomllib.loads(to_toml(config))["stages"][0] == {"from_epoch": 2, "lamda": 1.5}


def test_a_run_is_resumed_by_its_own_recipe_and_what_is_typed_overrides_it(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=1, lr=0.001))
    assert "checkpoint_dir" not in read_recipe(run / RECIPE_NAME, TrainConfig)
    moved = run.rename(tmp_path / "moved")
    plain = load_config(None, {"checkpoint_dir": moved}, resume=True)
    assert (plain.lr, plain.gen_net, plain.checkpoint_dir) == (0.001, "compact-flat", moved)
    result = invoke("train", "--resume", "--checkpoint-dir", moved, "--epochs", "2", "--lamda", "3")
    assert result.exit_code == 0, result.output
    assert "The run continues with epochs = 2; it was 1" in result.output
    assert "The run continues with lamda = 3.0; it was 10.0" in result.output
    assert "lr =" not in result.output
    assert load_config(None, {"checkpoint_dir": moved}, resume=True).lamda == 3.0
    assert load_state(moved / "state.pt")["epoch"] == 2


def test_a_distillation_is_resumed_by_its_own_recipe(tmp_path: Path) -> None:
    (tmp_path / RECIPE_NAME).write_text(
        'teacher = "zebra"\ndataset_dir = "set"\nsteps = 7\nstudent_settings = {a = 1}\n'
    )
    config = load_distill_config(None, {"checkpoint_dir": tmp_path}, resume=True)
    assert (config.teacher, config.dataset_dir, config.steps) == ("zebra", Path("set"), 7)
    with pytest.warns(CgpipeWarning, match="student_settings .*a = 1.* not used with student compact"):
        other = load_distill_config(None, {"checkpoint_dir": tmp_path, "student": "compact"}, resume=True)
    assert other.student_settings == {}
    result = invoke("distill", "--resume")
    assert result.exit_code == 2 and "Name the teacher" in result.output


def test_two_runs_in_one_folder_are_kept_apart(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    hold = "import sys, time\nfrom cgpipe.training.state import locked\nfrom pathlib import Path\n"
    hold += "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", hold, str(run)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match=rf"Another run is using .*\(process {process.pid} on "):
            train(config_of(recipe, run, epochs=1))
        process.kill()
    with locked(run):  # a killed process holds nothing
        pass
    assert train(config_of(recipe, run, epochs=1)).finished
    assert (run / LOCK_NAME).exists()


# -- settings --------------------------------------------------------------------------------------------------------


def test_the_sizes_that_are_not_named_fit_the_one_that_is(tmp_path: Path) -> None:
    sizes = ("load_height", "load_width", "load_min", "crop_height", "crop_width")

    def of(**named: int) -> tuple[int, ...]:
        config = load_config(None, named)
        return tuple(getattr(config, name) for name in sizes)

    assert of() == (280, 280, 140, 128, 128)
    assert of(load_height=72) == (72, 280, 72, 72, 128)
    assert of(load_width=72)[4] == 72
    assert of(load_height=72, load_width=72, crop_height=64, crop_width=64) == (72, 72, 64, 64, 64)
    assert of(crop_height=256, crop_width=256) == (280, 280, 256, 256, 256)
    assert of(load_height=560, load_width=560)[2] == 280
    with pytest.raises(UsageError, match="does not fit"):
        of(load_height=72, crop_height=128)


def test_a_dataset_that_is_typed_takes_the_place_of_a_recipes_sets(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('domain_a = "a"\ndomain_b = "b"\ntest_a = "t"\nmasks_a = "m"\nsource = "x"\ntarget = "y"\n')
    config = load_config(recipe, {"dataset_dir": Path("other")})
    assert (config.dataset_dir, config.domain_a, config.test_a) == (Path("other"), None, None)
    assert config.masks_a == Path("m")  # pictures without a mask are said, and none loses its own silently
    config = load_config(recipe, {"dataset_dir": Path("other"), "domain_a": Path("c")})
    assert (config.domain_a, config.domain_b, config.test_a) == (Path("c"), Path("b"), Path("t"))
    assert load_config(recipe, {"pairs": Path("p")}).domain_a is None
    assert load_config(recipe, {"masks_a": Path("n")}).domain_a == Path("a")


def test_settings_of_another_network_are_dropped_when_one_is_typed(recipe: Path) -> None:
    with pytest.warns(CgpipeWarning, match="channels = 16, blocks = 2.* not used with gen_net resnet_6blocks"):
        assert load_config(recipe, {"gen_net": "resnet_6blocks"}).gen_settings == {}
    assert load_config(recipe, {"gen_net": "compact-flat"}).gen_settings == {"channels": 16, "blocks": 2}


@pytest.mark.parametrize(
    ("settings", "remark"),
    [
        ({"ngf": 32}, "ngf does nothing for compact"),
        ({"method": "cut", "lamda": 3.0}, "lamda does nothing with method cut"),
        ({"nce_weight": 1.0}, "nce_weight does nothing with method cyclegan"),
        ({"lr_step": 3}, "lr_step does nothing with lr_policy linear"),
        ({"background_weight": 3.0}, "background_weight does nothing without masks"),
        ({"init_type": "kaiming", "init_gain": 1.0}, "init_gain does nothing with init_type kaiming"),
        (
            {"preprocess": "scale_shortest_and_crop", "load_width": 300},
            "load_width does nothing with preprocess scale_shortest_and_crop",
        ),
        ({"feature_weight": 0.0, "feature_pooled": True}, "feature_pooled does nothing with feature_weight 0"),
        (
            {"epochs": 1, "steps": 900, "stages": (Stage(from_epoch=1, motion_weight=3.0),)},
            "stages from epoch 1 on never begin: the schedule that is stretched over the steps has 1 epoch",
        ),
    ],
)
def test_a_setting_that_does_nothing_is_said(settings: dict[str, Any], remark: str) -> None:
    assert [f"{n} {why}" for n, why in TrainConfig(**settings).without_effect().items()] == [remark]
    assert TrainConfig(gen_net="resnet_6blocks", ngf=32).without_effect() == {}


@pytest.mark.parametrize(
    ("typed", "trains", "tests"),
    [
        (["--training", "True"], True, False),
        (["--testing", "True"], False, True),
        (["--testing"], False, True),
        (["--training", "True", "--testing", "True"], True, True),
        (["--training", "False", "--testing", "True"], False, True),
    ],
)
def test_the_spelling_of_the_first_trainers_is_understood(
    recipe: Path, tmp_path: Path, typed: list[str], trains: bool, tests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    monkeypatch.setattr("cgpipe.cli.train._train", lambda config, resume: done.append(("train", config.source)))
    monkeypatch.setattr("cgpipe.cli.train.show_test", lambda config: done.append(("test", config.source)))
    (tmp_path / RECIPE_NAME).write_text('source = "red"\n')
    result = invoke("train", *typed, "--epochs", "1", "--checkpoint-dir", tmp_path)
    assert result.exit_code == 0, result.output
    source = "horse" if trains else "red"  # what is only tested is as it was trained
    assert done == [("train", source)] * trains + [("test", source)] * tests


def test_a_run_that_a_scheduler_starts_again_starts_or_resumes(recipe: Path, tmp_path: Path) -> None:
    """With the same command, whatever was there when it was killed."""
    command = ("train", "--config", recipe, "--checkpoint-dir", tmp_path / "run", "--resume", "--epochs")
    first = invoke(*command, "1")
    assert first.exit_code == 0 and "Nothing was saved yet in" in first.output, first.output
    second = invoke(*command, "2")
    assert second.exit_code == 0 and "The run continues with epochs = 2; it was 1" in second.output, second.output
    (tmp_path / "run" / "state.pt").unlink()  # as of one that was killed before it saved anything
    third = invoke("train", "--checkpoint-dir", tmp_path / "run", "--resume", "--epochs", "1")
    assert third.exit_code == 0 and "Nothing was saved yet in" in third.output, third.output


@pytest.mark.parametrize("command", ["train", "distill", "test"])
@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_a_run_is_not_taken_for_one(command: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    resume = () if command == "test" else ("--resume",)
    result = invoke(command, *resume, "--checkpoint-dir", tmp_path / name)
    assert (result.exit_code, f"There is no run in {tmp_path / name}: name its folder" in result.output) == (2, True)


@pytest.mark.parametrize(("lamda", "lamda_b"), [(10.0, 5.0), (0.0, 10.0), (10.0, -1.0), (10.0, 0.0)])
def test_the_identity_loss_is_weighted_like_the_cycle_of_its_direction(
    recipe: Path, tmp_path: Path, lamda: float, lamda_b: float
) -> None:
    config = config_of(recipe, tmp_path / "run", lamda=lamda, lamda_b=lamda_b, stages=())
    trainer = Trainer(config)
    batch = {domain: torch.rand((2, 3, 32, 32)) * 2 - 1 for domain in "ab"}
    losses, _ = trainer.method.generator_losses(batch, config)
    made = {
        "a": trainer.method.get_submodule("b_to_a")(batch["a"]),
        "b": trainer.method.get_submodule("a_to_b")(batch["b"]),
    }
    for domain, weight in (("a", lamda), ("b", lamda if lamda_b < 0 else lamda_b)):
        assert (f"identity_{domain}" in losses) == (f"cycle_{domain}" in losses) == (weight > 0)
        if weight:
            expected = 0.5 * weight * (made[domain] - batch[domain]).abs().mean()
            assert losses[f"identity_{domain}"].item() == pytest.approx(expected.item(), rel=1e-5)


# -- damaged files ---------------------------------------------------------------------------------------------------


def test_pictures_that_cannot_be_read_are_named_left_out_and_counted(
    recipe: Path, dataset: Path, tmp_path: Path
) -> None:
    broken = dataset / "trainA" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (dataset / "testA" / "0.png").write_bytes(b"nothing")
    warnings: list[str] = []
    for workers in (0, 2):
        run = tmp_path / f"run{workers}"
        report = train(config_of(recipe, run, workers=workers), on_progress=lambda p: warnings.extend(p.warnings))
        assert report.finished and report.step == 4 * 8
        assert list(report.unreadable) == [broken]
    assert len(warnings) == 2 and all(w.startswith(f"{broken}: ") and "excluded from training" in w for w in warnings)
    assert_equal_to_the_bit(weights_of(tmp_path / "run0"), weights_of(tmp_path / "run2"))
    result = invoke("train", "--resume", "--checkpoint-dir", run, "--epochs", "5")
    assert result.exit_code == 0 and "pictures excluded from training: 1." in result.output, result.output


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_of_which_nothing_can_be_read_is_an_error(
    recipe: Path, dataset: Path, tmp_path: Path, workers: int
) -> None:
    shutil.rmtree(dataset / "testA")
    sound = dataset / "testA" / "0.png"
    sound.parent.mkdir()
    shutil.copy(dataset / "trainA" / "0.png", sound)
    for path in (dataset / "trainA").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"No picture of a domain can be read: .*trainA.*\.png: "):
        train(config_of(recipe, tmp_path / "run", workers=workers))


def test_losses_that_are_no_numbers_before_the_first_save_say_what_is_there(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"exploded\. Nothing was saved yet in .*run: start again\."):
        train(config_of(recipe, run, lr=1e30, save_every=1000))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert None in lines[-1].values()
    assert train(config_of(recipe, run, epochs=1)).finished


def test_lines_of_metrics_have_a_time_and_the_seconds_of_a_step(recipe: Path, tmp_path: Path) -> None:
    before = time.time()
    train(config_of(recipe, tmp_path / "run", epochs=1))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(before - 1 < line["time"] < time.time() + 1 and 0 < line["seconds_a_step"] < 60 for line in lines)


@pytest.mark.parametrize("line", ["garbage", "{}", "[1]", '{"step": "x"}', "null", '{"step": 1', "[" * 9999])
def test_a_broken_line_of_metrics_is_named(recipe: Path, tmp_path: Path, line: str) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=1))
    (run / "metrics.jsonl").write_text(f'{{"step": 1, "epoch": 0}}\n{line}\n')
    with pytest.raises(TrainingError, match=r"metrics\.jsonl has a line without a step"):
        train(config_of(recipe, run, epochs=2), resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: [1, 2],
        lambda state: {k: v for k, v in state.items() if k != "pools"},
        lambda state: state | {"step": "three"},
        lambda state: state | {"step": None},
        lambda state: state | {"networks": 7},
        lambda state: state | {"networks": {1: 2}},
        lambda state: state | {"generator_optimizer": []},
        lambda state: state | {"random": 3},
        lambda state: state | {"settings": "{"},
        lambda state: state | {"settings": "[]"},
        lambda state: state | {"pictures": 3},
        lambda state: state | {"best": 5},
        lambda state: state | {"epoch": -3},
        lambda state: {"format": 1},
    ],
)
def test_a_state_of_other_types_is_an_error(recipe: Path, tmp_path: Path, damage: Any) -> None:
    run = tmp_path / "run"
    Trainer(config := config_of(recipe, run, epochs=1)).save()
    torch.save(damage(torch.load(run / "state.pt", weights_only=True)), run / "state.pt")
    with pytest.raises(TrainingError, match=r"state\.pt"):
        Trainer(config).start(resume=True)


# -- pictures of 16 bits ---------------------------------------------------------------------------------------------


def deep_pictures(folder: Path, bits: int, count: int = 6) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 2**bits, (40, 40), np.uint16)
        pixels[0, 0] = 2**bits - 1
        cv2.imwrite(str(folder / f"{index}.png"), pixels)
    return folder


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_the_bits_that_16_bit_pictures_use_are_found_and_used(tmp_path: Path, bits: int) -> None:
    paths = find_pictures(deep_pictures(tmp_path / "deep", bits))
    values = find_range(paths)
    assert values == ValueRange(0, 2**bits - 1)
    pixels = load_pixels(paths[0], values)
    assert pixels.dtype == np.float32 and pixels.max() == 255
    assert pixels.std() == pytest.approx(73.6, abs=3)
    assert len(np.unique(pixels)) > 600  # more than 8 bits, since there are more


def test_eight_bits_have_no_range_and_black_pictures_neither(dataset: Path, tmp_path: Path) -> None:
    assert find_range(find_pictures(dataset / "trainA")) is None
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((8, 8), np.uint16))
    assert find_range([tmp_path / "black.png"]) is None


def test_a_run_says_which_bits_it_takes_and_learns_from_them(recipe: Path, tmp_path: Path) -> None:
    sets = {"domain_a": deep_pictures(tmp_path / "ct", 12, 10), "domain_b": deep_pictures(tmp_path / "mr", 16, 10)}
    warnings: list[str] = []
    config = config_of(recipe, tmp_path / "run", epochs=1, **sets)
    train(config, on_progress=lambda progress: warnings.extend(progress.warnings))
    assert len(warnings) == 1 and "domain A are taken from 0 (black) to 4095 (white)" in warnings[0]
    made_by = load_model(tmp_path / "run" / "red2blue.safetensors").card.made_by
    assert made_by["value_range"] == {"red": [0, 4095], "blue": [0, 65535]}
    named = Trainer(config_of(recipe, tmp_path / "named", value_range="100,1000", **sets))
    assert set(named.pictures.ranges.values()) == {ValueRange(100, 1000)} and not named.notices
    for wrong in ("5", "5,5", "0,70000", "a,b"):
        with pytest.raises(UsageError, match="value_range takes auto, or two values"):
            config_of(recipe, tmp_path / "run", value_range=wrong)


# -- publishing ------------------------------------------------------------------------------------------------------


def test_models_are_published_when_the_run_ends_and_marked_until_then(
    recipe: Path, tmp_path: Path, models_folder: Path
) -> None:
    run = tmp_path / "run"
    stopped = train(config_of(recipe, run, epochs=2, publish=True), on_progress=stop_at(5))
    assert not stopped.published and not list(models_folder.glob("*.safetensors"))
    assert load_model(run / "red2blue.safetensors").card.made_by["finished"] is False
    report = train(config_of(recipe, run, epochs=2, publish=True), resume=True)
    assert [published.place.name for published in report.published] == [
        "red2blue.safetensors",
        "blue2red.safetensors",
    ]
    card = load_model(models_folder / "red2blue.safetensors").card
    assert card.made_by["finished"] is True and card.made_by["steps"] == 16


def test_a_model_that_the_run_did_not_make_is_never_replaced(recipe: Path, tmp_path: Path, models_folder: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    train(config_of(recipe, run, epochs=1, publish=True))
    mine = (models_folder / "red2blue.safetensors").read_bytes()
    result = invoke("train", "--config", recipe, "--epochs", "1", "--seed", "3", "--checkpoint-dir", other)
    assert result.exit_code == 0, result.output
    assert "red2blue.safetensors was not made by this run and is left alone" in result.output
    assert "cgpipe models import" in result.output and "--overwrite" in result.output
    assert (models_folder / "red2blue.safetensors").read_bytes() == mine
    longer = train(config_of(recipe, run, epochs=2, publish=True), resume=True)  # its own it replaces
    assert not any(published.refused for published in longer.published)
    assert (models_folder / "red2blue.safetensors").read_bytes() != mine


def test_a_run_ends_where_its_models_cannot_be_published(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CGPIPE_MODELS", str(tmp_path / "file" / "models"))
    report = train(config_of(recipe, tmp_path / "run", epochs=1, publish=True))
    assert report.finished and all("cgpipe models import" in str(published) for published in report.published)
    again = train(config_of(recipe, tmp_path / "run", epochs=1, publish=True), resume=True)
    assert again.finished


def test_betas_of_a_resumed_run_are_those_it_is_given(recipe: Path, tmp_path: Path) -> None:
    train(config_of(recipe, tmp_path / "run", epochs=1))
    trainer = Trainer(config_of(recipe, tmp_path / "run", epochs=2, beta1=0.3, beta2=0.9))
    trainer.load_state_dict(load_state(tmp_path / "run" / STATE_NAME))
    assert {group["betas"] for group in trainer.generator_optimizer.param_groups} == {(0.3, 0.9)}


def test_a_finished_run_is_published_on_request(recipe: Path, tmp_path: Path, models_folder: Path) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=1))
    assert not list(models_folder.glob("*.safetensors"))
    result = invoke("train", "--resume", "--checkpoint-dir", run, "--publish")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in models_folder.glob("*.safetensors")) == [
        "blue2red.safetensors",
        "red2blue.safetensors",
    ]


def test_curves_say_what_they_need(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "train" / "curves.py"
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')")
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr == "curves.py draws with matplotlib, which is not installed: pip install matplotlib\n"


def test_models_of_every_few_epochs_are_kept_and_tested(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of(recipe, run, epochs=5, snapshot_every=2))
    assert sorted(path.name for path in run.glob("epoch-*")) == ["epoch-0002", "epoch-0004"]
    assert load_model(run / "epoch-0002" / "red2blue.safetensors").card.made_by["steps"] == 16
    command = ["test", "--checkpoint-dir", str(run), "--results-dir", str(tmp_path / "shown"), "--no-figures"]
    shown = invoke(*command, "--size", "64", "--epoch", "2")
    assert shown.exit_code == 0, shown.output
    assert len(list((tmp_path / "shown").glob("*.jpg"))) == 2
    missing = invoke(*command, "--epoch", "3")
    assert missing.exit_code == 2 and "has no models of epoch 3. Kept are those of: 2, 4." in missing.output


def test_discriminators_have_the_layers_and_optimisers_the_betas_that_are_asked_for(
    recipe: Path, tmp_path: Path
) -> None:
    trainer = Trainer(config_of(recipe, tmp_path / "run", dis_layers=2, beta1=0.3, beta2=0.9))
    assert {group["betas"] for group in trainer.generator_optimizer.param_groups} == {(0.3, 0.9)}
    ((_, logits),) = trainer.method.discriminate("a", torch.zeros(1, 3, 64, 64))[0]
    assert logits.shape == (1, 1, 14, 14)
