"""Exports generators to files for other programs."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch
from torch import nn

from cgpipe.errors import CgpipeError, MissingDependencyError, UsageError
from cgpipe.models import Model
from cgpipe.networks import Generator
from cgpipe.storage import atomic_write

Format = Literal["onnx", "torchscript", "torch-export", "openvino"]
Run = Callable[[torch.Tensor], torch.Tensor]

INPUT, OUTPUT = "picture", "translated"
"""Names of an exported network's input and output."""

TOLERANCE = 1e-3
"""Largest error against eager, as a fraction of white, of a correct export."""


class Normalised(nn.Module):
    """A generator with conversion from and to pixels inside: (N, H, W, C) uint8 in and out."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.generator(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
        return ((y + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of :func:`export_model`: the file, and its largest error against eager, as a fraction of white."""

    path: Path
    format: Format
    multiple: int
    error: float


def to_torchscript(network: nn.Module, example: torch.Tensor | None = None) -> Any:
    """``network`` traced and frozen, for any size."""
    with _quiet():
        traced = torch.jit.trace(network, _example(network) if example is None else example, check_trace=False)
        return torch.jit.freeze(traced)


def to_torch_export(network: nn.Module, example: torch.Tensor | None = None) -> Any:
    """``network`` as a torch.export program, for any number of pictures and all sides that it accepts."""
    example = _example(network, count=2) if example is None else example
    first = 1 if example.dtype == torch.uint8 else 2
    sides = {first + i: _multiple(network) * torch.export.Dim(name) for i, name in enumerate(("rows", "columns"))}
    with _quiet():
        return torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("pictures"), **sides},))


def to_onnx(network: nn.Module) -> Any:
    """``network`` as an ONNX model (a protobuf message), sizes as for :func:`to_torch_export`.

    Raises:
        MissingDependencyError: the packages of the extra ``onnx`` are not installed.
    """
    extra("onnxscript", "onnx")
    with _quiet():
        program = torch.onnx.export(
            to_torch_export(network), (), dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
        )
    assert program is not None
    return program.model_proto


def to_openvino(network: nn.Module) -> Any:
    """``network`` as an OpenVINO model, for any size.

    Raises:
        MissingDependencyError: the package of the extra ``openvino`` is not installed.
    """
    openvino = extra("openvino", "openvino")
    example = _example(network)
    axis = 3 if isinstance(network, Normalised) else 1
    shape = [side if place == axis else -1 for place, side in enumerate(example.shape)]
    with _quiet():
        model = openvino.convert_model(network, example_input=example, input=shape)
    model.inputs[0].set_names({INPUT})
    model.outputs[0].set_names({OUTPUT})
    return model


def extra(package: str, name: str) -> ModuleType:
    """The module of a package that comes with the extra ``name``."""
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingDependencyError(f"This needs the package {package}: pip install 'cgpipe[{name}]'") from error


