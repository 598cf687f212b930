"""The layers of training on a GPU, whose kernels Triton's interpreter runs on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from shell import run_python
from torch import nn

from cgpipe.networks import build_generator
from cgpipe.networks.norm import InstanceNorm
from cgpipe.training.gpu_layers import GpuInstanceNorm, GpuReflectingConv2d, use_gpu_layers

ON_A_CPU = """
import torch
from torch.nn import functional as F
from cgpipe.training import kernels
from cgpipe.training.gpu_layers import _Normalise, _Reflect
torch.manual_seed(0)

def check(ours, theirs, x, grad, dtype):
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    found, wanted = x.clone().requires_grad_(), x.float().requires_grad_()
    made, expected = ours(found), theirs(wanted)
    grad = grad(expected.shape).to(dtype)
    made.backward(grad)
    expected.backward(grad.float())
    assert made.dtype == dtype and made.is_contiguous(memory_format=torch.channels_last)
    tolerance = dict(atol=2e-4, rtol=1e-4) if dtype == torch.float32 else dict(atol=0.05, rtol=0.02)
    torch.testing.assert_close(made.float(), expected, **tolerance)
    torch.testing.assert_close(found.grad.float(), wanted.grad, **tolerance)

kernels.TILE, kernels.MAX_LANES = 512, 16  # several tiles of small maps
for dtype, count, channels, height, width, pad in (
    (torch.float32, 2, 20, 9, 8, 3), (torch.float32, 1, 6, 4, 5, 1), (torch.bfloat16, 2, 16, 5, 7, 1)
):
    x = torch.randn(count, channels, height, width) * 3 + 5
    check(lambda x: _Normalise.apply(x, 1e-5), lambda x: F.group_norm(x, channels), x, torch.randn, dtype)
    mirrored = lambda x: F.pad(x, 4 * (pad,), mode="reflect")
    check(lambda x: _Reflect.apply(x, pad), mirrored, x, torch.randn, dtype)
print("agree")
"""


@pytest.mark.slow
def test_the_kernels_and_their_gradients_agree_with_torch_in_tritons_interpreter() -> None:
    pytest.importorskip("triton")
    done = run_python(ON_A_CPU, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "agree"


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from cgpipe.training import kernels

    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    tile = {"block": 16, "lanes": 16}
    passes = [{"backward": backward, "most_chunks": 4, **tile} for backward in (False, True)]
    ways = {kernels._sum_chunks: passes, kernels._apply: passes}
    ways |= {kernel: [{"padding": 1, **tile}] for kernel in (kernels._reflect, kernels._gather)}
    pointers = {"x": "*bf16", "grad": "*bf16", "out": "*bf16", "stats": "*fp32", "sums": "*fp32", "eps": "fp32"}
    for kernel, constants in ways.items():
        names = kernel.arg_names
        for values in constants:
            known = {name: value for name, value in values.items() if name in names}
            signature = {name: "constexpr" if name in known else pointers.get(name, "i32") for name in names}
            fixed = {(names.index(name),): value for name, value in known.items()}
            source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
            assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


@pytest.mark.parametrize("name", ["resnet_6blocks", "compact"])
def test_a_network_keeps_its_weights_and_its_results_elsewhere(name: str) -> None:
    settings = {"padding": "reflect"} if name == "compact" else {}
    generator = build_generator(name, **settings).eval()
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    names, expected = list(generator.state_dict()), generator(x)
    use_gpu_layers(generator)
    kinds = {type(layer) for layer in generator.modules()}
    assert {GpuInstanceNorm, GpuReflectingConv2d} <= kinds
    assert InstanceNorm not in kinds
    assert not [m for m in generator.modules() if type(m) is nn.Conv2d and m.padding_mode == "reflect"]
    assert list(generator.state_dict()) == names
    assert torch.equal(generator(x), expected)
