"""Checks an ONNX file before it is run, without any ONNX package: its operators, its size, its external files.

An ONNX file is a protobuf message: numbered fields, each an integer or a length-prefixed run of bytes. Only the fields
that matter here are read (onnx.proto3): graph and functions of the model, nodes and constants of a graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cgpipe.errors import ModelError
from cgpipe.models.header import open_file

LARGEST_FILE = 2_000_000_000
"""Bytes: protobuf's own limit."""
MOST_NODES = 5_000
DEEPEST = 8
"""Most levels of nested graphs."""

_OWN = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operator sets that ONNX Runtime includes."""
_ENDLESS = ("Loop", "Scan", "SequenceMap")

# Field numbers.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_FUNCTION_NODE, _FUNCTION_NAME, _FUNCTION_DOMAIN = 7, 1, 10
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = (5, 10), (6, 11)
_TENSOR_EXTERNAL, _ENTRY_KEY, _ENTRY_VALUE = 13, 1, 2


@dataclass
class OnnxContents:
    """The checked contents of an ONNX file.

    Args:
        nodes: number of nodes, including inner graphs and functions.
        makers: for each value of the outermost graph, the operator that computes it and its first input.
        external: names of files with constants, relative to the file's folder.
    """

    nodes: int = 0
    makers: dict[str, tuple[str, str]] = field(default_factory=dict)
    external: set[str] = field(default_factory=set)


def read_onnx(path: Path) -> tuple[bytes, OnnxContents]:
    """Reads and checks an ONNX file; returns its bytes and contents.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it is not ONNX, is too large, or has unknown operators, loops that may never end, or constants
            outside its folder.
    """
    with open_file(path) as file:
        size = file.seek(0, 2)
        if size > LARGEST_FILE:
            raise ModelError(
                f"{path} has {size / 1e9:.1f} GB: cgpipe runs ONNX files of up to {LARGEST_FILE / 1e9:.0f} GB."
            )
        file.seek(0)
        content = file.read()
    try:
        return content, check_onnx(content, path.parent)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def check_onnx(content: bytes, folder: Path) -> OnnxContents:
    """Checks ONNX bytes; errors as for :func:`read_onnx`, without the file's name.

    Args:
        folder: where constants may lie.
    """
    try:
        return _contents(content, folder)
    except (ValueError, IndexError, RecursionError) as error:
        raise ModelError("It is not an ONNX file, or is cut short: copy or download it again.") from error


def _contents(content: bytes, folder: Path) -> OnnxContents:
    model = memoryview(content)
    fields = list(_fields(model))
    graphs = [value for number, value in fields if number == _MODEL_GRAPH]
    if len(graphs) != 1 or not isinstance(graphs[0], memoryview):
        raise ValueError("no graph")
    contents = OnnxContents()
    functions = [value for number, value in fields if number == _MODEL_FUNCTIONS and isinstance(value, memoryview)]
    own = {_text_of(function, _FUNCTION_DOMAIN): _text_of(function, _FUNCTION_NAME) for function in functions}
    for function in functions:
        _read_nodes(function, _FUNCTION_NODE, contents, own, depth=1)
    _read_graph(graphs[0], contents, own, depth=0)
    for name in contents.external:
        _check_external(name, folder)
    return contents


def _read_graph(graph: memoryview, contents: OnnxContents, own: Mapping[str, str], depth: int) -> None:
    if depth > DEEPEST:
        raise ModelError(f"Its graphs are nested more than {DEEPEST} deep.")
    for number, value in _fields(graph):
        if number == _GRAPH_INITIALIZER and isinstance(value, memoryview):
            _read_tensor(value, contents)
    _read_nodes(graph, _GRAPH_NODE, contents, own, depth)


def _read_nodes(graph: memoryview, kind: int, contents: OnnxContents, own: Mapping[str, str], depth: int) -> None:
    for number, node in _fields(graph):
        if number != kind or not isinstance(node, memoryview):
            continue
        contents.nodes += 1
        if contents.nodes > MOST_NODES:
            raise ModelError(f"It has more than {MOST_NODES} nodes, which is more than cgpipe supports.")
        operator, domain = _text_of(node, _NODE_OP), _text_of(node, _NODE_DOMAIN)
        if domain not in _OWN and domain not in own:
            raise ModelError(f"It needs the custom operator {domain}.{operator}, which is not part of ONNX.")
        if operator in _ENDLESS:
            raise ModelError(f"It holds a loop ({operator}), which may never end.")
        if depth == 0:
            for output in _texts_of(node, _NODE_OUTPUT):
                contents.makers[output] = (operator, _text_of(node, _NODE_INPUT))
        for inner, attribute in _fields(node):
            if inner == _NODE_ATTRIBUTE and isinstance(attribute, memoryview):
                _read_attribute(attribute, contents, own, depth)


def _read_attribute(attribute: memoryview, contents: OnnxContents, own: Mapping[str, str], depth: int) -> None:
    for number, value in _fields(attribute):
        if isinstance(value, memoryview):
            if number in _ATTRIBUTE_TENSORS:
                _read_tensor(value, contents)
            elif number in _ATTRIBUTE_GRAPHS:
                _read_graph(value, contents, own, depth + 1)


def _read_tensor(tensor: memoryview, contents: OnnxContents) -> None:
    for number, entry in _fields(tensor):
        if number == _TENSOR_EXTERNAL and isinstance(entry, memoryview) and _text_of(entry, _ENTRY_KEY) == "location":
            contents.external.add(_text_of(entry, _ENTRY_VALUE))


def _check_external(name: str, folder: Path) -> None:
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or ":" in name:
        raise ModelError(f"It refers to constants in {name!r}, outside its folder.")
    wanted = folder / relative
    if not wanted.is_file():
        raise ModelError(f"Its constants are in {name}, which is missing beside it.")
    if not wanted.resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"It refers to constants in {name!r}, outside its folder.")


def _text_of(message: memoryview, number: int) -> str:
    return next(_texts_of(message, number), "")


def _texts_of(message: memoryview, number: int) -> Iterator[str]:
    for found, value in _fields(message):
        if found == number and isinstance(value, memoryview):
            yield bytes(value).decode("utf-8")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: number, and integer or bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == 2:
            length, place = _varint(message, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError("no such kind of field")
        if place + length > len(message):
            raise ValueError("cut short")
        yield number, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")
