"""torch.export programs (``.pt2``): lists of torch operators, which cgpipe runs itself.

torch's own loader unpickles parts of such a file and evaluates its expressions as Python. Here the graph is read as
JSON: every step must be an operator from an allowlist of pure computations, and the weights must be plain tensors.
Example inputs, guards and everything else are ignored. The format is that of torch's ``_export/serde/schema.py``.
"""

from __future__ import annotations

import io
import json
import operator
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np
import torch

from cgpipe.errors import ModelError
from cgpipe.models.archives import packed, read_checked, require_proportion
from cgpipe.models.header import open_file
from cgpipe.models.pickles import LARGEST_PICKLE, check_pickle
from cgpipe.models.program import Array, Port

Json = Mapping[str, object]
Value = torch.Tensor | int | float | bool | str | None | Sequence["Value"] | torch.dtype | torch.memory_format

LARGEST_GRAPH = 64_000_000
"""Bytes of JSON; a network takes about a hundred thousand."""
MOST_STEPS = 10_000
MOST_NUMBERS = 1 << 28
"""Most values of a tensor that a step creates from sizes alone."""

_OLD_GRAPH = "serialized_exported_program.json"
_GRAPH = "models/model.json"

_DTYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16},
    **{7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16},
}
_MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}

_ON_NUMBERS: Mapping[str, Callable[..., Value]] = {
    **{f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "truediv", "mod")},
    **{f"_operator.{name}": getattr(operator, name) for name in ("neg", "eq", "ne", "lt", "le", "gt", "ge")},
    **{"torch.sym_max": max, "torch.sym_min": min, "torch.sym_int": int, "torch.sym_float": float},
    **{"math.trunc": int, "torch.sym_not": operator.not_, "builtins.round": round},
}

_COMPUTING = """
conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution linear addmm mm bmm
matmul baddbmm addbmm einsum dot mv outer scaled_dot_product_attention embedding batch_norm native_batch_norm
_native_batch_norm_legit_no_training _native_batch_norm_legit instance_norm group_norm native_group_norm layer_norm
native_layer_norm rms_norm relu relu6 leaky_relu prelu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid
hardshrink softshrink softplus sigmoid tanh softmax log_softmax _softmax _log_softmax softsign logsigmoid glu
threshold dropout feature_dropout alpha_dropout max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d
adaptive_max_pool2d _adaptive_avg_pool2d adaptive_avg_pool1d avg_pool1d max_pool1d pad constant_pad_nd
reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d upsample_nearest2d upsample_bilinear2d
upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_nearest1d upsample_linear1d
_upsample_nearest_exact2d pixel_shuffle pixel_unshuffle channel_shuffle grid_sampler_2d grid_sampler
affine_grid_generator im2col col2im unfold view view_as reshape reshape_as _unsafe_view _reshape_alias flatten
unflatten permute transpose t numpy_T squeeze unsqueeze expand expand_as repeat repeat_interleave tile cat concat
stack split split_with_sizes chunk unbind slice select narrow index index_select gather masked_fill masked_select
where flip roll movedim swapaxes contiguous clone alias detach lift_fresh_copy lift_fresh to _to_copy type_as float
half to_dtype copy fill constant rot90 rsub tril triu diagonal meshgrid add sub mul div neg abs sign square sqrt rsqrt
pow exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh erf floor ceil round trunc frac
fmod remainder floor_divide reciprocal clamp clamp_min clamp_max clip maximum minimum lerp addcmul addcdiv true_divide
subtract multiply divide nan_to_num hypot sum mean var std var_mean std_mean amax amin max min argmax argmin prod norm
linalg_vector_norm cumsum all any logsumexp sort topk eq ne lt le gt ge logical_and logical_or logical_not logical_xor
bitwise_and bitwise_or bitwise_not isnan isinf isfinite zeros ones full empty arange linspace eye zeros_like ones_like
full_like empty_like new_zeros new_ones new_full new_empty scalar_tensor sym_size sym_numel sym_stride _assert_scalar
_assert_tensor_metadata sym_constrain_range sym_constrain_range_for_size _assert_async
"""
_OPERATORS = frozenset(_COMPUTING.split())
"""The allowlist: ``aten`` operators that only compute from their arguments."""
_MAKING = "zeros ones full empty new_zeros new_ones new_full new_empty expand repeat tile eye arange"
_SIZED = frozenset(_MAKING.split())


@dataclass(frozen=True, slots=True)
class _Name:
    """A reference to the result of an earlier step."""

    name: str


