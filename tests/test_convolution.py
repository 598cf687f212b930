"""The fast layers for CPUs give what torch's give, forward and backward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn

from cgpipe.networks import build_generator
from cgpipe.networks.cpu import accelerate, convolution, faster_layer, norm, steady_weights, winograd
from cgpipe.networks.cpu.convolution import MIN_CHANNELS_FOR_WINOGRAD, MIN_MULTIPLICATIONS, FastConv2d
from cgpipe.networks.cpu.eager import MEASURED
from cgpipe.networks.discriminators import PatchDiscriminator
from cgpipe.networks.norm import InstanceNorm
from cgpipe.training.optimise import adam, update

pytestmark = pytest.mark.skipif(not MEASURED, reason="there are ways of our own on x86 alone")
WIDE = MIN_CHANNELS_FOR_WINOGRAD
MODES = ("zeros", "reflect", "replicate", "circular")
SIDES = [(8, 8), (16, 20), (17, 23), (3, 5), (4, 130)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def any_work_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "MIN_MULTIPLICATIONS", 0)


@pytest.fixture
def as_shipped(any_work_is_enough: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "MIN_MULTIPLICATIONS", MIN_MULTIPLICATIONS)


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each way has been gone."""
    seen: dict[str, int] = {}
    for module, name in (
        (winograd, "convolve"),
        (winograd, "gradients"),
        (convolution, "gradient_of_weight"),
    ):
        monkeypatch.setattr(module, name, _counted(getattr(module, name), name, seen))
    return seen


def _counted(function: Callable[..., object], name: str, seen: dict[str, int]) -> Callable[..., object]:
    def counted(*args: object, **kwargs: object) -> object:
        seen[name] = seen.get(name, 0) + 1
        return function(*args, **kwargs)

    return counted


class Pair(NamedTuple):
    """A layer, and torch's own with the same weights."""

    ours: nn.Module
    theirs: nn.Module


def pair_of(theirs: nn.Module, dtype: torch.dtype = torch.float64) -> Pair:
    """A layer of torch's, and a fast copy of it with weights of its own."""
    theirs.to(dtype)
    ours = faster_layer(copy.deepcopy(theirs))
    assert ours is not None
    return Pair(ours, theirs)


def tiled(side: int = 3, padding_mode: str = "zeros", *, dtype: torch.dtype = torch.float64) -> Pair:
    torch.manual_seed(0)
    return pair_of(nn.Conv2d(WIDE, WIDE + 16, side, padding=1, padding_mode=padding_mode), dtype)


def strided(side: int, stride: int, padding: int, outputs: int = 48) -> Pair:
    torch.manual_seed(0)
    return pair_of(nn.Conv2d(32, outputs, side, stride, padding))


def transposed(side: int, stride: int, padding: int, output_padding: int) -> Pair:
    torch.manual_seed(0)
    return pair_of(nn.ConvTranspose2d(48, 32, side, stride, padding, output_padding))


def gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What comes out, and the gradients of a random weighting of it, the same in every dtype."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    torch.manual_seed(1)
    weighting = torch.randn(y.shape).bfloat16().to(y.dtype)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], weighting)]


