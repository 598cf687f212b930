"""The compact generators and the discriminators."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cgpipe.networks import GENERATORS, Generator, build_generator
from cgpipe.networks.compact import OPEN, CompactGenerator
from cgpipe.networks.discriminators import FeatureHeads, PooledHead, build_discriminator
from cgpipe.networks.initialise import initialise
from cgpipe.networks.norm import InstanceNorm

COMPACT = [name for name in GENERATORS if name.startswith("compact")]


@pytest.mark.parametrize("name", COMPACT)
@pytest.mark.parametrize("sides", [(8, 8), (64, 40)])
def test_the_result_has_the_pictures_shape_and_range(name: str, sides: tuple[int, int]) -> None:
    generator = build_generator(name)
    assert all(side % generator.multiple == 0 for side in sides)
    x = torch.rand((2, 3, *sides)) * 2 - 1
    y = generator(x)
    assert y.shape == x.shape
    assert y.abs().max() <= 1


@pytest.mark.parametrize("name", COMPACT)
def test_a_shipped_size_fits_into_two_megabytes_at_half_precision(name: str) -> None:
    assert sum(2 * p.numel() for p in build_generator(name).parameters()) < 1_990_000


def test_pictures_of_a_batch_do_not_influence_one_another() -> None:
    generator = build_generator("compact").eval()
    pictures = torch.rand((3, 3, 32, 32)) * 2 - 1
    together = generator(pictures)
    alone = torch.cat([generator(picture[None]) for picture in pictures])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


def test_the_deep_path_sees_farther() -> None:
    """How far from a changed pixel the output changes, without the statistics that instance norm spreads everywhere."""

    def reach(blocks: int, deep_blocks: int) -> int:
        torch.manual_seed(0)
        generator = CompactGenerator(channels=16, blocks=blocks, deep_channels=16, deep_blocks=deep_blocks, norm="none")
        x = torch.zeros((1, 3, 512, 8))
        touched = x.clone()
        touched[:, :, 256] = 1
        rows = (generator(x) - generator(touched)).abs().amax(dim=(0, 1, 3)).nonzero()
        return int(rows.max() - rows.min())

    assert reach(blocks=2, deep_blocks=4) > 1.5 * reach(blocks=6, deep_blocks=0)


@pytest.mark.parametrize("signed", [True, False])
@torch.inference_mode()
def test_a_signed_skip_carries_dark_detail_too(signed: bool) -> None:
    generator = build_generator("compact-xs", signed_skip=signed).eval()
    for parameter in generator.get_submodule("widen").parameters():
        parameter.zero_()  # nothing comes but by the skip
    bright, other = torch.rand((2, 1, 3, 32, 32))
    assert not torch.allclose(generator(bright), generator(other), atol=1e-3)
    assert torch.allclose(generator(-bright), generator(-other), atol=1e-3) == (not signed)


@torch.inference_mode()
def test_a_signed_skip_begins_as_the_finished_network_without_it() -> None:
    without, signed = (build_generator("compact-xs", signed_skip=signed).eval() for signed in (False, True))
    picture = torch.rand((1, 3, 32, 32)) * 2 - 1
    assert not torch.allclose(signed(picture), without(picture), atol=1e-3)
    signed.load_state_dict(signed.starting_weights(without))
    torch.testing.assert_close(signed(picture), without(picture))
    again = build_generator("compact-xs", signed_skip=True)
    again.load_state_dict(again.starting_weights(signed))
    assert torch.equal(again.get_submodule("refine").weight, signed.get_submodule("refine").weight)  # type: ignore[arg-type]


def with_attention(logit: float) -> Generator:
    """A small generator that attends equally everywhere."""
    torch.manual_seed(0)
    generator = build_generator("compact-xs", attention=True).eval()
    last = generator.get_submodule("attention.to_logit")
    for parameter, value in zip(last.parameters(), (0.0, logit), strict=True):
        parameter.data.fill_(value)
    return generator


@torch.inference_mode()
def test_what_attention_leaves_out_passes_as_it_is() -> None:
    picture = torch.rand((1, 3, 32, 40)) * 2 - 1
    assert torch.equal(with_attention(-100)(picture), picture)
    half, whole = (generator(picture) for generator in (with_attention(0), with_attention(100)))
    assert (whole - picture).abs().mean() > 0.1
    torch.testing.assert_close(half - picture, (whole - picture) / 2)


@torch.inference_mode()
def test_attention_is_found_by_the_network_and_smooth() -> None:
    torch.manual_seed(0)
    generator = build_generator("compact-xs", attention=True).eval()
    attention = generator.get_submodule("attention")
    seen: list[torch.Tensor] = []
    attention.register_forward_hook(lambda module, given, result: seen.append(result))
    generator(torch.rand((2, 3, 32, 40)) * 2 - 1)
    (weights,) = seen
    assert weights.shape == (2, 1, 32, 40)
    assert 0 <= weights.min() < weights.max() <= 1
    across = weights.diff(dim=3).abs().amax()
    assert across < 0.5 * (weights.max() - weights.min())


@torch.inference_mode()
def test_attention_begins_as_the_finished_network_without_it() -> None:
    without, attending = (build_generator("compact-xs", attention=attention).eval() for attention in (False, True))
    picture = torch.rand((1, 3, 32, 32)) * 2 - 1
    attending.load_state_dict(attending.starting_weights(without))
    change = without(picture) - picture
    torch.testing.assert_close(attending(picture) - picture, torch.sigmoid(torch.tensor(OPEN)) * change)
    again = build_generator("compact-xs", attention=True)
    again.load_state_dict(again.starting_weights(attending))
    assert torch.equal(again.eval()(picture), attending(picture))


def test_attention_needs_as_many_channels_out_as_in() -> None:
    with pytest.raises(ValueError, match="as many output channels"):
        build_generator("compact-xs", attention=True, in_channels=1)


def test_subpixels_start_alike_so_that_training_begins_without_a_checkerboard() -> None:
    generator = build_generator("compact")
    initialise(generator)
    y = generator(torch.full((1, 3, 64, 64), 0.3))[0, :, 16:-16, 16:-16]
    torch.testing.assert_close(y[:, 0::2, 0::2], y[:, 1::2, 1::2])


def test_instance_norm_equals_torchs_and_keeps_channels_last() -> None:
    x = torch.randn((2, 16, 9, 7)).to(memory_format=torch.channels_last)
    y = InstanceNorm(16)(x)
    torch.testing.assert_close(y, F.instance_norm(x))
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("name", "side"), [("n_layers", 14), ("pixel", 128)])
def test_discriminators_give_maps_of_logits(name: str, side: int) -> None:
    judge = build_discriminator(name, ndf=8)
    assert judge(torch.zeros((2, 3, 128, 128))).shape == (2, 1, side, side)


def test_an_unknown_discriminator_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown discriminator 'layers'.*n_layers"):
        build_discriminator("layers")


def test_feature_heads_judge_each_map() -> None:
    heads = FeatureHeads([40, 112], width=8)
    maps = heads([torch.zeros((2, 40, 16, 16)), torch.zeros((2, 112, 8, 8))])
    assert [tuple(m.shape) for m in maps] == [(2, 1, 16, 16), (2, 1, 8, 8)]


def test_the_pooled_head_judges_what_all_of_a_picture_has_in_common() -> None:
    head = PooledHead([4, 6], width=8)
    maps = [torch.randn((2, 4, 16, 16)), torch.randn((2, 6, 8, 8))]
    logits = head(maps)
    assert logits.shape == (2, 1, 1, 1)
    moved = [m.roll((3, 5), dims=(2, 3)) for m in maps]
    torch.testing.assert_close(head(moved), logits)
    assert not torch.allclose(head([m + 1 for m in maps]), logits)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_reflection_makes_no_edges(padding: str) -> None:
    """A surface of one colour stays one up to the edge, where all sub-pixels are made alike."""
    generator = build_generator("compact", padding=padding, norm="none").eval()
    assert isinstance(generator, CompactGenerator)
    with torch.inference_mode():
        for conv in generator.subpixel_convolutions():
            for weight in (conv.weight, conv.bias):
                weight.copy_(weight[::4].repeat_interleave(4, dim=0))
        result = generator(torch.full((1, 3, 64, 64), 0.5))
    assert (result.amax((2, 3)) - result.amin((2, 3)) < 1e-5).all() == (padding == "reflect")


def test_a_padding_that_is_not_known_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown padding 'circular'"):
        build_generator("compact", padding="circular")
