"""Other ways to run a network, each as its own documentation shows it."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from settings import CannotMeasureError
from torch import nn

THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class Peer:
    """A network that is ready to run.

    Args:
        dtype: what it computes in.
        once: (N, 3, H, W) in [-1, 1] in, the result out; float32, on the network's device.
        many: runs it that many times on ``batch`` pictures.
        batch: pictures that it is given at a time.
    """

    dtype: str
    once: Callable[[torch.Tensor], torch.Tensor]
    many: Callable[[int], None]
    batch: int = 1


def _one_by_one(dtype: str, once: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor) -> Peer:
    once = torch.inference_mode()(once)

    def many(count: int) -> None:
        for _ in range(count):
            once(example)

    return Peer(dtype=dtype, once=once, many=many)


def eager(network: nn.Module, example: torch.Tensor) -> Peer:
    """The network called as it is: the reference."""
    return _one_by_one("fp32", network, example)


def torchscript(network: nn.Module, example: torch.Tensor) -> Peer:
    with _quiet():
        traced = torch.jit.freeze(torch.jit.trace(network, example))
    return _one_by_one("fp32", traced, example)


def compiled(network: nn.Module, example: torch.Tensor, **options: Any) -> Peer:
    if example.device.type == "cpu" and not (shutil.which("c++") or shutil.which("g++")):
        raise CannotMeasureError("there is no C++ compiler")
    return _one_by_one("fp32", torch.compile(network, **options), example)


def compiled_in_channels_last(network: nn.Module, example: torch.Tensor) -> Peer:
    """With its weights frozen, which torch does only on request, in the layout that its convolutions like best."""
    like_this: Any = {"memory_format": torch.channels_last}
    frozen = {"freezing": True} if example.device.type == "cpu" else None
    return compiled(network.to(**like_this), example.to(**like_this), options=frozen)


def compiled_with_graphs(network: nn.Module, example: torch.Tensor) -> Peer:
    if example.device.type != "cuda":
        raise CannotMeasureError("it is for GPUs")
    return compiled(network, example, mode="reduce-overhead")


def ncnn(network: nn.Module, example: torch.Tensor, *, lanes: int = 1) -> Peer:
    """ncnn with its own settings, on a file that cgpipe writes; ``lanes`` pictures side by side, one thread each."""
    from cgpipe.engine.rewrites import rewrite
    from cgpipe.engine.to_ncnn import load_ncnn

    _only_on_cpu(example)
    if lanes > 1:
        torch.set_num_threads(1)
    try:
        run = load_ncnn(rewrite(network, example.device))  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(THREADS)
    if lanes == 1:
        return _one_by_one("fp32", run, example)
    pool = ThreadPoolExecutor(lanes)

    def many(count: int) -> None:
        list(pool.map(run, count * [example]))

    return Peer(dtype="fp32", once=run, many=many)


def onnxruntime(network: nn.Module, example: torch.Tensor) -> Peer:
    try:
        import onnxruntime as ort
        import onnxscript  # noqa: F401  # torch writes ONNX with it
    except ImportError as error:
        raise CannotMeasureError(f"{error.name} is not installed") from error
    _only_on_cpu(example)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "network.onnx"
        torch.onnx.export(network, (example,), path, dynamo=True, verbose=False)
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return _one_by_one("fp32", lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), example)


def openvino(network: nn.Module, example: torch.Tensor, *, dtype: str = "fp32", hint: str = "LATENCY") -> Peer:
    try:
        import openvino as ov
    except ImportError as error:
        raise CannotMeasureError(f"{error.name} is not installed") from error
    _only_on_cpu(example)
    with _quiet():
        # Traced networks with pixel_shuffle crash it, exported ones do not (2026.4).
        model = ov.convert_model(torch.export.export(network, (example,)))
    settings = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[dtype], "PERFORMANCE_HINT": hint}
    ready = ov.Core().compile_model(model, "CPU", settings)

    def once(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(ready(x.numpy())[0])

    if hint == "LATENCY":
        return _one_by_one(dtype, once, example)
    waiting = ov.AsyncInferQueue(ready)
    array = example.numpy()

    def many(count: int) -> None:
        for _ in range(count):
            waiting.start_async({0: array})
        waiting.wait_all()

    return Peer(dtype=dtype, once=once, many=many)


def _only_on_cpu(example: torch.Tensor) -> None:
    if example.device.type != "cpu":
        raise CannotMeasureError("it is measured on a CPU only")


@contextmanager
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing and exporting warn of much that does not matter here
        yield


REFERENCE = "reference: eager, fp32, batch 1"

PEERS: Mapping[str, Callable[[nn.Module, torch.Tensor], Peer]] = {
    REFERENCE: eager,
    "TorchScript": torchscript,
    "torch.compile": compiled,
    "torch.compile, channels last, frozen": compiled_in_channels_last,
    "torch.compile, max-autotune": lambda network, example: compiled(network, example, mode="max-autotune"),
    "torch.compile, reduce-overhead": compiled_with_graphs,
    "ncnn": ncnn,
    "ncnn, pictures side by side": lambda network, example: ncnn(network, example, lanes=max(2, THREADS)),
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
    "OpenVINO bf16": lambda network, example: openvino(network, example, dtype="bf16"),
    "OpenVINO bf16, pictures side by side": lambda network, example: openvino(
        network, example, dtype="bf16", hint="THROUGHPUT"
    ),
}
