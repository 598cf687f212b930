"""``cgpipe models gallery``: one photo in all looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cgpipe.cli import cli
from cgpipe.errors import CgpipeWarning, UsageError
from cgpipe.jobs.looks_sheet import looks_sheet
from cgpipe.models import find_model, zoo


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.full((90, 120, 3), (200, 60, 20), np.uint8))
    return path


@pytest.fixture
def only_mine(models_folder: Path, file_model: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two looks for photos and one for horses, and nothing that ships."""
    monkeypatch.setattr(zoo, "SHIPPED_FOLDER", models_folder / "none")
    monkeypatch.setattr(zoo, "styles_folder", lambda: None)
    file_model(models_folder, "photo", "fog")
    file_model(models_folder, "photo", "fire", name="fire-1234")
    file_model(models_folder, "horse", "zebra")
    return models_folder


def test_every_look_for_any_photo_is_on_the_sheet(only_mine: Path, photo: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    sheet = tmp_path / "sheet.png"
    names = looks_sheet(photo, sheet, height=64, columns=3, on_look=lambda *now: seen.append(now))
    assert names == ["fire-1234", "fog"]
    assert seen == [("fire-1234", 2), ("fog", 2)]
    pixels = cv2.imread(str(sheet))
    assert pixels.shape[:2] == (64 + 8 + 22 + 8, 3 * (85 + 8) + 8)
    assert np.abs(pixels[8:72, 8:93].astype(int) - (200, 60, 20)).max() <= 1


def test_a_look_that_cannot_be_used_is_left_out_with_a_word(only_mine: Path, photo: Path, tmp_path: Path) -> None:
    path = only_mine / "fire-1234.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = b"\xff\x7f\xff\x7f"  # weights that are no numbers
    path.write_bytes(data)
    with pytest.warns(CgpipeWarning, match="fire-1234 is left out"):
        assert looks_sheet(photo, tmp_path / "sheet.jpg", height=64) == ["fog"]


def test_what_cannot_be_shown_is_said(only_mine: Path, photo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a valid name for a picture"):
        looks_sheet(photo, tmp_path / "sheet.txt")
    with pytest.raises(UsageError, match="one of the input pictures"):
        looks_sheet(photo, photo)
    with pytest.raises(UsageError, match=r"none\.jpg does not exist"):
        looks_sheet(tmp_path / "none.jpg", tmp_path / "sheet.jpg")


def test_the_command(only_mine: Path, photo: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.jpg"
    done = CliRunner().invoke(cli, ["models", "gallery", str(photo), "-o", str(sheet), "--height", "64"])
    assert (done.exit_code, done.output.strip()) == (0, f"2 looks: {sheet}")
    assert sheet.is_file()


@pytest.mark.parametrize("look", ["woodcut", "swirls", "blocks", "storm", "fog", "fire"])
def test_a_shipped_look_is_small_and_names_its_painting(models_folder: Path, look: str) -> None:
    found = find_model(look)
    assert found.path.stat().st_size <= 700_000
    assert found.card is not None
    assert found.card.finished
    assert "public domain" in found.card.made_by["note"]
    assert len(found.card.made_by["paintings"][0]["sha256"]) == 64
    assert "/" not in found.card.made_by["recipe"]["init_a_to_b"]
