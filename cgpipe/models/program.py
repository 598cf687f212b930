"""Programs of other runtimes behind the interface of a generator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from typing import Any, Literal, Protocol

import numpy as np
import torch

from cgpipe.errors import MissingDependencyError, ModelError
from cgpipe.networks import Generator
from cgpipe.networks.fixed import at_fixed_size, by_parts, fill_up

Array = np.ndarray[Any, np.dtype[Any]]
Layout = Literal["nchw", "nhwc"]
Pixels = Literal["-1..1", "0..1", "0..255"]
Feed = Callable[[Mapping[str, Array], int, str], Sequence[Array]]
"""Runs a program on named arrays, with a number of threads, on a device (``cpu``, ``cuda:1``); returns its outputs."""

RANGES: Mapping[Pixels, tuple[float, float]] = {"-1..1": (-1.0, 1.0), "0..1": (0.0, 1.0), "0..255": (0.0, 255.0)}
DTYPES = {"float32": np.float32, "float16": np.float16, "float64": np.float64, "uint8": np.uint8}
PART, MARGIN = 512, 32
"""Pixels of a side of what an upscaler sees at a time, and by which neighbouring parts overlap."""
PROGRAMS = ("onnx", "torchscript", "torch-export")
"""Architectures of model files with a program in place of weights."""

_MOVES = """
transpose identity cast slice squeeze unsqueeze reshape depthtospace permute t contiguous clone alias detach view
_unsafe_view to _to_copy float pixel_shuffle
"""
_MOVING = frozenset(_MOVES.split())
"""Operators that only move values, by their names in ONNX and in torch."""


def last_operator(makers: Mapping[str, tuple[str, str]], output: str) -> str:
    """The operator, in lower case, that determines the range of an output; "" if it is not known.

    Args:
        makers: for each value, the operator that computes it and the operator's first input.
        output: name of the value.
    """
    seen = set()
    while output in makers and output not in seen:
        seen.add(output)
        operator, output = makers[output]
        if operator.lower() not in _MOVING:
            return operator.lower()
    return ""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """How a program takes and gives pictures.

    Args:
        picture: name of the picture's input.
        output: index of the picture's output.
        layout: of the input; ``output_layout`` of the output.
        pixels: the pixel range of the input; ``output_pixels`` of the output.
        dtype: of the input: float32, float16, float64 or uint8.
        order: channel order.
        size: height and width, if fixed.
        multiple: the sides must be multiples of this.
        batch: fixed batch size; None for any.
        enlarges: upscaling factor: sides of the output divided by those of the input.
        inputs: values of the other inputs by name, as nested lists.
    """

    picture: str
    output: int = 0
    layout: Layout = "nchw"
    output_layout: Layout = "nchw"
    pixels: Pixels = "0..1"
    output_pixels: Pixels = "0..1"
    dtype: str = "float32"
    order: Literal["rgb", "bgr"] = "rgb"
    size: tuple[int, int] | None = None
    multiple: int = 1
    batch: int | None = None
    enlarges: int = 1
    inputs: Mapping[str, object] = field(default_factory=dict)

    def to_settings(self) -> dict[str, object]:
        """As the settings of a card."""
        return asdict(self)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Signature:
        """From the settings of a card.

        Raises:
            ModelError: a setting is missing or invalid.
        """
        known = {entry.name for entry in fields(cls)}
        try:
            signature = cls(**{name: value for name, value in settings.items() if name in known})
            size = signature.size and (int(signature.size[0]), int(signature.size[1]))
            signature = replace(signature, size=size)
        except (TypeError, ValueError, IndexError) as error:
            raise ModelError(f"The settings are invalid: {error}") from error
        fits = (
            {signature.layout, signature.output_layout} <= {"nchw", "nhwc"}
            and {signature.pixels, signature.output_pixels} <= set(RANGES)
            and signature.dtype in DTYPES
            and signature.order in ("rgb", "bgr")
            and isinstance(signature.multiple, int)
            and 1 <= signature.multiple <= 1024
            and all(1 <= side <= 8192 for side in signature.size or ())
            and (signature.batch is None or (isinstance(signature.batch, int) and 1 <= signature.batch <= 64))
            and isinstance(signature.enlarges, int)
            and 1 <= signature.enlarges <= 16
            and isinstance(signature.inputs, Mapping)
        )
        if not fits:
            raise ModelError("The settings do not declare how the network takes pictures.")
        return signature

    def __str__(self) -> str:
        """One line for the user."""
        size = "{1}x{0} pixels".format(*self.size) if self.size else "any size"
        if self.multiple > 1:
            size += f" in multiples of {self.multiple}"
        batch = f", {self.batch} at a time" if self.batch else ""
        given = f", with {', '.join(self.inputs)}" if self.inputs else ""
        larger = f", enlarged {self.enlarges} times" if self.enlarges > 1 else ""
        return (
            f"{self.layout.upper()} {self.dtype} {self.order.upper()}, {self.pixels} in, {self.output_pixels} out, "
            f"{size}{batch}{given}{larger}"
        )


class Program(Generator):
    """A program as a generator: (N, 3, H, W) in [-1, 1] in and out, on any device, without gradients.

    An upscaler sees large pictures in parts, whatever their size, so that its memory does not grow with them.

    Args:
        feed: runs it.
        signature: its input and output format.
        runtime: name of its runtime.
        content: the file's bytes, for a model file.
    """

    def __init__(self, feed: Feed, signature: Signature, runtime: str, content: bytes) -> None:
        super().__init__()
        self.feed, self.signature, self.runtime, self.content = feed, signature, runtime, content
        self.multiple = signature.multiple
        self.least_side = min(64, 8 * signature.multiple)
        self.enlarges = signature.enlarges
        # An upscaler of one size sees pictures of any other in parts: nothing is fitted into it.
        self.fixed_size = signature.size if signature.enlarges == 1 else None
        self._inputs = {name: np.asarray(value, np.float32) for name, value in signature.inputs.items()}

    def __deepcopy__(self, memo: object) -> Program:
        """Itself: there are no weights that could change."""
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.enlarges > 1:
            return self._enlarged(x)
        if self.fixed_size is not None:
            return at_fixed_size(self._run, x, self.fixed_size)
        return self._run(x)

    def _enlarged(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        fixed = self.signature.size
        size = fixed or (min(height, PART), min(width, PART))
        margin = MARGIN if fixed is None else min(MARGIN, min(fixed) // 4)
        whole = fill_up(x, (max(height, size[0]), max(width, size[1])))
        made = by_parts(self._run, whole, size, margin, self.enlarges)
        return made[:, :, : self.enlarges * height, : self.enlarges * width]

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.split(self.signature.batch) if self.signature.batch else [x]
        return torch.cat([self._once(part) for part in parts])

    def _once(self, x: torch.Tensor) -> torch.Tensor:
        short = (self.signature.batch or len(x)) - len(x)
        taken = torch.cat([x, x[-1:].expand(short, -1, -1, -1)]) if short > 0 else x
        array = to_array(taken.detach().float().cpu(), self.signature)
        outputs = self.feed({self.signature.picture: array, **self._inputs}, torch.get_num_threads(), str(x.device))
        y = from_array(outputs[self.signature.output], self.signature)[: len(x)]
        expected = (*x.shape[:2], *(self.enlarges * side for side in x.shape[2:]))
        if y.shape != expected:
            seen, wanted, got = ("{3}x{2}".format(*shape) for shape in (x.shape, expected, y.shape))
            raise ModelError(f"The network outputs {got} pixels for {seen}, where {wanted} were expected.")
        return y.to(x.device)


def to_array(x: torch.Tensor, signature: Signature) -> Array:
    """(N, 3, H, W) in [-1, 1] in the program's input format."""
    low, high = RANGES[signature.pixels]
    x = x.flip(1) if signature.order == "bgr" else x
    x = (x + 1) * ((high - low) / 2) + low
    if signature.dtype == "uint8":
        x = x.round().clamp(0, 255)
    x = x.permute(0, 2, 3, 1) if signature.layout == "nhwc" else x
    return np.ascontiguousarray(x.numpy().astype(DTYPES[signature.dtype]))


