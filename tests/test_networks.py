"""The standard generators: their shapes, sizes, and what engines ask of them. test_foreign.py compares outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cgpipe.networks import GENERATORS, build_generator
from cgpipe.networks.resnet import BlurDown, ResNetGenerator
from cgpipe.networks.unet import UNetGenerator

STANDARD = sorted(name for name in GENERATORS if name.startswith(("resnet", "unet")))


def built(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return build_generator(name, **settings).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "norm", "parameters"),
    [
        ("resnet_9blocks", "instance", 11_378_179),
        ("resnet_9blocks", "batch", 11_383_427),
        ("resnet_6blocks", "instance", 7_837_699),
        ("resnet_6blocks", "batch", 7_841_411),
        ("resnet_9blocks_antialias", "instance", 11_378_179),
        ("unet_128", "instance", 41_825_667),
        ("unet_128", "batch", 41_828_995),
        ("unet_256", "instance", 54_409_603),
        ("unet_256", "batch", 54_413_955),
    ],
)
def test_parameters_are_as_many_as_published(name: str, norm: str, parameters: int) -> None:
    with torch.device("meta"):
        generator = build_generator(name, norm=norm)
    assert sum(parameter.numel() for parameter in generator.parameters()) == parameters


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("norm", ["instance", "instance_affine", "batch", "none"])
def test_smallest_picture_comes_back_in_shape_and_range(name: str, norm: str) -> None:
    generator = built(name, ngf=2, norm=norm)
    side = max(generator.multiple, 8)
    y = generator(torch.randn(2, 3, side, 2 * side))
    assert y.shape == (2, 3, side, 2 * side)
    assert y.abs().max() <= 1


@pytest.mark.parametrize(("kernel", "steps", "least"), [(7, 1, 4), (9, 1, 6), (9, 2, 8)])
def test_the_smallest_picture_of_a_resnet_is_stated_right(kernel: int, steps: int, least: int) -> None:
    network = build_generator("resnet_6blocks", ngf=4, kernel=kernel, steps=steps)
    assert network.least_side == least
    assert network(torch.zeros(1, 3, least, least)).shape[2:] == (least, least)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, least - network.multiple, least - network.multiple))


@pytest.mark.parametrize("name", ["resnet_6blocks", "resnet_6blocks_antialias", "unet_128"])
def test_channels_last_changes_nothing(name: str) -> None:
    generator = built(name, ngf=4)
    x = torch.randn(1, 3, 128, 128)
    expected = generator(x)
    y = generator.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["resnet_6blocks", "resnet_6blocks_antialias", "unet_128"])
def test_bfloat16_stays_bfloat16(name: str) -> None:
    y = built(name, ngf=4).bfloat16()(torch.randn(1, 3, 128, 128, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
@pytest.mark.parametrize("name", ["resnet_6blocks", "resnet_6blocks_antialias", "unet_128"])
def test_a_trace_holds_for_other_sizes(name: str) -> None:
    generator = built(name, ngf=2)
    traced = torch.jit.trace(generator, torch.randn(1, 3, 128, 128), check_trace=False)
    x = torch.randn(2, 3, 256, 128)
    torch.testing.assert_close(traced(x), generator(x))


@pytest.mark.parametrize("name", ["resnet_6blocks_antialias", "unet_128"])
def test_compiles_as_one_graph(name: str) -> None:
    generator = built(name, ngf=2)
    x = torch.randn(1, 3, 128, 128)
    compiled = torch.compile(generator, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), generator(x))


@pytest.mark.parametrize(
    "network", [ResNetGenerator(ngf=2, dropout=True), UNetGenerator(levels=6, ngf=2, dropout=True)]
)
def test_dropout_acts_in_training_only(network: nn.Module) -> None:
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(network.train()(x), network(x))
        assert torch.equal(network.eval()(x), network(x))


def test_a_unet_drops_out_at_full_width_but_not_innermost() -> None:
    places = [name for name, module in UNetGenerator(ngf=2, dropout=True).named_modules() if "dropout" in name]
    assert places == ["up.1.dropout", "up.2.dropout", "up.3.dropout"]


def test_every_weight_of_a_network_in_training_gets_a_gradient() -> None:
    for network in (ResNetGenerator(ngf=2, blocks=1, antialias=True), UNetGenerator(levels=5, ngf=2)):
        network.train()(torch.randn(1, 3, 64, 64)).square().mean().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_blur_keeps_a_plain_area_and_is_no_weight() -> None:
    blur = BlurDown(4)
    torch.testing.assert_close(blur(torch.full((1, 4, 8, 8), 0.7)), torch.full((1, 4, 4, 4), 0.7))
    assert not blur.state_dict()


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("resnet_9blocks", {"norm": "layer"}, "layer"),
        ("resnet_9blocks", {"antialias": "sideways"}, "sideways"),
        ("resnet_9blocks", {"depth": 3}, "depth"),
        ("unet", {"levels": 4}, "at least 5 levels"),
        ("resnet_7blocks", {}, "resnet_9blocks"),
    ],
)
def test_a_setting_that_makes_no_network_is_named(name: str, settings: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        build_generator(name, **settings)
