"""Convolutions by tiles are convolutions."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch
from torch import nn

from cgpipe.networks import build_generator
from cgpipe.networks.winograd import (
    FEWEST_CHANNELS,
    MEASURED,
    Conv3x3,
    PaddingMode,
    convolve,
    gradient_of_weight,
    transform_kernel,
)

pytestmark = pytest.mark.skipif(not MEASURED, reason="goes by tiles on x86 alone")
WIDE = FEWEST_CHANNELS
MODES: tuple[PaddingMode, ...] = ("zeros", "reflect", "replicate", "circular")
SIDES = [(8, 8), (16, 20), (17, 23), (3, 5), (4, 130)]


def pair(padding_mode: PaddingMode = "zeros", *, dtype: torch.dtype = torch.float64) -> list[nn.Conv2d]:
    """A convolution by tiles, and torch's own with the same weights."""
    torch.manual_seed(0)
    tiled = Conv3x3(WIDE, WIDE + 16, padding_mode=padding_mode)
    plain = nn.Conv2d(WIDE, WIDE + 16, 3, padding=1, padding_mode=padding_mode)
    plain.load_state_dict(tiled.state_dict())
    return [tiled.to(dtype), plain.to(dtype)]


def went_by_tiles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that :func:`convolve` will have seen."""
    seen: list[tuple[int, ...]] = []

    def watched(x: torch.Tensor, kernel: torch.Tensor, padding: int) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return convolve(x, kernel, padding)

    monkeypatch.setattr("cgpipe.networks.winograd.convolve", watched)
    return seen


@pytest.mark.parametrize("padding_mode", MODES)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_gives_what_a_convolution_gives(
    padding_mode: PaddingMode, sides: tuple[int, int], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiled, plain = pair(padding_mode)
    x = torch.randn(2, WIDE, *sides, dtype=torch.float64).to(memory_format=layout)
    seen = went_by_tiles(monkeypatch)
    with torch.inference_mode():
        torch.testing.assert_close(tiled(x), plain(x), atol=1e-12, rtol=0)
    margin = 0 if padding_mode == "zeros" else 2
    assert seen == [(2, WIDE, sides[0] + margin, sides[1] + margin)]


@pytest.mark.parametrize("padding_mode", MODES)
@pytest.mark.parametrize("sides", SIDES)
def test_its_gradients_are_those_of_a_convolution(padding_mode: PaddingMode, sides: tuple[int, int]) -> None:
    found = []
    for conv in pair(padding_mode):
        torch.manual_seed(1)
        x = torch.randn(2, WIDE, *sides, dtype=torch.float64, requires_grad=True)
        y = conv(x)
        y.backward(torch.randn(y.shape, dtype=torch.float64))
        found.append((x.grad, conv.weight.grad, conv.bias.grad))  # type: ignore[union-attr]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_only_the_gradients_that_are_asked_for_are_made() -> None:
    tiled, _ = pair()
    x = torch.randn(1, WIDE, 8, 8, dtype=torch.float64)
    tiled(x).sum().backward()
    assert x.grad is None and tiled.weight.grad is not None
    tiled.requires_grad_(False).weight.grad = None
    tiled(x.requires_grad_()).sum().backward()
    assert x.grad is not None and tiled.weight.grad is None


def test_in_fp32_it_rounds_to_a_few_millionths() -> None:
    tiled, plain = pair(dtype=torch.float32)
    x = torch.randn(1, WIDE, 64, 64)
    with torch.inference_mode():
        exact = plain.double()(x.double())
        assert (tiled(x) - exact).abs().max() < 3e-5 * exact.abs().max()


def test_large_pictures_go_in_bands_and_small_ones_together() -> None:
    tiled, plain = pair()
    for count, sides in ((1, (150, 140)), (9, (12, 12)), (2, (4, 2400))):
        x = torch.randn(count, WIDE, *sides, dtype=torch.float64)
        gradient = torch.randn(count, WIDE + 16, *sides, dtype=torch.float64)
        expected = torch.nn.grad.conv2d_weight(x, plain.weight.shape, gradient, padding=1)
        torch.testing.assert_close(gradient_of_weight(x, gradient, 1), expected, atol=1e-9, rtol=1e-9)
        with torch.inference_mode():
            found = convolve(x, transform_kernel(tiled.weight), 1) + tiled.bias[:, None, None]  # type: ignore[index]
            torch.testing.assert_close(found, plain(x), atol=1e-12, rtol=0)


def test_a_changed_weight_is_noticed() -> None:
    tiled, plain = pair()
    x = torch.randn(1, WIDE, 8, 8, dtype=torch.float64)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return tiled(x), plain(x)

    torch.testing.assert_close(*both())
    before = both()[0]
    optimizers = [torch.optim.Adam(conv.parameters(), lr=0.1) for conv in (tiled, plain)]
    for conv, optimizer in zip((tiled, plain), optimizers, strict=True):
        conv(x).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(*both())
    assert not torch.allclose(both()[0], before)
    for change in (
        lambda conv: torch._foreach_lerp_(list(conv.parameters()), [p + 1 for p in conv.parameters()], 0.5),
        lambda conv: conv.load_state_dict({name: 2 * value for name, value in conv.state_dict().items()}),
        lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight.flip(0).clone())),
    ):
        with torch.no_grad():
            for conv in (tiled, plain):
                change(conv)
        torch.testing.assert_close(*both())


def test_a_weight_that_changes_between_the_ways_forward_and_back_is_an_error() -> None:
    tiled, _ = pair()
    y = tiled(torch.randn(1, WIDE, 8, 8, dtype=torch.float64, requires_grad=True))
    with torch.no_grad():
        tiled.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_copies_and_files_do_not_carry_what_was_worked_out() -> None:
    tiled, plain = pair()
    x = torch.randn(1, WIDE, 8, 8, dtype=torch.float64)
    with torch.inference_mode():
        tiled(x)
    copied = copy.deepcopy(tiled)
    with torch.no_grad():
        copied.weight.mul_(2)
        torch.testing.assert_close(copied(x) - copied.bias[:, None, None], 2 * (plain(x) - plain.bias[:, None, None]))  # type: ignore[index]
    written = io.BytesIO()
    torch.save(tiled, written)
    assert len(written.getvalue()) < 1.2 * 8 * sum(p.numel() for p in tiled.parameters())
    assert tiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
def test_narrow_half_precision_traced_and_autocast_convolutions_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = went_by_tiles(monkeypatch)
    tiled, plain = pair(dtype=torch.float32)
    x = torch.randn(1, WIDE, 16, 16)
    with torch.no_grad():
        Conv3x3(WIDE, WIDE - 1)(x)
        traced = torch.jit.trace(tiled, x, check_trace=False)
        exported = torch.export.export(tiled, (x,)).module()
        for run in (traced, exported):
            assert torch.equal(run(x), plain(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(tiled(x), plain(x))
        assert torch.equal(tiled.bfloat16()(x.bfloat16()), plain.bfloat16()(x.bfloat16()))
    assert not seen


@pytest.mark.parametrize("name", ["resnet_9blocks", "resnet_9blocks_antialias", "compact", "compact-xs"])
def test_the_generators_use_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = went_by_tiles(monkeypatch)
    generator = build_generator(name).eval().requires_grad_(False)
    generator(torch.zeros(1, 3, 64, 64))
    wide = [m for m in generator.modules() if isinstance(m, Conv3x3) and min(m.in_channels, m.out_channels) >= WIDE]
    assert len(seen) == len(wide) >= 6
    others = itertools.filterfalse(lambda m: isinstance(m, Conv3x3), generator.modules())
    geometry = [(m.kernel_size, m.stride, m.padding) for m in others if type(m) is nn.Conv2d]
    assert ((3, 3), (1, 1), (1, 1)) not in geometry