def from_array(y: Array, signature: Signature) -> torch.Tensor:
    """The program's output as (N, 3, H, W) in [-1, 1]."""
    low, high = RANGES[signature.output_pixels]
    if y.ndim == 3:
        y = y[None]
    if y.ndim != 4:
        raise ModelError(f"The network outputs values of shape {y.shape}, which is not a picture.")
    x = torch.from_numpy(np.ascontiguousarray(y, dtype=np.float32))
    x = x.permute(0, 3, 1, 2) if signature.output_layout == "nhwc" else x
    x = (x - low) * (2 / (high - low)) - 1
    return x.flip(1) if signature.order == "bgr" else x


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or an output of a program.

    Args:
        name: of the input or output.
        shape: its shape, with None for any length.
        dtype: such as ``float32``.
        free: whether the program does not state its shape.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    free: bool = False


class _Entry(Protocol):
    """An input or output, as ONNX Runtime describes it."""

    name: str
    shape: Sequence[int | str | None]
    type: str


class _Session(Protocol):
    """An ONNX Runtime session."""

    def get_inputs(self) -> Sequence[_Entry]: ...

    def get_outputs(self) -> Sequence[_Entry]: ...

    def run(self, outputs: None, values: Mapping[str, Array], /) -> Sequence[Array]: ...


