"""One photo at several strengths, sizes and looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cgpipe.cli import cli
from cgpipe.errors import ModelError, UsageError
from cgpipe.jobs.preview import preview
from cgpipe.options import ModelChoice


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_sheet_has_a_row_for_each_look_and_size(
    tmp_path: Path, photo: Path, file_model: Callable[..., Path]
) -> None:
    choices = [ModelChoice(model=file_model(tmp_path / "m", "horse", target)) for target in ("zebra", "cow")]
    titles = preview(photo, tmp_path / "sheet.png", choices=choices, strengths=[0, 1], sizes=["full", 32], height=48)
    assert titles[:4] == [f"zebra, size {size}, strength {strength}" for size in ("full", 32) for strength in (0, 1)]
    assert len(titles) == 8
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    down, right, gap = 48 + 8 + 22, 64 + 8, 8
    assert sheet.shape == (5 * down + gap, 2 * right + gap, 3)
    cells = [
        sheet[gap + row * down : gap + row * down + 48, gap + column * right : gap + column * right + 64]
        for row in range(5)
        for column in range(2)
    ]
    original = np.asarray(Image.open(photo)).astype(int)
    assert (cells[0] == original).all() and (cells[1] == 255).all()
    assert abs(cells[2] - original).max() <= 1  # a strength of 0
    assert abs(cells[3] - original).mean() > 5 and abs(cells[3] - cells[5]).mean() > 1


def test_the_command_makes_a_sheet(tmp_path: Path, photo: Path) -> None:
    options = ["--to", "zebra", "--strengths", "0.5, 1", "--sizes", "32", "--height", "32", "--device", "cpu"]
    result = CliRunner().invoke(cli, ["preview", str(photo), "-o", str(tmp_path / "sheet.jpg"), *options])
    assert result.exit_code == 0, result.output
    assert f"2 pictures: {tmp_path / 'sheet.jpg'}" in result.output and (tmp_path / "sheet.jpg").is_file()


def test_what_cannot_be_is_said(tmp_path: Path, photo: Path) -> None:
    with pytest.raises(UsageError, match="not a valid name for a picture"):
        preview(photo, tmp_path / "sheet.txt")
    with pytest.raises(UsageError, match="one of the input pictures"):
        preview(photo, photo)
    with pytest.raises(UsageError, match="does not exist"):
        preview(tmp_path / "nothing.png", tmp_path / "sheet.png")
    with pytest.raises(UsageError, match="between 0 and 2"):
        preview(photo, tmp_path / "sheet.png", strengths=[3])
    with pytest.raises(ModelError):
        preview(photo, tmp_path / "sheet.png", choices=[ModelChoice(to="nothing")])
    result = CliRunner().invoke(cli, ["preview", str(photo), "--strengths", "much"])
    assert result.exit_code == 2 and "use numbers such as" in result.output
