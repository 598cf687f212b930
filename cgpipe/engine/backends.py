"""Engines that run a generator, behind one interface: a function from tensor to tensor."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import torch

from cgpipe.engine.autotune import cast, cpu_multiplies_bf16
from cgpipe.engine.between import may_fuse
from cgpipe.engine.compiling import can_compile, compiled_or_eager, keep_compiled
from cgpipe.engine.export import INPUT, extra, to_onnx, to_openvino, to_torchscript
from cgpipe.engine.fusion import fused_where_possible
from cgpipe.engine.to_ncnn import load_ncnn
from cgpipe.errors import UsageError
from cgpipe.networks import Generator
from cgpipe.networks.compact import CompactGenerator
from cgpipe.options import Engine, Precision

Run = Callable[[torch.Tensor], torch.Tensor]
"""Takes (N, 3, H, W) in [-1, 1], in the generator's dtype and channels_last, and returns the same shape. Several
threads may call it at once; one call uses as many threads as torch had in the thread that prepared it."""


def _eager(generator: Generator) -> Run:
    return fused_where_possible(generator) if may_fuse(_device_of(generator)) else generator


def _compile(generator: Generator) -> Run:
    device = _device_of(generator)
    if not can_compile(device):
        return generator
    keep_compiled()
    # The number of threads is compiled in, so the cached code must be keyed by it.
    # On CUDA it records no graphs itself: those are recorded around it (see cgpipe.engine.cuda).
    on_cpu: dict[str, str | int | bool | Callable[..., object]] = {
        "freezing": True,
        "cpp.threads": torch.get_num_threads(),
    }
    compiled: Run = torch.compile(generator, options=on_cpu if device.type == "cpu" else None)
    return lambda x: compiled_or_eager(partial(compiled, x))


def _torchscript(generator: Generator) -> Run:
    frozen: Run = to_torchscript(generator)
    return frozen


def _onnx(generator: Generator) -> Run:
    onnxruntime = extra("onnxruntime", "onnx")
    if _dtype_of(generator) != torch.float32:
        raise UsageError("The engine onnx supports only fp32: use --precision fp32 or auto.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    written = to_onnx(generator).SerializeToString()
    session = onnxruntime.InferenceSession(written, options, providers=["CPUExecutionProvider"])

    def run(x: torch.Tensor) -> torch.Tensor:
        (result,) = session.run(None, {INPUT: x.contiguous().numpy()})
        return torch.from_numpy(result)

    return run


def _openvino(generator: Generator) -> Run:
    openvino = extra("openvino", "openvino")
    core = openvino.Core()
    # A CPU without bf16 instructions computes in fp32, whatever the hint says.
    bf16 = _dtype_of(generator) == torch.bfloat16 and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    model = to_openvino(cast(generator, torch.float32))
    threads = torch.get_num_threads()
    streams = max(1, (os.cpu_count() or 1) // threads)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": threads * streams,
        "NUM_STREAMS": streams,
    }
    compiling = threading.Lock()

    @lru_cache(maxsize=8)
    def compiled(shape: tuple[int, ...]) -> Any:
        fixed = model.clone()
        # A fixed shape runs faster, but in fp32 it makes OpenVINO 2026.4 crash while compiling.
        if bf16:
            fixed.reshape(list(shape))
        return core.compile_model(fixed, "CPU", settings)

    def run(x: torch.Tensor) -> torch.Tensor:
        with compiling:
            request = compiled(tuple(x.shape)).create_infer_request()
        (result,) = request.infer([x.float().contiguous().numpy()]).values()
        return torch.from_numpy(result.copy())

    return run


def _ncnn(generator: Generator) -> Run:
    if _dtype_of(generator) != torch.float32:
        raise UsageError("The engine ncnn supports only fp32: use --precision fp32 or auto.")
    return load_ncnn(generator)


ENGINES: Mapping[Engine, Callable[[Generator], Run]] = {
    "eager": _eager,
    "compile": _compile,
    "torchscript": _torchscript,
    "onnx": _onnx,
    "openvino": _openvino,
    "ncnn": _ncnn,
}

ENGINE_VARIABLE = "CGPIPE_ENGINE"
CPU_ONLY: Sequence[Engine] = ("onnx", "openvino", "ncnn")
FP32_ONLY: Sequence[Engine] = ("onnx", "ncnn")
PACKAGES: Mapping[Engine, tuple[str, ...]] = {
    "onnx": ("onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "ncnn": ("ncnn",),
}
"""Packages that an engine needs beside torch."""


def prepare(generator: Generator, engine: Engine, gpu: int | None = None) -> Run:
    """``generator``, which has its final dtype and device, as a function that ``engine`` runs.

    Args:
        gpu: the GPU on which ncnn computes by Vulkan, if it does.

    Raises:
        MissingDependencyError: a package that the engine needs is not installed.
        UsageError: the engine does not support this dtype or network.
    """
    return ENGINES[engine](generator) if gpu is None else load_ncnn(generator, gpu)


def auto_engine(generator: Generator, precision: Precision) -> Engine:
    """What ``auto`` stands for on a CPU: ``ncnn`` where it was measured to be faster, else ``eager``.

    It is, if installed, for compact networks in fp32 on x86 processors without bf16 (see docs/speed.md).
    ``CGPIPE_ENGINE=eager`` in the environment keeps it at ``eager``, for the same pixels on every machine.

    Args:
        precision: the dtype that was chosen.
    """
    if os.environ.get(ENGINE_VARIABLE) == "eager" or precision != "fp32" or cpu_multiplies_bf16():
        return "eager"
    return "ncnn" if isinstance(generator, CompactGenerator) and find_spec("ncnn") is not None else "eager"


def check_engine(engine: Engine, device: torch.device) -> None:
    """Checks that ``engine`` works on ``device``, before any other work.

    Raises:
        MissingDependencyError: a package that the engine needs is not installed; the message says how to install it.
        UsageError: the engine is unknown, or runs only on a CPU.
    """
    if engine != "auto" and engine not in ENGINES:
        raise UsageError(f"Unknown engine {engine!r}: choose one of auto, {', '.join(ENGINES)}.")
    for package in PACKAGES.get(engine, ()):
        extra(package, engine)
    if engine in CPU_ONLY and device.type != "cpu":
        raise UsageError(f"--engine {engine} runs only on a CPU: use --device cpu, or another engine.")


def _device_of(generator: Generator) -> torch.device:
    weights = next(generator.parameters(), None)
    return torch.device("cpu") if weights is None else weights.device


def _dtype_of(generator: Generator) -> torch.dtype:
    return next(generator.parameters()).dtype