def export_model(
    model: Model,
    path: str | os.PathLike[str],
    format: Format,
    *,
    with_normalisation: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Exports a model's generator to a file for other programs: whole and checked, or not at all.

    The exported network takes any number of pictures whose sides are multiples of :attr:`Exported.multiple`: RGB, as
    (N, 3, H, W) float32 in [-1, 1], or with the normalisation inside as (N, H, W, 3) uint8. The output has the same
    form. A model of gray pictures takes and gives RGB too, one of other pictures their channels. In ONNX and OpenVINO
    the input is called ``picture`` and the output ``translated``. Before the file gets its name, its runtime loads it,
    and its output is compared with the network's at three sizes.

    Args:
        path: the file; OpenVINO stores the weights beside it, in ``<name>.bin``.
        format: ``onnx``, ``torchscript``, ``torch-export`` or ``openvino``.
        with_normalisation: include the conversion from and to pixels.
        overwrite: replace existing files.

    Raises:
        MissingDependencyError: the packages of the extra ``onnx`` or ``openvino`` are not installed.
        CgpipeError: the exported network's output differs from that of the network.
        UsageError: the file exists or cannot be written, or an OpenVINO file's suffix is not ``.xml``.
    """
    if format == "openvino" and Path(path).suffix != ".xml":
        raise UsageError(f"OpenVINO files end in .xml, with the weights beside them in .bin: rename {path}.")
    if model.generator.runtime:
        raise UsageError(f"This network is already a {model.generator.runtime} file: use that file.")
    path = Path(path)
    if not overwrite:
        require_new(path, *([path.with_suffix(".bin")] if format == "openvino" else []))
    generator = model.generator.eval().requires_grad_(False)
    network = Normalised(generator).eval() if with_normalisation else generator
    try:
        with atomic_write(path) as partial, _beside(partial, path):
            _WRITERS[format](network, partial)
            error = _check(network, _LOADERS[format](partial))
    except OSError as error_of_file:
        raise UsageError(f"{path} cannot be written: {error_of_file.strerror}.") from error_of_file
    return Exported(path=path, format=format, multiple=generator.multiple, error=error)


def require_new(*paths: Path) -> None:
    """Checks that nothing would be replaced.

    Raises:
        UsageError: one of the files exists.
    """
    for path in paths:
        if path.exists():
            raise UsageError(f"{path} exists: name another file, or replace it with --overwrite.")


@contextmanager
def _beside(partial: Path, path: Path) -> Iterator[None]:
    """Moves the weights that OpenVINO writes beside ``partial`` into place with it, or removes them."""
    weights = partial.with_suffix(".bin")
    try:
        yield
        if weights.exists():
            weights.replace(path.with_suffix(".bin"))
    finally:
        weights.unlink(missing_ok=True)


def _check(network: nn.Module, exported: Run) -> float:
    """The largest error of ``exported`` against ``network`` at several sizes, as a fraction of white."""
    white = 255 if isinstance(network, Normalised) else 2
    # A value half-way between two integers is rounded by its last bit.
    tolerance = 1.01 / 255 if isinstance(network, Normalised) else TOLERANCE
    largest = 0.0
    for count, rows, columns in ((1, 2, 3), (2, 3, 2), (1, 4, 4)):
        pictures = _example(network, count, rows, columns)
        with torch.inference_mode():
            expected = network(pictures)
        result = exported(pictures)
        if result.shape != expected.shape or result.dtype != expected.dtype:
            raise CgpipeError(f"The exported network outputs {tuple(result.shape)} instead of {tuple(expected.shape)}.")
        largest = max(largest, float((result.float() - expected.float()).abs().max()) / white)
    if not largest <= tolerance:
        raise CgpipeError(f"The exported network is off by {100 * largest:.2g}% of the range. It was not written.")
    return largest


def _example(network: nn.Module, count: int = 1, rows: int = 3, columns: int = 4) -> torch.Tensor:
    """Noise for ``network``, with sides ``rows`` and ``columns`` times its multiple."""
    step = _multiple(network)
    shape = (count, _generator(network).channels[0], rows * step, columns * step)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    if isinstance(network, Normalised):
        return ((noise + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    first = next(network.parameters())
    return noise.to(device=first.device, dtype=first.dtype, memory_format=torch.channels_last)


def _multiple(network: nn.Module) -> int:
    return max(2, _generator(network).multiple)


def _generator(network: nn.Module) -> Generator:
    return cast("Generator", network.generator if isinstance(network, Normalised) else network)


def _write_onnx(network: nn.Module, path: Path) -> None:
    path.write_bytes(to_onnx(network).SerializeToString())


def load_onnx(path: Path) -> Run:
    """The ONNX file at ``path`` as a function, run by ONNX Runtime."""
    onnxruntime = extra("onnxruntime", "onnx")
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {INPUT: x.contiguous().numpy()})[0])


def _write_torchscript(network: nn.Module, path: Path) -> None:
    with _quiet():
        torch.jit.save(to_torchscript(network), str(path))


def _load_torchscript(path: Path) -> Run:
    with _quiet():
        loaded: Run = torch.jit.load(str(path))
    return loaded


def _write_torch_export(network: nn.Module, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(to_torch_export(network), file)


def _load_torch_export(path: Path) -> Run:
    with path.open("rb") as file:
        loaded: Run = torch.export.load(file).module()
    return loaded


def _write_openvino(network: nn.Module, path: Path) -> None:
    extra("openvino", "openvino").save_model(to_openvino(network), path, compress_to_fp16=False)


def _load_openvino(path: Path) -> Run:
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = extra("openvino", "openvino").compile_model(path, "CPU", settings)
    return lambda x: torch.from_numpy(compiled([x.contiguous().numpy()])[0].copy())


_WRITERS: Mapping[Format, Callable[[nn.Module, Path], None]] = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
    "torch-export": _write_torch_export,
    "openvino": _write_openvino,
}
_LOADERS: Mapping[Format, Callable[[Path], Run]] = {
    "onnx": load_onnx,
    "torchscript": _load_torchscript,
    "torch-export": _load_torch_export,
    "openvino": _load_openvino,
}
SUFFIXES: Mapping[Format, str] = {"onnx": ".onnx", "torchscript": ".pt", "torch-export": ".pt2", "openvino": ".xml"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's deprecation warning for TorchScript, and its exporters' progress messages."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