def check_gradients(pair: Pair, x: torch.Tensor) -> None:
    for one, other in zip(gradients(pair.ours, x), gradients(pair.theirs, x), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def check_gradients_of_gradients(pair: Pair, x: torch.Tensor) -> None:
    """As the gradient penalty of WGAN-GP needs them."""
    found = []
    for layer in pair:
        layer.zero_grad()
        seen = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(layer(seen).square().sum(), seen, create_graph=True)
        slope.square().sum().backward()
        found.append([seen.grad, *(p.grad for p in layer.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)


# -- by tiles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_mode", MODES)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", winograd.KERNELS)
def test_tiles_give_what_a_convolution_gives(
    side: int, layout: torch.memory_format, sides: tuple[int, int], padding_mode: str, ways: dict[str, int]
) -> None:
    pair = tiled(side, padding_mode)
    x = torch.randn(2, WIDE, *sides, dtype=torch.float64).to(memory_format=layout)
    with torch.inference_mode():
        torch.testing.assert_close(pair.ours(x), pair.theirs(x), atol=1e-12, rtol=0)
    assert ways == {"convolve": 1}


@pytest.mark.parametrize("padding_mode", MODES)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("side", winograd.KERNELS)
def test_gradients_by_tiles_are_those_of_a_convolution(
    side: int, sides: tuple[int, int], padding_mode: str, ways: dict[str, int]
) -> None:
    check_gradients(tiled(side, padding_mode), torch.randn(2, WIDE, *sides, dtype=torch.float64))
    assert ways == {"convolve": 1, "gradients": 1}


def test_in_fp32_tiles_round_to_a_few_millionths() -> None:
    pair = tiled(dtype=torch.float32)
    x = torch.randn(1, WIDE, 64, 64)
    with torch.inference_mode():
        exact = pair.theirs.double()(x.double())
        assert (pair.ours(x) - exact).abs().max() < 3e-5 * exact.abs().max()


@pytest.mark.parametrize(("count", "sides"), [(1, (150, 140)), (9, (12, 12)), (2, (4, 2400))])
def test_large_pictures_go_in_bands_and_small_ones_together(count: int, sides: tuple[int, int]) -> None:
    check_gradients(tiled(), torch.randn(count, WIDE, *sides, dtype=torch.float64))


def test_only_the_gradients_that_are_asked_for_are_made() -> None:
    for conv in (tiled().ours, strided(3, 2, 1).ours):
        assert isinstance(conv, nn.Conv2d)
        x = torch.randn(1, conv.in_channels, 8, 8, dtype=torch.float64)
        conv(x).sum().backward()
        assert x.grad is None and conv.weight.grad is not None
        conv.requires_grad_(False).weight.grad = None
        conv(x.requires_grad_()).sum().backward()
        assert x.grad is not None and conv.weight.grad is None


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "lerp": lambda conv: torch._foreach_lerp_(list(conv.parameters()), [p + 1 for p in conv.parameters()], 0.5),
    "data.lerp": lambda conv: [p.data.lerp_(p.data + 1, 0.5) for p in conv.parameters()],
    "data.mul": lambda conv: [p.data.mul_(2) for p in conv.parameters()],
    "load": lambda conv: conv.load_state_dict({name: 2 * value for name, value in conv.state_dict().items()}),
    "new": lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight.flip(0).clone())),
    "fused step": lambda conv: _fused_step(conv),
}


def _fused_step(conv: nn.Module) -> None:
    with torch.enable_grad():
        update(adam(conv, lr=0.1), {"size": torch.stack([p.square().sum() for p in conv.parameters()]).sum()})


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_is_used_at_once(change: str) -> None:
    pair = tiled()
    x = torch.randn(1, WIDE, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        before = pair.ours(x)
        for conv in pair:
            CHANGES[change](conv)
        torch.testing.assert_close(pair.ours(x), pair.theirs(x))
        assert not torch.allclose(pair.ours(x), before)


def test_a_weight_that_stays_is_transformed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}
    counted = _counted(winograd.transform_kernel, "transforms", seen)
    monkeypatch.setattr(winograd, "transform_kernel", counted)
    ours, theirs = tiled()
    frozen = FastConv2d.of(theirs, frozen=True)  # type: ignore[arg-type]
    x = torch.randn(1, WIDE, 8, 8, dtype=torch.float64)
    for layer, expected in ((ours, 3), (frozen, 1)):
        seen.clear()
        for _ in range(3):
            torch.testing.assert_close(layer(x), theirs(x))
        assert seen == {"transforms": expected}
    seen.clear()
    with steady_weights():
        for _ in range(3):
            check_gradients(Pair(ours, theirs), x)
    assert seen == {"transforms": 1}


@pytest.mark.parametrize("pair", [tiled(), strided(3, 2, 1)], ids=["tiles", "rows"])
def test_a_weight_that_changes_between_the_ways_forward_and_back_is_an_error(pair: Pair) -> None:
    conv = copy.deepcopy(pair.ours)
    assert isinstance(conv, nn.Conv2d)
    y = conv(torch.randn(1, conv.in_channels, 8, 8, dtype=torch.float64, requires_grad=True))
    with torch.no_grad():
        conv.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", ["resnet_6blocks", "compact", "unet_128"])
