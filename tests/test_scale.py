"""The working scale and the way back from it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cgpipe.engine.scale import add_change, resampling, resize, to_integer, working_size


@pytest.mark.parametrize(
    ("height", "width", "size", "scales", "expected"),
    [
        (3000, 4000, "full", (192, 384), (3000, 4000)),
        (3000, 4000, "auto", None, (3000, 4000)),
        (3000, 4000, "auto", (192, 384), (384, 512)),
        (4000, 3000, "auto", (192, 384), (512, 384)),
        (300, 400, "auto", (192, 384), (300, 400)),
        (100, 50, "auto", (192, 384), (384, 192)),
        (500, 400, 512, None, (640, 512)),
        (3000, 4000, 256, None, (256, 341)),
        (1, 5000, 256, None, (4, 20000)),
    ],
)
def test_working_size(height: int, width: int, size: object, scales: tuple[int, int] | None, expected: object) -> None:
    assert working_size(height, width, size, scales) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 17), (64, 201), (64, 20), (7, 7)])
def test_bands_resample_like_torch(inputs: int, outputs: int) -> None:
    line = torch.rand((1, 1, 1, inputs))
    expected = F.interpolate(line, (1, outputs), mode="bicubic", antialias=outputs < inputs).flatten()
    bands = resampling(inputs, outputs, torch.device("cpu"))
    torch.testing.assert_close(torch.cat([band.weights @ line.flatten()[band.inputs] for band in bands]), expected)
    assert [i for band in bands for i in range(outputs)[band.outputs]] == list(range(outputs))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_a_change_is_added_as_if_it_were_enlarged_whole(dtype: torch.dtype) -> None:
    top = 255 if dtype == torch.uint8 else 65535
    pixels = torch.randint(0, top, (2, 45, 67, 3), dtype=torch.int32).to(dtype)
    change = (torch.rand((2, 3, 12, 18)) - 0.5) * top
    enlarged = F.interpolate(change, (45, 67), mode="bicubic")
    expected = to_integer(pixels.float() + 0.5 * enlarged.permute(0, 2, 3, 1), dtype)
    difference = add_change(pixels, change, 0.5).int() - expected.int()
    assert difference.abs().max() <= 1  # The two orders of summing may round a half differently.


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_no_change_leaves_every_bit(dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (1, 33, 47, 3), dtype=torch.int32).to(dtype)
    assert torch.equal(add_change(pixels, torch.zeros((1, 3, 8, 12))).int(), pixels.int())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("band_pixels", [1 << 22, 300])
def test_resizing_keeps_the_mean(dtype: torch.dtype, band_pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgpipe.engine.scale.BAND_PIXELS", band_pixels)
    scale = 1 if dtype == torch.uint8 else 257
    rows = torch.linspace(0, 250, 400).int()[None, :, None, None].expand(1, 400, 300, 3) * scale
    small = resize(rows.to(dtype), (40, 30))
    assert small.shape == (1, 3, 40, 30)
    torch.testing.assert_close(small.mean(), rows.float().mean(), rtol=0.005, atol=0.0)
    assert (small.diff(dim=2) > 0).all()


def test_rounding_is_to_the_nearest_and_limited() -> None:
    assert to_integer(torch.tensor([-3.0, 0.6, 254.4, 300.0]), torch.uint8).tolist() == [0, 1, 254, 255]
