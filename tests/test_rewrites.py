"""Rewritten generators give what they gave before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cgpipe.engine.rewrites import rewrite
from cgpipe.networks import Generator, build_generator

CPU = torch.device("cpu")
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("resnet_6blocks", {"ngf": 8}),
    ("resnet_6blocks", {"ngf": 8, "norm": "batch", "dropout": True}),
    ("resnet_6blocks_antialias", {"ngf": 8, "norm": "batch"}),
    ("unet_128", {"ngf": 8}),
    ("unet_128", {"ngf": 8, "norm": "batch", "dropout": True}),
    ("compact", {"norm": "batch", "channels": 16, "deep_channels": 16}),
]


def used(name: str, settings: dict[str, Any]) -> Generator:
    """A generator in eval mode whose weights, and running statistics, are no longer those of the start."""
    torch.manual_seed(0)
    generator = build_generator(name, **settings)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return generator.eval().requires_grad_(False)


def kinds(network: nn.Module) -> set[type[nn.Module]]:
    return {type(module) for module in network.modules()}


@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_the_result_is_the_same_to_rounding(name: str, settings: dict[str, Any]) -> None:
    generator = used(name, settings).double()
    x = torch.rand((2, 3, 128, 256), dtype=torch.float64) * 2 - 1
    expected = generator(x)
    assert expected.std() > 0.01
    faster = rewrite(generator, CPU)
    assert faster is not generator
    torch.testing.assert_close(faster(x), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(generator(x), expected, atol=0, rtol=0)  # what was given stays as it was


@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_no_frozen_norm_is_left(name: str, settings: dict[str, Any]) -> None:
    generator = used(name, settings)
    assert (nn.BatchNorm2d in kinds(generator)) == (settings.get("norm") == "batch")
    assert nn.BatchNorm2d not in kinds(rewrite(generator, CPU))


@pytest.mark.parametrize("name", ["resnet_6blocks", "unet_128"])
def test_the_last_convolution_makes_four_pixels_at_once_on_a_cpu_alone(name: str) -> None:
    generator = used(name, {"ngf": 8})
    assert nn.PixelShuffle in kinds(rewrite(generator, CPU))
    assert nn.PixelShuffle not in kinds(rewrite(generator, torch.device("cuda")))


@pytest.mark.parametrize("device", [CPU, torch.device("meta")])
def test_the_model_itself_stays_where_it_is(device: torch.device) -> None:
    generator = used("compact", {})
    rewrite(generator, device).to(device)
    assert {weight.device for weight in generator.parameters()} == {CPU}


def test_a_narrow_convolution_within_a_network_works_at_odd_sides() -> None:
    generator = used("resnet_6blocks", {"ngf": 1})
    picture = torch.rand(1, 3, 36, 36)  # of 9 pixels a side inside
    assert torch.allclose(rewrite(generator, CPU)(picture), generator(picture), atol=1e-4)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 3, 1),
        nn.Conv2d(4, 3, 3, padding=0),
        nn.Conv2d(4, 3, 3, padding=2, dilation=2),
        nn.Conv2d(4, 3, 4, stride=2, padding=1),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ConvTranspose2d(4, 3, 3, 2, padding=1, output_padding=1),
        nn.ConvTranspose2d(4, 8, 4, 2, padding=1),
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(conv: nn.Module) -> None:
    generator = Generator()
    generator.multiple = 2
    generator.add_module("conv", conv)
    assert nn.PixelShuffle not in kinds(rewrite(generator, CPU))


def test_odd_sides_are_not_rewritten() -> None:
    generator = Generator()
    generator.add_module("conv", nn.Conv2d(4, 3, 3, padding=1))
    assert nn.PixelShuffle not in kinds(rewrite(generator, CPU))
    generator.multiple = 2
    assert nn.PixelShuffle in kinds(rewrite(generator, CPU))