@dataclass(frozen=True, slots=True)
class _Step:
    """One operator: its arguments by name or in order, and the names of its results."""

    run: Callable[..., object]
    arguments: tuple[tuple[str, object], ...]
    results: tuple[str | tuple[str, ...] | None, ...]
    done_with: tuple[str, ...]
    """Values that no later step needs, to be freed."""


def is_exported(path: Path) -> bool:
    """Whether a file is a torch.export program, by the names of its archive entries."""
    try:
        with open_file(path) as file:
            if file.read(2) != b"PK":
                return False
            with zipfile.ZipFile(file) as archive:
                return _graph_of(archive) is not None
    except Exception:  # in a damaged archive anything may be wrong
        return False


def read_exported(path: Path) -> bytes:
    """The bytes of a torch.export program, repacked with only the parts that are used.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it is damaged, too large, or does more than compute.
    """
    return read_checked(path, checked_exported)


def checked_exported(content: bytes) -> bytes:
    """Checks that a program only computes; errors as for :func:`read_exported`, without the file's name."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            require_proportion(sum(entry.file_size for entry in entries.values()), len(content))
            if len(entries) < len(archive.infolist()):
                raise ModelError("It holds two entries of the same name.")
            graph = _graph_of(archive)
            if graph is None:
                raise ModelError("It holds no program of torch.export.")
            if entries[graph].file_size > LARGEST_GRAPH:
                raise ModelError(f"Its graph is larger than {LARGEST_GRAPH / 1e6:.0f} MB.")
            kept = {name: archive.read(name) for name in entries if name == graph or _is_data(name)}
        repacked = packed(kept)
        Exported(repacked)  # refuses a step that does more than compute
        return repacked
    except ModelError:
        raise
    except Exception as error:  # in a damaged archive anything may be wrong
        raise ModelError("It is a damaged program of torch.export: copy or download it again.") from error


def _graph_of(archive: zipfile.ZipFile) -> str | None:
    names = [name for name in archive.namelist() if name.endswith((f"/{_GRAPH}", _OLD_GRAPH))]
    if len(names) > 1:
        raise ModelError("It holds several programs: export the network alone.")
    return names[0] if names else None


def _is_data(name: str) -> bool:
    old = name in ("serialized_state_dict.pt", "serialized_state_dict.json", "serialized_constants.pt")
    return old or "/data/weights/" in name or "/data/constants/" in name


class Exported:
    """A torch.export program, run step by step by torch; thread-safe.

    Args:
        content: the file's bytes.

    Raises:
        ModelError: a step is not on the allowlist, or a weight is missing.
    """

    runtime = "torch.export"

    def __init__(self, content: bytes) -> None:
        self._lock = threading.Lock()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            name = _graph_of(archive)
            program = json.loads(archive.read(cast(str, name)))
            tensors = _tensors(archive)
        module = program["graph_module"]
        graph = module["graph"]
        lifted, asked = _inputs(module["signature"]["input_specs"])
        missing = [tensor for tensor in lifted.values() if tensor not in tensors]
        if missing:
            raise ModelError(f"Its weight {missing[0]} is missing.")
        self._weights = {"cpu": {name: tensors[tensor] for name, tensor in lifted.items()}}
        self._results = [_named(entry) for entry in graph["outputs"]]
        self._steps = _steps(graph["nodes"], frozenset(lifted), {name for name in self._results if name})
        self.makers = dict(_makers(graph["nodes"]))
        self._asked = asked
        self.inputs = [_port(name, graph["tensor_values"]) for name in asked]
        self.outputs = [_port(name, graph["tensor_values"]) for name in self._results if name]

    def __call__(self, values: Mapping[str, Array], threads: int, device: str = "cpu") -> Sequence[Array]:
        dtypes = {port.name: getattr(torch, port.dtype) for port in self.inputs}
        known: dict[str, object] = {
            name: torch.from_numpy(np.ascontiguousarray(value)).to(device, dtypes[name])
            for name, value in values.items()
        }
        try:
            with torch.inference_mode():
                known |= self._on(device)
                for step in self._steps:
                    _run(step, known, device)
        except Exception as error:  # whatever an operator may raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"PyTorch could not run the network: {lines[0][:300]}.") from error
        found = [known[name] for name in self._results if name]
        return [value.float().cpu().numpy() for value in found if isinstance(value, torch.Tensor)]

    def _on(self, device: str) -> Mapping[str, torch.Tensor]:
        with self._lock:
            if device not in self._weights:
                self._weights[device] = {name: value.to(device) for name, value in self._weights["cpu"].items()}
            return self._weights[device]


def _run(step: _Step, known: dict[str, object], device: str) -> None:
    given = [(name, _filled(value, known, device)) for name, value in step.arguments]
    result = step.run(*(value for name, value in given if not name), **{name: value for name, value in given if name})
    several = len(step.results) > 1
    for name, value in zip(step.results, cast(Sequence[object], result) if several else [result], strict=False):
        if isinstance(name, tuple):
            known.update(zip(name, cast(Sequence[object], value), strict=True))
        elif name is not None:
            known[name] = value
    for name in step.done_with:
        known.pop(name, None)


def _filled(value: object, known: Mapping[str, object], device: str) -> object:
    if isinstance(value, _Name):
        return known[value.name]
    if isinstance(value, list):
        return [_filled(entry, known, device) for entry in value]
    return torch.device(device) if isinstance(value, torch.device) else value


def _tensors(archive: zipfile.ZipFile) -> dict[str, torch.Tensor]:
    """All tensors of an archive, by their names in the graph's signature."""
    found: dict[str, torch.Tensor] = {}
    for name in archive.namelist():
        path = PurePosixPath(name)
        if path.name.endswith("_config.json") and _is_data(name):
            config = json.loads(archive.read(name))["config"]
            found |= {key: _tensor(archive, path.parent / entry["path_name"], entry) for key, entry in config.items()}
        elif path.suffix in (".pt", ".json") and _is_data(name):
            loaded = _unpickled(archive.read(name))
            found |= cast(dict[str, torch.Tensor], loaded) if isinstance(loaded, dict) else {}
    if not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ModelError("It holds constants that are not tensors.")
    return found


