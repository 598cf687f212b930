"""At which sizes a generator works, and how that is measured."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cgpipe.errors import DataError
from cgpipe.evaluation.scales import share_by_side, translate_at, working_scales
from cgpipe.networks import build_generator


@pytest.mark.parametrize(
    ("success", "expected"),
    [
        ({128: 0.4, 192: 0.78, 256: 0.80, 384: 0.55}, (192, 256)),
        ({128: 0.4, 192: 0.80, 256: 0.60, 384: 0.79}, (192, 192)),
        ({128: 0.9}, (128, 128)),
        ({256: 0.7, 128: 0.7, 192: 0.68}, (128, 256)),
    ],
)
def test_the_range_around_the_best_side(success: dict[int, float], expected: tuple[int, int]) -> None:
    assert working_scales(success) == expected


def test_shares_are_of_what_comes_out_at_each_side_that_the_network_takes(tmp_path: Path) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((40, 50, 3), 60 * index, np.uint8))
    seen: list[tuple[int, ...]] = []

    def remember(pictures: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pictures.shape))
        return pictures

    remember.multiple = 16  # type: ignore[attr-defined]
    shares = share_by_side(remember, tmp_path, "zebra", sides=(32, 40, 48), batch_size=2)
    assert shares == {32: 0.0, 48: 0.0}
    assert seen == [(2, 3, 32, 32), (1, 3, 32, 32), (2, 3, 48, 48), (1, 3, 48, 48)]


@pytest.mark.parametrize("side", [64, 128, 200])
def test_the_change_is_brought_back_to_the_pictures_own_size(side: int) -> None:
    pictures = torch.rand((2, 3, 128, 128)) - 0.5
    for change in (0.0, 0.25):
        translated = translate_at(lambda x, change=change: x + change, pictures, side)  # type: ignore[misc]
        torch.testing.assert_close(translated, pictures + change, rtol=0, atol=1.5 / 127.5)


def test_no_side_that_fits_is_an_error(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(DataError, match="none of the sides"):
        share_by_side(build_generator("unet_256", ngf=1), tmp_path, "zebra", sides=(128,))
