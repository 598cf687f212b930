"""Generators for a GPU: fused, they give what they gave."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from shell import run_python
from torch import nn
from torch.nn import functional as F

from cgpipe.engine.between import Between, Fold, Unfold, pixel_shuffle, pixel_unshuffle
from cgpipe.engine.fusion import fuse, fused_where_possible
from cgpipe.networks import Generator, build_generator
from cgpipe.networks.norm import InstanceNorm

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "shipped": ("compact", {}),
    "shipped, reflect": ("compact", {"padding": "reflect"}),
    "signed skip": ("compact-xs", {"signed_skip": True}),
    "attention": ("compact-xs", {"attention": True, "padding": "reflect"}),
    "affine": ("compact-xs", {"norm": "instance_affine", "padding": "reflect"}),
    "without norm": ("compact-flat", {"norm": "none", "channels": 16, "blocks": 1}),
    "resnet": ("resnet_9blocks", {"ngf": 8, "dropout": True}),
    "resnet, antialias": ("resnet_6blocks_antialias", {"ngf": 8}),
    "resnet, batch": ("resnet_6blocks", {"ngf": 8, "norm": "batch"}),
    "ugatit": ("ugatit", {"ngf": 8, "size": None}),
    "animegan2": ("animegan2", {}),
    "whitebox": ("whitebox", {}),
    "unet": ("unet_128", {"ngf": 8, "dropout": True}),
}


def generator_of(name: str) -> Generator:
    torch.manual_seed(0)
    architecture, settings = NETWORKS[name]
    generator = build_generator(architecture, **settings).eval().requires_grad_(False)
    for parameter in generator.parameters():
        if parameter.ndim == 1:  # Scales and biases that show.
            parameter.copy_(torch.randn_like(parameter))
    return generator


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_a_fused_generator_gives_the_same(name: str) -> None:
    generator = generator_of(name)
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    fused = fuse(generator)
    for count, rows, columns in ((1, 2, 3), (2, 3, 2)):
        step = generator.least_side
        x = (torch.rand(count, 3, rows * step, columns * step) * 2 - 1).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(fused(x), generator(x), atol=1e-3, rtol=0)
    assert generator.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in generator.state_dict().items())


@pytest.mark.parametrize("name", ["shipped", "shipped, reflect", "signed skip", "resnet"])
def test_nothing_stands_alone_between_two_convolutions(name: str) -> None:
    fused = fuse(generator_of(name))
    called = [fused.get_submodule(str(node.target)) for node in fused.graph.nodes if node.op == "call_module"]  # type: ignore[union-attr]
    assert {type(module) for module in called} <= {Between, Fold, Unfold, nn.Conv2d, nn.ConvTranspose2d}
    assert all(module.padding_mode == "zeros" for module in called if isinstance(module, nn.Conv2d))
    normed = sum(isinstance(module, Between) and module.norm is not None for module in called)
    assert normed == sum(isinstance(module, InstanceNorm) for module in generator_of(name).modules())


def test_the_first_and_the_last_convolution_make_squares_of_pixels() -> None:
    fused = fuse(generator_of("resnet"))
    shapes = {
        (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
        for conv in fused.modules()
        if isinstance(conv, nn.Conv2d)
    }
    assert {(16, 32, (4, 4), (1, 1)), (8, 48, (10, 10), (4, 4))} <= shapes
    assert not any(7 in kernel for _, _, kernel, _ in shapes)
    assert sum(isinstance(module, Fold) for module in fused.modules()) == 1
    assert sum(isinstance(module, Unfold) and module.tanh for module in fused.modules()) == 1


ON_A_CPU = """
import itertools, torch
from torch.nn import functional as F
from cgpipe.engine import kernels
from cgpipe.engine.upsampling import add_change_up
from cgpipe.engine.between import plainly, plainly_folded, plainly_unfolded
from cgpipe.engine.kernels import between_convolutions
torch.manual_seed(0)
kernels.ENOUGH_PROGRAMS = 3
WAYS = list(itertools.product((True, False), (True, False), (None, 0.0, 0.2), (True, False)))
for channels, height, width, pad in ((16, 5, 7, 0), (64, 9, 10, 1), (96, 5, 6, 3), (6, 4, 4, 1), (48, 20, 3, 2)):
    for normed, affine, slope, added in WAYS[::5] if channels == 16 else WAYS[::7]:
        dtype = torch.float32 if affine else torch.float16
        x = (torch.randn(2, channels, height, width) * 3 + 5).to(dtype).contiguous(memory_format=torch.channels_last)
        around = torch.randn(2, channels, height + 2, width + 2).to(dtype).contiguous(memory_format=torch.channels_last)
        given = dict(
            eps=1e-5 if normed else None,
            weight=torch.randn(channels, dtype=dtype) if affine and normed else None,
            bias=torch.randn(channels, dtype=dtype) if affine else None,
            slope=slope,
            residual=around[:, :, 1:-1, 1:-1] if added else None,
            pad=pad,
        )
        result = between_convolutions(x, **given)
        as_floats = {name: value.float() if isinstance(value, torch.Tensor) else value for name, value in given.items()}
        expected = plainly(x.float(), **as_floats)
        assert result.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(result.float(), expected, atol=2e-3 if dtype == torch.float32 else 2e-2, rtol=2e-3)