class OnnxRuntime:
    """An ONNX file in ONNX Runtime, on a GPU if its GPU build is installed; thread-safe.

    Args:
        content: the file's bytes, checked by :func:`cgpipe.models.onnx_file.read_onnx`.
        path: the file, if constants lie beside it.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ModelError: it rejects the file.
    """

    runtime = "ONNX Runtime"

    def __init__(self, content: bytes, path: str | None = None) -> None:
        self._content: bytes | str = path or content
        self._sessions: dict[tuple[int, str], _Session] = {}
        self._lock = threading.Lock()
        session = self._session(torch.get_num_threads(), "cpu")
        self.inputs = [_port(entry) for entry in session.get_inputs()]
        self.outputs = [_port(entry) for entry in session.get_outputs()]

    def __call__(self, values: Mapping[str, Array], threads: int, device: str = "cpu") -> Sequence[Array]:
        session = self._session(threads, device)
        by_name = {port.name: port for port in self.inputs}
        fed = {name: value.astype(DTYPES.get(by_name[name].dtype, value.dtype)) for name, value in values.items()}
        try:
            result = session.run(None, fed)
        except Exception as error:  # the library does not document its exceptions
            raise ModelError(f"ONNX Runtime could not run the network: {_first_line(error)}.") from error
        return result

    def _session(self, threads: int, device: str) -> _Session:
        with self._lock:
            if (threads, device) not in self._sessions:
                self._sessions[threads, device] = self._started(threads, device)
            return self._sessions[threads, device]

    def _started(self, threads: int, device: str) -> _Session:
        try:
            onnxruntime = import_module("onnxruntime")
        except ImportError as error:
            raise MissingDependencyError(
                "To run ONNX files, install onnxruntime: pip install 'cgpipe[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        kind, _, number = device.partition(":")
        on_gpu = kind == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        providers = [("CUDAExecutionProvider", {"device_id": int(number or 0)})] * on_gpu
        try:
            session: _Session = onnxruntime.InferenceSession(
                self._content, options, providers=[*providers, "CPUExecutionProvider"]
            )
            return session
        except Exception as error:
            raise ModelError(f"ONNX Runtime rejects the file: {_first_line(error)}.") from error


def _port(entry: _Entry) -> Port:
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in entry.shape)
    named = {"float": "float32", "double": "float64"}
    inner = str(entry.type).removeprefix("tensor(").removesuffix(")")
    return Port(name=entry.name, shape=shape, dtype=named.get(inner, inner))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
