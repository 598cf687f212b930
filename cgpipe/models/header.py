"""The header of a model file, read without its weights and without torch.

A safetensors file begins with the length of its header (8 bytes, little-endian), the header as JSON (each tensor's
dtype, shape and offsets, and a ``__metadata__`` of strings) and then the tensors. Our files store the card there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypedDict

from cgpipe.errors import ModelError, ModelNotFoundError
from cgpipe.models.card import ModelCard

METADATA_KEY = "cgpipe"

# Far above every network here, and still read in a moment: larger headers are refused before parsing.
LARGEST_HEADER = 4_000_000  # bytes
MOST_TENSORS = 10_000
MOST_AXES = 8

_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
"""Bits per value, by safetensors' dtype names; sizes of other dtypes are not checked."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a safetensors file.

    Args:
        card: the card's JSON, or None if the file is not one of ours.
        shapes: shape of every tensor, by name.
        dtypes: dtype of every tensor, by safetensors' names, such as ``F16``.
    """

    card: str | None
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]

    @property
    def values(self) -> int:
        """Total number of values in all tensors."""
        return sum(math.prod(shape) for shape in self.shapes.values())


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a model file for reading.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it cannot be read, or is a folder, a pipe or a device.
    """
    try:
        if path.is_fifo() or path.is_char_device() or path.is_socket():
            raise ModelError(f"{path} cannot be read: it is not a regular file.")  # opening it could block forever
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error


def read_header(path: Path) -> Header:
    """Reads the header of any safetensors file.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it cannot be read, is not a safetensors file, is truncated, or its header is larger than
            :data:`LARGEST_HEADER` or lists more than :data:`MOST_TENSORS` tensors.
    """
    with open_file(path) as file:
        try:
            return _parse(file, path.stat().st_size)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error


def read_card(path: Path) -> ModelCard:
    """Reads the card of one of our files; loads neither weights nor torch.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file or its card is damaged, or it is not one of ours; the message names the file and the field.
    """
    text = read_header(path).card
    if text is None:
        raise ModelError(
            f"{path} is a safetensors file, but not a cgpipe model: "
            f"convert it with `cgpipe models import {path} --from DOMAIN --to DOMAIN`"
        )
    try:
        return ModelCard.from_json(text)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def is_ours(path: Path) -> bool:
    """Whether a file is one of ours, by its content.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it is a safetensors file, but truncated or damaged.
    """
    with open_file(path) as file:
        safetensors = file.read(9)[8:] == b"{"
    return safetensors and read_header(path).card is not None


def _parse(file: IO[bytes], size: int) -> Header:
    length = int.from_bytes(file.read(8), "little")
    if size < 9 or file.read(1) != b"{":
        raise ModelError("It is not a safetensors file.")
    if length > size - 8:
        raise ModelError(f"It is cut off: {size} bytes of at least {8 + length}.")
    if length > LARGEST_HEADER:
        raise ModelError(f"It has a header of {length} bytes, but cgpipe reads up to {LARGEST_HEADER}.")
    try:
        entries = json.loads(b"{" + file.read(length - 1))
        metadata = entries.pop("__metadata__", {})
        header, end = _header(metadata, entries)
    # Whatever else JSON may hold: endless numbers, strings for numbers, a million nested brackets.
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise ModelError("It is not a safetensors file.") from error
    if size != 8 + length + end:
        raise ModelError(f"It is damaged: it has {size} bytes, but its header declares {8 + length + end}.")
    return header


class _Tensor(TypedDict):
    dtype: str
    shape: list[int]
    data_offsets: list[int]


def _header(metadata: Mapping[str, object], entries: Mapping[str, _Tensor]) -> tuple[Header, int]:
    """The header, and the size of the tensors in bytes."""
    if len(entries) > MOST_TENSORS:
        raise ModelError(f"It holds {len(entries)} tensors, but cgpipe reads up to {MOST_TENSORS}.")
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = (_whole(value) for value in entry["data_offsets"])
        if len(entry["shape"]) > MOST_AXES:
            raise ValueError(f"{name} has too many axes")
        bits = math.prod(_whole(side) for side in entry["shape"]) * _BITS.get(entry["dtype"], 0)
        if first != end or last < first or (entry["dtype"] in _BITS and 8 * (last - first) != bits):
            raise ModelError(f"It is damaged: tensor {name} is not as long as its shape says, or not in its place.")
        end = last
    card = metadata.get(METADATA_KEY)
    if not isinstance(card, str | None):
        raise ModelError("It is damaged: the card in its header is not text.")
    shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    return Header(card=card, shapes=shapes, dtypes={name: str(entry["dtype"]) for name, entry in entries.items()}), end


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value
