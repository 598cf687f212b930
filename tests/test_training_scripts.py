"""The small scripts beside the recipes in train/."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cgpipe.models import Model, load_any, save_model
from cgpipe.models.zoo import STARTS_FOLDER
from cgpipe.networks import build_generator

Script = Callable[..., None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """``script("average", argument, ...)``: runs one of them, in this process."""

    def run(name: str, *arguments: object) -> None:
        path = Path(__file__).parent.parent / "train" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")

    return run


def test_an_average_lies_between_its_two_models_and_says_what_it_is(
    script: Script, make_model: Any, tmp_path: Path
) -> None:
    one, other = make_model(), make_model()
    save_model(tmp_path / "one.safetensors", one)
    save_model(tmp_path / "other.safetensors", other)
    files = (tmp_path / "one.safetensors", tmp_path / "other.safetensors")
    script("average", *files, "--share", 0.25, "-o", tmp_path / "both.safetensors")
    both = load_any(tmp_path / "both.safetensors")
    for name, weight in both.generator.state_dict().items():
        expected = 0.75 * one.generator.state_dict()[name] + 0.25 * other.generator.state_dict()[name]
        torch.testing.assert_close(weight, expected, atol=2e-3, rtol=2e-3)  # files hold half precision
    second = {"share": 0.25, "made_by": {"recipe": "a test"}}
    assert both.card.made_by["averaged_with"] == [second]
    script("average", tmp_path / "both.safetensors", files[0], "-o", tmp_path / "three.safetensors")
    assert load_any(tmp_path / "three.safetensors").card.made_by["averaged_with"] == [second, {**second, "share": 0.5}]


def test_the_middle_between_a_signed_skip_and_none_has_half_of_it(
    script: Script, make_model: Any, tmp_path: Path
) -> None:
    other = make_model()
    settings = {**other.card.settings, "signed_skip": True}
    one = Model(replace(other.card, settings=settings), build_generator("compact-flat", **settings))
    files = (tmp_path / "one.safetensors", tmp_path / "other.safetensors")
    for path, model in zip(files, (one, other), strict=True):
        save_model(path, model)
    script("average", *files, "-o", tmp_path / "both.safetensors")
    weight, signed = (
        m.generator.get_submodule("refine").weight for m in (load_any(tmp_path / "both.safetensors"), one)
    )
    bright = other.generator.get_submodule("refine").weight.shape[1]
    torch.testing.assert_close(weight[:, bright:], signed[:, bright:] / 2, atol=2e-3, rtol=2e-3)
    with pytest.raises(SystemExit):  # the header is the first's, which has no place for the other's
        script("average", *reversed(files), "-o", tmp_path / "none.safetensors")


def test_batch_norms_have_an_average(script: Script, make_model: Any, tmp_path: Path) -> None:
    one, other = make_model(norm="batch"), make_model(norm="batch")
    for path, model in (("one.safetensors", one), ("other.safetensors", other)):
        model.generator.train()(torch.rand(1, 3, 16, 16))  # counts a batch
        save_model(tmp_path / path, model)
    script("average", tmp_path / "one.safetensors", tmp_path / "other.safetensors", "-o", tmp_path / "both.safetensors")
    made, (first, second) = load_any(tmp_path / "both.safetensors"), (m.generator.state_dict() for m in (one, other))
    for name, weight in made.generator.state_dict().items():
        torch.testing.assert_close(
            weight, torch.lerp(first[name].float(), second[name].float(), 0.5).to(weight), atol=2e-3, rtol=2e-3
        )


def test_models_of_different_architectures_have_no_average(
    script: Script, make_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "one.safetensors", make_model())
    save_model(tmp_path / "other.safetensors", make_model(norm="batch"))
    with pytest.raises(SystemExit):
        script("average", tmp_path / "one.safetensors", tmp_path / "other.safetensors", "-o", tmp_path / "both")
    assert "different architectures" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()


def test_masks_of_what_is_dark(script: Script, tmp_path: Path) -> None:
    picture = np.full((60, 120, 3), 200, np.uint8)
    picture[:, :60] = 10
    picture[10:14, 90:94] = 10  # a small dark thing is no night
    (tmp_path / "in/sub").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in/sub/half.jpg"), picture)
    script("dark_masks", tmp_path / "in", tmp_path / "masks")
    mask = cv2.imread(str(tmp_path / "masks/sub/half.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.shape == (60, 120)
    assert (mask[:, :45] == 0).all()
    assert (mask[:, 75:] == 255).all()


def test_masks_end_at_the_contours_of_an_animal() -> None:
    tools = runpy.run_path(str(Path(__file__).parent.parent / "train" / "animal_masks.py"))
    noise = np.random.default_rng(0).integers(-12, 12, (96, 128, 3))
    animal, coarse = np.zeros((96, 128), np.uint8), np.zeros((96, 128), np.uint8)
    cv2.ellipse(animal, (60, 50), (30, 14), 0, 0, 360, 255, -1)
    cv2.ellipse(coarse, (64, 48), (44, 32), 0, 0, 360, 255, -1)
    pixels = (np.where(animal[..., None] > 0, (120, 70, 30), (70, 150, 60)) + noise).astype(np.uint8)
    found = tools["along_contours"](coarse, pixels)
    assert (found[animal > 0] > 200).mean() > 0.98
    assert found[animal == 0].mean() < 0.2 * coarse[animal == 0].mean()
    flat = np.full_like(pixels, 90)
    assert tools["along_contours"](coarse, flat) is coarse


def test_masks_are_of_what_was_cut_out_and_is_an_animal() -> None:
    tools = runpy.run_path(str(Path(__file__).parent.parent / "train" / "animal_masks.py"))
    coarse, cut_out = np.zeros((96, 128), np.uint8), np.zeros((96, 128), np.uint8)
    cv2.rectangle(coarse, (10, 10), (60, 60), 255, -1)
    cv2.rectangle(coarse, (80, 10), (110, 40), 255, -1)  # an animal that was not cut out
    cv2.rectangle(cut_out, (20, 20), (45, 50), 255, -1)
    cv2.rectangle(cut_out, (80, 70), (100, 90), 255, -1)  # a man
    found = tools["of_cut_out"](coarse, cut_out)
    assert (found[20:51, 20:46] > 240).all() and (found[12:39, 82:109] == 255).all()
    assert not found[60:].any() and not found[:, 54:76].any()
    wider = tools["of_cut_out"](coarse, cut_out, 6)
    assert wider[35, 15] > 127 > found[35, 15], "a margin as wide as asked for"


def test_photos_are_sorted_by_their_colours(script: Script, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name, sky, land in (
        ("sunset", (40, 120, 240), (30, 30, 40)),
        ("day", (220, 150, 60), (60, 140, 80)),
        ("night", (30, 10, 10), (10, 10, 10)),
    ):
        pixels = np.full((96, 128, 3), sky, np.uint8)
        pixels[48:] = land
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), pixels)
    light = np.random.default_rng(0).uniform(0.3, 1, (96, 128, 1))
    for name, leaves in (("autumn", (20, 110, 220)), ("summer", (40, 200, 60))):
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), light * leaves)
    script("sort_photos", tmp_path / "photos", tmp_path / "sorted")
    found = {kind.name: [path.stem for path in kind.iterdir()] for kind in (tmp_path / "sorted").iterdir()}
    assert found == {kind: [kind] for kind in ("day", "sunset", "summer", "autumn")}


def test_the_palest_animals_are_repeated(script: Script, tmp_path: Path) -> None:
    for name, coat in (("brown", (30, 60, 110)), ("white", (230, 235, 240)), ("sky", (30, 60, 110))):
        picture = np.full((40, 60, 3), 250 if name == "sky" else 90, np.uint8)
        mask = np.zeros((40, 60), np.uint8)
        picture[10:30, 15:45], mask[10:30, 15:45] = coat, 255
        for folder, suffix, pixels in (("in/sub", "jpg", picture), ("masks/sub", "png", mask)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{name}.{suffix}"), pixels)
    cv2.imwrite(str(tmp_path / "in" / "without mask.jpg"), picture)
    script("pale_coats", tmp_path / "in", tmp_path / "masks", tmp_path / "evened", "--count", 1, "--times", 3)
    names = {"brown", "sky", "white", "white-1", "white-2"}
    for folder in ("pictures", "masks"):
        assert {path.stem for path in (tmp_path / "evened" / folder / "sub").iterdir()} == names
        assert not list((tmp_path / "evened" / folder).glob("*.*"))


def test_masks_of_close_ups_are_opened(script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, columns = np.mgrid[:128, :128]
    stripes = np.where((rows + columns // 3) % 12 < 6, 235, 25).astype(np.uint8)
    mask = np.zeros((128, 128), np.uint8)
    mask[32:96, 32:96] = 255
    around = np.where(mask > 0, stripes, 150).astype(np.uint8)
    for name, picture in (("close", stripes), ("whole", around)):
        for folder, suffix, pixels in (("in/sub", "jpg", picture), ("masks/sub", "png", mask)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{name}.{suffix}"), pixels)
    without_attention = STARTS_FOLDER / "compact-xs.safetensors"
    script("close_ups", tmp_path / "in", tmp_path / "masks", without_attention, tmp_path / "opened")
    close, whole = (cv2.imread(str(tmp_path / "opened" / "sub" / f"{name}.png"), 0) for name in ("close", "whole"))
    assert close is not None and (close == 255).all()
    assert (whole == mask).all()
    assert capsys.readouterr().out == "1 masks are white throughout\n"


def test_masks_of_leaves_are_by_their_colours(script: Script, tmp_path: Path) -> None:
    picture = np.full((64, 96, 3), (230, 180, 120), np.uint8)
    picture[32:, :32], picture[32:, 32:64], picture[32:, 64:] = (40, 150, 60), (30, 90, 200), (120, 120, 120)
    for place in ("in/one.jpg", "in/sub/two.jpg", "rest/one.jpg", "rest/two.jpg", "rest/three.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / place), picture)
    script("leaf_masks", tmp_path / "in", tmp_path / "out", "--others", tmp_path / "rest", "--count", 2)
    names = ["0000-one", "0001-two", "0002-one", "0003-three"]
    for folder in ("pictures", "masks"):
        assert sorted(path.stem for path in (tmp_path / "out" / folder).iterdir()) == names
    for name in names:
        found = cv2.imread(str(tmp_path / "out" / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        assert found is not None and (found[150:, 10:70] == 255).all(), "green"
        assert (found[150:, 100:] == 0).all() and (found[:110] == 0).all(), "earth, walls and skies"


def test_a_folder_that_is_not_there(script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script("dark_masks", tmp_path / "nothing", tmp_path / "masks")
    assert "nothing" in capsys.readouterr().err
