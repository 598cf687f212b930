"""Sheets of originals and translations."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import Result
from shell import invoke


def run(*arguments: str | Path) -> Result:
    return invoke("compare", *arguments)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Five gray originals, each with a red translation of another format; and one without."""
    before, after = tmp_path / "in", tmp_path / "out"
    for folder in (before, after):
        (folder / "below").mkdir(parents=True)
    for name in ("a", "b", "c", "d", "below/e"):
        cv2.imwrite(str(before / f"{name}.png"), np.full((40, 60, 3), 128, np.uint8))
        cv2.imwrite(str(after / f"{name}.bmp"), np.full((40, 60, 3), (0, 0, 255), np.uint8))
    cv2.imwrite(str(before / "alone.png"), np.full((40, 60, 3), 128, np.uint8))
    return before, after


def test_pairs_stand_in_rows(folders: tuple[Path, Path], tmp_path: Path) -> None:
    done = run(*folders, "-o", tmp_path / "sheet.png", "--height", "20", "--columns", "2")
    assert (done.exit_code, done.stdout) == (0, f"5 pairs: {tmp_path / 'sheet.png'}\n"), done.output
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (3 * 28 - 8, 2 * 68 - 8, 3)
    assert sheet[10, 15].tolist() == [128] * 3 and sheet[10, 45].tolist() == [0, 0, 255]
    assert sheet[60, 100].tolist() == [255] * 3, "the last place is empty"


def test_two_pictures_and_a_few_of_many(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before, after = folders
    assert run(before / "a.png", after / "a.bmp", "-o", tmp_path / "one.jpg").stdout.startswith("1 pair:")
    assert run(before, after, "-o", tmp_path / "few.png", "--count", "2").stdout.startswith("2 pairs:")


def test_of_two_pictures_with_one_stem_each_stands_beside_its_own(tmp_path: Path) -> None:
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
        for suffix, level in (("bmp", 50), ("png", 200)):
            cv2.imwrite(str(tmp_path / folder / f"a.{suffix}"), np.full((20, 20, 3), level, np.uint8))
    assert run(tmp_path / "in", tmp_path / "out", "-o", tmp_path / "sheet.png", "--height", "20").exit_code == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert [[int(sheet[10, x + start, 0]) for x in (10, 30)] for start in (0, 48)] == [[50, 50], [200, 200]]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff"])
def test_a_sheet_takes_the_place_of_an_earlier_one_and_of_no_other_picture(
    folders: tuple[Path, Path], tmp_path: Path, suffix: str
) -> None:
    before, after = folders
    own = tmp_path / f"own.{suffix}"
    cv2.imwrite(str(own), np.zeros((9, 9, 3), np.uint8))
    content = own.read_bytes()
    done = run(before, after, "-o", own)
    assert (done.exit_code, "is not a sheet" in done.output, own.read_bytes() == content) == (2, True, True)
    sheet = tmp_path / f"sheet.{suffix}"
    assert run(before, after, "-o", sheet).exit_code == 0
    first = sheet.read_bytes()
    assert run(before, after, "-o", sheet, "--count", "2").exit_code == 0
    assert sheet.read_bytes() != first


def test_what_cannot_be_compared_is_said(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before, after = folders
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((before, tmp_path / "nowhere"), "does not exist"),
        ((before, tmp_path / "empty"), "has a translation of the same name"),
        ((before, after / "a.bmp"), "two pictures, or two folders"),
        ((before, after, "-o", tmp_path / "sheet.xyz"), "not a valid name for a picture"),
        ((before, after, "-o", before / "a.png"), "is one of the input pictures"),
    ):
        done = run(*arguments)
        assert (done.exit_code, message in done.output) == (2, True), done.output
    (before / "a.png").write_bytes(b"no picture")
    broken = run(before / "a.png", after / "a.bmp", "-o", tmp_path / "sheet.png")
    assert (broken.exit_code, f"{before / 'a.png'} cannot be read" in broken.output) == (1, True)