def _tensor(archive: zipfile.ZipFile, path: PurePosixPath, entry: Json) -> torch.Tensor:
    content = archive.read(str(path))
    if entry.get("use_pickle"):
        return cast(torch.Tensor, _unpickled(content))
    meta = cast(dict[str, list[dict[str, int]]], entry["tensor_meta"])
    sizes, strides = ([side["as_int"] for side in meta[key]] for key in ("sizes", "strides"))
    dtype = _dtype(cast(int, meta["dtype"]))
    if 0 in sizes:
        return torch.empty(sizes, dtype=dtype)
    offset = cast(dict[str, int], meta["storage_offset"])["as_int"]
    return torch.frombuffer(bytearray(content), dtype=dtype).as_strided(sizes, strides, offset).clone()


def _unpickled(content: bytes) -> object:
    """The content of a ``torch.save`` file, if it is only plain tensors."""
    if not content:
        return {}
    with zipfile.ZipFile(io.BytesIO(content)) as inner:
        for entry in inner.infolist():
            if entry.filename.endswith(".pkl"):
                if entry.file_size > LARGEST_PICKLE:
                    raise ModelError("It holds far more than a network.")
                check_pickle(io.BytesIO(inner.read(entry)))
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _dtype(number: int) -> torch.dtype:
    if number not in _DTYPES:
        raise ModelError(f"It holds numbers of an unknown type ({number}).")
    return _DTYPES[number]


def _inputs(specs: Sequence[Json]) -> tuple[dict[str, str], list[str]]:
    """The graph's names of weights, with their tensors' names; and the names of the user's inputs."""
    lifted, asked = {}, []
    for spec in specs:
        ((kind, entry),) = cast(dict[str, dict[str, dict[str, object]]], spec).items()
        if kind == "user_input":
            name = _named(entry["arg"])
            if name is None:
                raise ModelError("It takes inputs that are not tensors: export it with tensors alone.")
            asked.append(name)
        elif kind in ("parameter", "buffer", "tensor_constant"):
            lifted[cast(str, entry["arg"]["name"])] = cast(str, entry[f"{kind}_name"])
        else:
            raise ModelError(f"It takes an input of an unknown kind ({kind}).")
    return lifted, asked


def _named(entry: Mapping[str, object]) -> str | None:
    """The name of a tensor among the inputs or outputs of a graph; None for anything else."""
    tensor = cast(Mapping[str, str], entry.get("as_tensor") or {})
    return tensor.get("name")


def _port(name: str, metas: Mapping[str, Mapping[str, object]]) -> Port:
    meta = metas[name]
    sides = cast(list[Mapping[str, int]], meta["sizes"])
    dtype = str(_dtype(cast(int, meta["dtype"]))).removeprefix("torch.")
    return Port(name=name, shape=tuple(side.get("as_int") for side in sides), dtype=dtype)


