"""TorchScript files: checked before they are loaded, and run by torch.

TorchScript is code, in a language that only knows torch's operators, and loading a file already runs some of it. So the
code is first checked as text: it must not use operators that access files or other machines, custom operators, or loops
that may never end.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cgpipe.errors import ModelError
from cgpipe.models.archives import packed, read_checked, require_proportion
from cgpipe.models.header import open_file
from cgpipe.models.pickles import LARGEST_PICKLE, check_pickle
from cgpipe.models.program import Array, Port

LARGEST_CODE = 4_000_000
"""Most bytes of code; a network has about ten thousand."""

_ZIP = b"PK\x03\x04"
_FORBIDDEN = re.compile(r"\b(save|from_file|load_tensor|import_ir_module|rpc_\w+|fork|classes)\b")
_SETS = re.compile(r"\bops\s*\.\s*(\w+)")
_OWN_SETS = ("prim", "aten", "quantized")
_LOOP = re.compile(r"^\s*while\b", re.MULTILINE)
_HIDDEN = re.compile(r"\bgetattr\b[^\n]*\\")


def is_torchscript(path: Path) -> bool:
    """Whether a file is TorchScript, by the names of its archive entries."""
    try:
        with open_file(path) as file:
            if file.read(4) != _ZIP:
                return False
            with zipfile.ZipFile(file) as archive:
                return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except Exception:  # in a damaged archive anything may be wrong
        return False


def read_torchscript(path: Path) -> bytes:
    """Reads and checks a TorchScript file; returns its bytes, repacked from the checked entries.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it is damaged, too large, or its code does more than compute.
    """
    return read_checked(path, checked_torchscript)


def checked_torchscript(content: bytes) -> bytes:
    """Checks that TorchScript only computes; errors as for :func:`read_torchscript`, without the file's name.

    It is repacked, since two readers of one archive may find different entries.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            require_proportion(sum(entry.file_size for entry in entries), len(content))
            if len({entry.filename for entry in entries}) < len(entries):
                raise ModelError("It holds two entries of the same name.")
            code = [entry for entry in entries if "/code/" in entry.filename and entry.filename.endswith(".py")]
            if sum(entry.file_size for entry in code) > LARGEST_CODE:
                raise ModelError(f"It has more than {LARGEST_CODE / 1e6:.0f} MB of code.")
            for entry in code:
                _check_code(archive.read(entry).decode("ascii"))
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    if entry.file_size > LARGEST_PICKLE:
                        raise ModelError("It holds far more than a network.")
                    check_pickle(io.BytesIO(archive.read(entry)))
            return packed({entry.filename: archive.read(entry) for entry in entries})
    except ModelError:
        raise
    except Exception as error:  # in a damaged archive anything may be wrong
        raise ModelError("It is damaged TorchScript: copy or download it again.") from error


def _check_code(code: str) -> None:
    if found := _FORBIDDEN.search(code):
        raise ModelError(f"Its code uses {found[0]}, which can do more than compute. Nothing was run.")
    for name in _SETS.findall(code):
        if name not in _OWN_SETS:
            raise ModelError(f"Its code needs operators from outside torch ({name}). Nothing was run.")
    if _LOOP.search(code):
        raise ModelError("It holds a loop that may never end. Nothing was run.")
    if _HIDDEN.search(code):
        raise ModelError("Its code hides names. Nothing was run.")


class TorchScript:
    """TorchScript in torch; thread-safe.

    Args:
        content: the file's bytes, already checked.

    Raises:
        ModelError: torch rejects it, or its arguments are not a picture, then tensors or numbers.
    """

    runtime = "TorchScript"

    def __init__(self, content: bytes) -> None:
        self._lock = threading.Lock()
        self._content = content
        try:
            module = _loaded(content, "cpu")
        except Exception as error:
            raise ModelError(f"PyTorch rejects the file: {str(error).strip().splitlines()[0][:300]}.") from error
        self._modules = {"cpu": module}
        needed = [a for a in module.forward.schema.arguments[1:] if not a.has_default_value()]
        kinds = {str(argument.type) for argument in needed}
        if not needed or str(needed[0].type) != "Tensor" or not kinds <= {"Tensor", "float", "int"}:
            names = ", ".join(f"{argument.name} ({argument.type})" for argument in needed) or "nothing"
            raise ModelError(f"It takes {names}, but cgpipe gives a picture first, then tensors or numbers.")
        self._numbers = {argument.name: str(argument.type) for argument in needed if str(argument.type) != "Tensor"}
        half = any(value.dtype == torch.float16 for value in module.parameters())
        dtype = "float16" if half else "float32"
        others = [Port(name=a.name, shape=(), dtype=dtype, free=a.name not in self._numbers) for a in needed[1:]]
        self.inputs = [Port(name=needed[0].name, shape=(None,) * 4, dtype=dtype), *others]
        self.outputs = [Port(name="output", shape=(), dtype=dtype)]

    @property
    def makers(self) -> dict[str, tuple[str, str]]:
        """For each value of the network, the operator that computes it and its first input."""
        return _makers(self._modules["cpu"].inlined_graph, self.outputs[0].name)

    def __call__(self, values: Mapping[str, Array], threads: int, device: str = "cpu") -> Sequence[Array]:
        given = [self._given(port, values[port.name], device) for port in self.inputs]
        try:
            with torch.inference_mode():
                result = self._on(device)(*given)
        except Exception as error:  # a program may raise anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"TorchScript could not run the network: {lines[-1][:300]}.") from error
        return [value.float().cpu().numpy() for value in _tensors(result)]

    def _given(self, port: Port, value: Array, device: str) -> torch.Tensor | float:
        if port.name in self._numbers:
            return int(value) if self._numbers[port.name] == "int" else float(value)
        return torch.from_numpy(value).to(device, getattr(torch, port.dtype))

    def _on(self, device: str) -> Any:
        with self._lock:
            if device not in self._modules:
                # Loaded again: a module can only be moved, not copied.
                self._modules[device] = _loaded(self._content, device)
            return self._modules[device]


def _loaded(content: bytes, device: str) -> Any:
    with _quiet():
        return torch.jit.load(io.BytesIO(content), map_location=device).eval()


def _makers(graph: Any, output: str) -> dict[str, tuple[str, str]]:
    """For each value of the graph, the operator that computes it and its first input; the result is ``output``."""
    makers = {
        value.debugName(): (node.kind().partition("::")[2], next((given.debugName() for given in node.inputs()), ""))
        for node in graph.nodes()
        for value in node.outputs()
    }
    return makers | {output: ("identity", next(graph.outputs()).debugName())}


def _tensors(result: object) -> list[torch.Tensor]:
    """The tensors of a result, possible pictures first."""
    if isinstance(result, Mapping):
        result = list(result.values())
    found = list(result) if isinstance(result, list | tuple) else [result]
    tensors = [value for value in found if isinstance(value, torch.Tensor)]
    if not tensors:
        raise ModelError("The network does not output a tensor.")
    return sorted(tensors, key=lambda value: value.ndim != 4)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's deprecation warning for TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