squares = torch.randn(2, 4 * 32, 5, 7).contiguous(memory_format=torch.channels_last)
norm = dict(eps=1e-5, weight=None, bias=None, slope=0.0, residual=None, pad=1, folded=2)
torch.testing.assert_close(between_convolutions(squares, **norm), plainly(squares, **norm), atol=2e-3, rtol=2e-3)
picture = torch.randn(2, 3, 8, 12).contiguous(memory_format=torch.channels_last)
for pad, factor, places in ((3, 2, 4), (2, 4, 3), (0, 2, 8)):
    way = dict(pad=pad, factor=factor, places=places)
    assert torch.equal(kernels.fold(picture, **way), plainly_folded(picture, **way))
for channels, factor, biased, tanh in ((3, 4, True, True), (20, 2, True, False), (1, 2, False, True)):
    x = torch.randn(2, channels * factor**2, 3, 5).contiguous(memory_format=torch.channels_last)
    way = dict(factor=factor, bias=torch.randn(x.shape[1]) if biased else None, tanh=tanh)
    torch.testing.assert_close(kernels.unfold(x, **way), plainly_unfolded(x, **way))
for dtype, most in ((torch.uint8, 255), (torch.uint16, 65535)):
    pixels = torch.randint(0, most + 1, (2, 31, 17, 3)).to(dtype)
    x = kernels.from_pixels(pixels, black=0, white=most, dtype=torch.float32)
    torch.testing.assert_close(x, pixels.permute(0, 3, 1, 2).float() / (most / 2) - 1)
    back, sums = kernels.to_pixels(x, black=0, white=most, most=most, dtype=dtype)
    assert torch.equal(back, pixels)
    torch.testing.assert_close(sums, x.sum((1, 2, 3)))
    part = x[:, :, 3:20, :11] * 1.7
    back, sums = kernels.to_pixels(part, black=0, white=most, most=most, dtype=dtype)
    expected = ((part + 1) * (most / 2)).round().clamp(0, most).permute(0, 2, 3, 1)
    assert (back.float() - expected).abs().max() <= 1
    assert kernels.to_pixels(part / 0, black=0, white=most, most=most, dtype=dtype)[1].isfinite().logical_not().all()
for (height, width), (rows, columns) in (((37, 50), (16, 21)), ((9, 13), (9, 13)), ((31, 29), (3, 2))):
    pixels = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
    change, lost = torch.randn(2, 3, rows, columns) * 60, torch.rand(2, 1, rows, columns)
    both = F.interpolate(torch.cat([change, lost], 1), (height, width), mode="bicubic").permute(0, 2, 3, 1)
    exact = (pixels.float() * (1 - both[..., 3:]) + both[..., :3]).clamp(0, 255)
    assert (add_change_up(pixels, change, lost).float() - exact).abs().max() <= 0.51
print("agree")
"""


def test_the_kernels_agree_with_torch_in_tritons_interpreter() -> None:
    pytest.importorskip("triton")
    done = run_python(ON_A_CPU, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "agree"


ON_NO_GPU = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from cgpipe.engine import kernels, upsampling

def build(kernel, pointers, constants):
    kinds = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(("eps", "slope", "black", "half", "most"), "fp32")
    kinds |= dict.fromkeys(("step_y", "step_x"), "fp32") | pointers | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, {name: kinds[name] for name in kernel.arg_names}, constants)
    assert compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]

half = dict.fromkeys(("x", "out", "weight", "bias", "residual"), "*fp16") | {"sums": "*fp32"}
tile = dict(block=64, lanes=64)
for whole in (True, False):
    build(kernels._sum_chunks, half, tile | dict(whole=whole))
flags = dict.fromkeys(("normalised", "scaled", "shifted", "activated", "added"), True)
build(kernels._apply, half, tile | flags | dict(padding=3, folded=2, most_chunks=32))
build(kernels._fold, half, dict(channels=3, places=4, padding=3, factor=2, block=1024))
build(kernels._unfold, half, dict(channels=3, factor=4, shifted=True, squashed=True, block=1024))
build(kernels._from_pixels, half | {"pixels": "*u8"}, dict(block=1024))
build(kernels._to_pixels, half | {"pixels": "*u16"}, dict(channels=3, block=1024))
build(upsampling._add_change, {"pixels": "*u8", "both": "*fp32", "out": "*u8"}, dict(block=256))
print("built")
"""


@pytest.mark.slow
def test_the_kernels_are_built_for_a_gpu_where_there_is_none(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    done = run_python(ON_NO_GPU, env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "built"


class Branching(Generator):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.mean() > 0 else -x


def test_what_cannot_be_traced_stays_as_it_is() -> None:
    generator = Branching()
    assert fused_where_possible(generator) is generator


@pytest.mark.parametrize("factor", [2, 4])
def test_shuffles_are_torchs_with_channels_last(factor: int) -> None:
    x = torch.rand(2, 3 * factor**2, 8, 12).contiguous(memory_format=torch.channels_last)
    wide = pixel_shuffle(x, factor)
    assert torch.equal(wide, F.pixel_shuffle(x, factor))
    assert torch.equal(pixel_unshuffle(wide, factor), x)
    assert wide.is_contiguous(memory_format=torch.channels_last)
    assert pixel_unshuffle(wide, factor).is_contiguous(memory_format=torch.channels_last)