def _steps(nodes: Sequence[Json], fixed: frozenset[str], results: set[str]) -> list[_Step]:
    if len(nodes) > MOST_STEPS:
        raise ModelError(f"It has {len(nodes)} steps, more than {MOST_STEPS}.")
    steps: list[_Step] = []
    needed = {*fixed, *results}
    for node in reversed(nodes):
        step = _step(node, fixed)
        used = set(_names([value for _, value in step.arguments]))
        steps.append(_Step(step.run, step.arguments, step.results, tuple(used - needed)))
        needed |= used
    return steps[::-1]


def _makers(nodes: Sequence[Json]) -> Iterator[tuple[str, tuple[str, str]]]:
    """For each result that is a tensor, the operator that computes it and its first input, if that is one."""
    for node in nodes:
        inputs = cast(list[dict[str, Json]], node["inputs"])
        first = (_named(inputs[0]["arg"]) if inputs else None) or ""
        for name in map(_named, cast(list[Json], node["outputs"])):
            if name:
                yield name, (cast(str, node["target"]).split(".")[-2], first)


def _step(node: Json, fixed: frozenset[str]) -> _Step:
    target = cast(str, node["target"])
    inputs = cast(list[dict[str, object]], node["inputs"])
    run, named = _operator(target)
    arguments = [(cast(str, entry["name"]) if named else "", _argument(cast(Json, entry["arg"]))) for entry in inputs]
    base = target.split(".")[3] if named else ""
    if base.endswith("_") and isinstance(arguments[0][1], _Name) and arguments[0][1].name in fixed:
        raise ModelError(f"It changes its own weights ({target}): export it after eval(). Nothing was run.")
    if base in _SIZED:
        _check_sizes([value for _, value in arguments], target)
    results = [_result(entry) for entry in cast(list[Json], node["outputs"])]
    return _Step(run, tuple(arguments), tuple(results), ())


def _operator(target: str) -> tuple[Callable[..., object], bool]:
    """A step's operator, and whether its arguments are passed by name."""
    if target in _ON_NUMBERS:
        return _ON_NUMBERS[target], False
    parts = target.split(".")
    if parts[:3] == ["torch", "ops", "aten"] and len(parts) == 5 and parts[3].rstrip("_") in _OPERATORS:
        packet = getattr(torch.ops.aten, parts[3], None)
        if packet is not None and parts[4] in packet.overloads():
            return cast(Callable[..., object], getattr(packet, parts[4])), True
    raise ModelError(f"It needs {target}, which is not among the operators that cgpipe runs. Nothing was run.")


def _argument(entry: Json) -> object:
    ((kind, value),) = entry.items()
    plain = ("as_int", "as_ints", "as_float", "as_floats", "as_bool", "as_bools", "as_string")
    if kind in plain:
        return value
    if kind == "as_none":
        return None
    if kind in ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool", "as_optional_tensor"):
        return _one(cast(Json, value))
    if kind in ("as_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools", "as_optional_tensors"):
        return [_one(cast(Json, item)) for item in cast(list[object], value)]
    if kind == "as_scalar_type":
        return _dtype(cast(int, value))
    if kind == "as_memory_format":
        return _MEMORY_FORMATS.get(cast(int, value))
    if kind == "as_layout":
        return torch.strided
    if kind == "as_device":
        return torch.device("cpu")  # replaced by the device that it runs on
    raise ModelError(f"It has an argument of an unknown kind ({kind}). Nothing was run.")


def _one(entry: Json) -> object:
    """A tensor or a number, by reference or by value."""
    if "as_tensor" in entry:
        entry = cast(Json, entry["as_tensor"])
    name = entry.get("name", entry.get("as_name"))
    if name is not None:
        return _Name(cast(str, name))
    return next((entry[key] for key in ("as_int", "as_float", "as_bool") if key in entry), None)


def _result(entry: Json) -> str | tuple[str, ...] | None:
    ((kind, value),) = entry.items()
    if kind == "as_tensors":
        return tuple(item["name"] for item in cast(list[dict[str, str]], value))
    found = _one(cast(Json, value)) if isinstance(value, Mapping) else None
    return found.name if isinstance(found, _Name) else None


def _names(values: Sequence[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, _Name):
            yield value.name
        elif isinstance(value, list):
            yield from _names(value)


def _check_sizes(values: Sequence[object], target: str) -> None:
    for value in values:
        sizes = [side for side in (value if isinstance(value, list) else [value]) if isinstance(side, int)]
        if np.prod([float(max(side, 1)) for side in sizes]) > MOST_NUMBERS:
            raise ModelError(f"It asks {target} for more numbers than any picture has. Nothing was run.")