def test_a_public_network_holds_nothing_but_torchs_layers(name: str) -> None:
    network = build_generator(name)
    before = copy.deepcopy(network.state_dict())
    fast = accelerate(copy.deepcopy(network))
    assert not any(isinstance(layer, FastConv2d) for layer in network.modules())
    assert any(isinstance(layer, FastConv2d) for layer in fast.modules())
    assert list(fast.state_dict()) == list(before)
    network.load_state_dict(fast.state_dict())


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
def test_narrow_half_precision_traced_and_autocast_convolutions_are_plain(ways: dict[str, int]) -> None:
    ours, theirs = tiled(dtype=torch.float32)
    x = torch.randn(1, WIDE, 16, 16)
    with torch.no_grad():
        pair_of(nn.Conv2d(WIDE, WIDE - 1, 3, padding=1), torch.float32).ours(x)
        traced = torch.jit.trace(ours, x, check_trace=False)
        exported = torch.export.export(ours, (x,)).module()
        for run in (traced, exported):
            assert torch.equal(run(x), theirs(x))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(ours(x), theirs(x))
        assert torch.equal(ours.bfloat16()(x.bfloat16()), theirs.bfloat16()(x.bfloat16()))
    assert not ways


@pytest.mark.parametrize("name", ["resnet_9blocks", "resnet_9blocks_antialias", "compact", "compact-xs"])
def test_the_wide_convolutions_of_the_generators_go_by_tiles(name: str, ways: dict[str, int]) -> None:
    generator = accelerate(build_generator(name)).eval().requires_grad_(False)
    generator(torch.zeros(1, 3, 64, 64))
    wide = [
        conv
        for conv in generator.modules()
        if isinstance(conv, nn.Conv2d)
        and (conv.kernel_size, conv.stride) == ((3, 3), (1, 1))
        and min(conv.in_channels, conv.out_channels) >= WIDE
    ]
    assert ways["convolve"] == len(wide) >= 6


@pytest.mark.usefixtures("as_shipped")
def test_small_work_is_left_to_torch(ways: dict[str, int]) -> None:
    check_gradients(tiled(), torch.randn(1, WIDE, 8, 8, dtype=torch.float64))
    check_gradients(strided(3, 2, 1), torch.randn(1, 32, 8, 8, dtype=torch.float64))
    assert not ways


# -- by rows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sides", [(16, 16), (17, 23), (9, 30)])
@pytest.mark.parametrize(
    ("side", "stride", "padding", "outputs"),
    [
        (3, 2, 1, 48),
        (4, 2, 1, 48),
        (7, 1, 0, 48),
        (7, 1, 3, 5),
        (3, 1, 1, 5),
        (4, 1, 2, 5),
        (5, 3, 2, 48),
    ],
)
def test_gradients_by_rows_are_those_of_a_convolution(
    side: int,
    stride: int,
    padding: int,
    outputs: int,
    sides: tuple[int, int],
    layout: torch.memory_format,
    ways: dict[str, int],
) -> None:
    x = torch.randn(2, 32, *sides, dtype=torch.float64).to(memory_format=layout)
    check_gradients(strided(side, stride, padding, outputs), x)
    assert ways.keys() == {"gradient_of_weight"}


@pytest.mark.parametrize("sides", [(8, 8), (5, 7)])
@pytest.mark.parametrize("shape", [(3, 2, 1, 1), (4, 2, 1, 0), (3, 1, 1, 0)])
def test_gradients_by_rows_are_those_of_a_transposed_convolution(
    shape: tuple[int, int, int, int], sides: tuple[int, int], ways: dict[str, int]
) -> None:
    check_gradients(transposed(*shape), torch.randn(2, 48, *sides, dtype=torch.float64))
    assert ways.keys() == {"gradient_of_weight"}


def test_a_transposed_convolution_still_takes_an_output_size() -> None:
    ours, theirs = transposed(3, 2, 1, 0)
    x = torch.randn(1, 48, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x, output_size=[10, 10]), theirs(x, output_size=[10, 10]))


