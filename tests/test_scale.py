"""The working scale and the way back from it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
from torch.nn import functional as F

from cgpipe.engine import scale
from cgpipe.engine.scale import FAINT, Size, add_change, detail_lost, resampling, resize, to_integer, working_size


@pytest.mark.parametrize(
    ("height", "width", "size", "scales", "expected"),
    [
        (3000, 4000, "full", (192, 384), (3000, 4000)),
        (1080, 1920, "auto", None, (1080, 1920)),
        (3000, 4000, "auto", None, (1254, 1672)),
        (20000, 8, "auto", (192, 384), (72408, 29)),
        (65320, 48, "auto", (192, 384), (53422, 39)),
        (5_000_000, 1, "auto", None, (3238172, 1)),
        (3000, 4000, "auto", (192, 384), (256, 341)),
        (4000, 3000, "auto", (192, 384), (341, 256)),
        (3000, 4000, "auto", (160, 192), (192, 256)),
        (3000, 4000, "auto", (320, 512), (320, 427)),
        (384, 512, "auto", (192, 384), (384, 512)),
        (300, 400, "auto", (192, 384), (300, 400)),
        (100, 50, "auto", (192, 384), (384, 192)),
        (500, 400, 512, None, (640, 512)),
        (3000, 4000, 256, None, (256, 341)),
        (1, 5000, 256, None, (4, 20000)),
    ],
)
def test_working_size(height: int, width: int, size: object, scales: tuple[int, int] | None, expected: object) -> None:
    assert working_size(height, width, size, scales) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (3000, 4000, "auto", (512, 683)),
        (1440, 1080, "auto", (480, 360)),
        (600, 600, "auto", (256, 256)),
        (280, 400, "auto", (280, 400)),
        (100, 100, "auto", (224, 224)),
        (3000, 4000, 256, (256, 341)),
    ],
)
def test_a_style_works_at_a_larger_size_on_large_pictures(
    height: int, width: int, size: Size, expected: tuple[int, int]
) -> None:
    assert working_size(height, width, size, (224, 288), large_side=512) == expected


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(1, 1), (1, 9), (2, 1), (5, 17), (64, 201), (64, 20), (7, 7), (7, 8), (300, 7), (3, 100)]
)
def test_bands_resample_like_torch(inputs: int, outputs: int) -> None:
    line = torch.rand((1, 1, 1, inputs))
    expected = F.interpolate(line, (1, outputs), mode="bicubic", antialias=outputs < inputs).flatten()
    bands = resampling(inputs, outputs, torch.device("cpu"))
    torch.testing.assert_close(torch.cat([band.weights @ line.flatten()[band.inputs] for band in bands]), expected)
    lines = F.interpolate(
        torch.eye(inputs)[None, :, None], (1, outputs), mode="bicubic", antialias=outputs < inputs
    ).squeeze()
    for band in bands:
        dense = torch.zeros(inputs, band.weights.shape[0])
        dense[band.inputs] = band.weights.T
        assert torch.equal(dense, lines.view(inputs, outputs)[:, band.outputs]), "torch's own, to the bit"
    assert [i for band in bands for i in range(outputs)[band.outputs]] == list(range(outputs))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_a_change_is_added_as_if_it_were_enlarged_whole(dtype: torch.dtype) -> None:
    top = 255 if dtype == torch.uint8 else 65535
    pixels = torch.randint(0, top, (2, 45, 67, 3), dtype=torch.int32).to(dtype)
    seen, translated = top * torch.rand((2, 2, 3, 12, 18))
    change = 0.5 * (translated - seen)
    lost = 0.5 * detail_lost(seen / top, translated / top)
    assert 0.1 < lost.mean() < 0.5
    planes = pixels.permute(0, 3, 1, 2).float()
    enlarged, faded = (F.interpolate(layer, (45, 67), mode="bicubic") for layer in (change + lost * seen, lost))
    expected = to_integer((planes + enlarged - faded * planes).permute(0, 2, 3, 1), dtype)
    difference = add_change(pixels, seen, translated, 0.5).int() - expected.int()
    assert difference.abs().max() <= 1  # The two orders of summing may round a half differently.


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_no_change_leaves_every_bit(dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (1, 33, 47, 3), dtype=torch.int32).to(dtype)
    seen = torch.rand((1, 3, 8, 12)) * 255
    assert torch.equal(add_change(pixels, seen, seen).int(), pixels.int())


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_the_picture_beside_it_change_no_bit(threads: int) -> None:
    pixels = torch.randint(0, 256, (2, 90, 70, 3), dtype=torch.uint8)
    seen = torch.rand((2, 3, 24, 20)) * 255
    translated = torch.cat([seen[:1] + 20, 255 - seen[1:]])  # the detail of one is kept, that of the other lost
    mask = torch.randint(0, 256, (2, 90, 70), dtype=torch.uint8)
    alone = [add_change(*(x[i : i + 1] for x in (pixels, seen, translated)), 1.5, mask[i : i + 1]) for i in (0, 1)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(add_change(pixels, seen, translated, 1.5, mask), torch.cat(alone))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def striped(height: int, width: int, period: int, low: float, high: float) -> torch.Tensor:
    """Grey columns that alternate, (1, 3, height, width)."""
    columns = torch.where(torch.arange(width) % period < period // 2, low, high)
    return columns.expand(1, 3, height, width).contiguous()


def test_stripes_that_the_generator_took_away_do_not_come_back_with_the_detail() -> None:
    original = striped(240, 320, 16, 40.0, 210.0).permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    seen = resize(original, (60, 80))
    plain = torch.full_like(seen, 125.0)
    result = add_change(original, seen, plain).float()
    assert (result - 125).std() < 0.1 * (original.float() - 125).std()


def test_detail_stays_where_the_generator_changed_colour_or_added_stripes() -> None:
    torch.manual_seed(0)
    original = (120 + 20 * torch.randn((1, 240, 320, 3))).clamp(60, 180).to(torch.uint8)
    seen = resize(original, (60, 80))
    for change in (torch.full_like(seen, 30.0), striped(60, 80, 8, -40.0, 40.0)):
        added = add_change(original, seen, seen + change).float() - original
        detail = added - F.avg_pool2d(added.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
        assert detail[:, 4:-4, 4:-4].std() < 3, "a fifth of the original's own, all of it from the stripes' edges"


def test_detail_is_lost_as_far_as_the_generator_took_it_away() -> None:
    seen = torch.rand((1, 3, 40, 40))
    around = F.avg_pool2d(F.pad(seen, (1,) * 4, mode="replicate"), 3, 1)
    half, softer = (around + share * (seen - around) for share in (0.5, 0.9))
    assert 0.3 < detail_lost(seen, half).mean() < 0.5
    for kept in (seen, softer, seen * 0.9 + 0.1, seen + torch.rand_like(seen) * FAINT):
        assert detail_lost(seen, kept).max() == 0
    assert detail_lost(seen * FAINT, torch.zeros_like(seen)).max() == 0
    assert detail_lost(seen, 1 - seen).min() == 1


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


@pytest.mark.parametrize(
    ("dtype", "channels", "side", "masked", "used"),
    [
        (torch.uint8, 3, 8, False, True),
        (torch.uint16, 3, 8, False, False),
        (torch.uint8, 4, 8, False, False),
        (torch.uint8, 3, 8, True, False),
        (torch.uint8, 3, 20, False, False),
    ],
)
def test_a_kernel_adds_the_change_to_rgb_of_8_bits_that_is_not_reduced(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, channels: int, side: int, masked: bool, used: bool
) -> None:
    kernel = Mock(side_effect=lambda pixels, change, lost: pixels)
    monkeypatch.setattr(scale, "can_fuse", lambda device: True)
    monkeypatch.setattr(scale, "upsampling", lambda: Mock(add_change_up=kernel))
    pixels = torch.zeros((1, 16, 16, channels), dtype=dtype)
    seen, made = torch.rand(2, 1, channels, side, side)
    mask = torch.zeros((1, 16, 16), dtype=dtype) if masked else None
    assert scale.add_at_once(pixels, seen, made, 1.0, mask).shape == pixels.shape
    assert kernel.called == used