# -- gradients of gradients, and norms -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair", [tiled(4), strided(4, 2, 1), transposed(4, 2, 1, 0)], ids=["tiles", "rows", "transposed"]
)
def test_gradients_have_gradients(pair: Pair) -> None:
    inputs = pair.theirs.in_channels
    assert isinstance(inputs, int)
    check_gradients_of_gradients(pair, torch.randn(2, inputs, 9, 9, dtype=torch.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sides", [(1, 2), (7, 9), (40, 30)])
@pytest.mark.parametrize("affine", [False, True])
def test_a_norm_is_instance_norm(affine: bool, sides: tuple[int, int], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    plain, theirs = InstanceNorm(6, affine=affine).double(), nn.InstanceNorm2d(6, affine=affine).double()
    if affine:
        nn.init.normal_(plain.weight)  # type: ignore[arg-type]
        nn.init.normal_(plain.bias)  # type: ignore[arg-type]
        theirs.load_state_dict(plain.state_dict())
    x = (3 + 2 * torch.randn(2, 6, *sides, dtype=torch.float64)).to(memory_format=layout)
    for ours in (plain, pair_of(plain).ours):
        check_gradients(Pair(ours, theirs), x)
        check_gradients_of_gradients(Pair(ours, theirs), x)
        with torch.inference_mode():
            torch.testing.assert_close(ours(x), theirs(x))


def test_a_norm_of_a_large_map_is_right_where_torchs_is_not() -> None:
    x = (torch.randn(1, 2, 1500, 1500, generator=torch.Generator().manual_seed(0)) / 2 + 1).relu_()
    variance, mean = torch.var_mean(x.double(), (2, 3), correction=0, keepdim=True)
    right = (x - mean) / (variance + 1e-5).sqrt()
    x = x.to(memory_format=torch.channels_last)
    ours, theirs = pair_of(InstanceNorm(2), torch.float32).ours(x), InstanceNorm(2)(x)
    assert float((ours - right).abs().max()) < 1e-5 < 1e-3 < float((theirs - right).abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sides", [(25, 25), (40, 30)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("affine", [False, True])
def test_a_norm_rounds_no_worse_than_torchs(
    affine: bool, layout: torch.memory_format, sides: tuple[int, int], dtype: torch.dtype
) -> None:
    """Also where the mean is large beside what varies, as in a flat sky."""
    torch.manual_seed(0)
    ours, theirs = pair_of(InstanceNorm(8, affine=affine), torch.float32)
    x = (1 + 0.02 * torch.randn(1, 8, *sides)).to(dtype).to(memory_format=layout)
    exact = gradients(copy.deepcopy(theirs).double(), x.double())
    found = gradients(ours, x)
    assert {values.dtype for values in found[:2]} == {dtype}
    for one, other, right in zip(found, gradients(theirs.to(dtype), x), exact, strict=True):
        error, theirs_error = ((values.double() - right).abs().max() / right.abs().max() for values in (one, other))
        assert error < 2 * theirs_error + 1e-5 < 0.4


def test_in_bf16_a_norm_has_a_way_of_its_own_where_torchs_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backward, and forward of small maps; also under autocast, as in training."""
    runs: dict[str, int] = {}
    monkeypatch.setattr(norm, "_wide", _counted(norm._wide, "ours", runs))
    ours = pair_of(InstanceNorm(8), torch.float32).ours
    small, large = (torch.randn(1, 8, side, side).bfloat16() for side in (24, 40))
    with torch.no_grad():
        assert ours(large).dtype == torch.bfloat16
        assert not runs
        assert ours(small).dtype == torch.bfloat16
        assert runs.pop("ours")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(large.requires_grad_()).dtype == torch.bfloat16
    assert runs


def test_a_penalty_on_a_discriminators_gradients_is_what_torchs_layers_make_it() -> None:
    torch.manual_seed(0)
    theirs = PatchDiscriminator(ndf=32).double().to(memory_format=torch.channels_last)
    ours = accelerate(copy.deepcopy(theirs))
    check_gradients_of_gradients(Pair(ours, theirs), torch.rand(2, 3, 48, 48, dtype=torch.float64))
