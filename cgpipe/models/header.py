"""The header of a model file, read without its weights and without torch.

A safetensors file begins with the length of its header (8 bytes, little-endian), the header as JSON (each tensor's
type, shape and place, and a ``__metadata__`` of texts) and then the tensors. Ours carries its card there, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

from cgpipe.errors import ModelError, ModelNotFoundError
from cgpipe.models.card import ModelCard

METADATA_KEY = "cgpipe"
LARGEST_HEADER = 100_000_000  # the format's own limit, in bytes


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the header of a safetensors file says.

    Args:
        card: the card's JSON, or None where the file is not one of ours.
        shapes: of every tensor, by name.
        dtypes: of every tensor as safetensors writes them, such as ``F16``.
    """

    card: str | None
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]

    @property
    def values(self) -> int:
        """How many numbers the tensors hold together."""
        return sum(prod(shape) for shape in self.shapes.values())


def read_header(path: Path) -> Header:
    """The header of a safetensors file, whoever wrote it.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: it cannot be read, is not a safetensors file, or is cut off.
    """
    try:
        with path.open("rb") as file:
            return _parse(file, path.stat().st_size)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: there is no such file") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except ModelError as error:
        raise ModelError(f"{path} {error}") from error


def read_card(path: Path) -> ModelCard:
    """The card of one of our files; loads no weights and no torch.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file is damaged, not one of ours, or its card is; names the file and the field.
    """
    text = read_header(path).card
    if text is None:
        raise ModelError(
            f"{path} is a safetensors file, but not one of cgpipe's: "
            f"make one of it with `cgpipe models import {path} --from DOMAIN --to DOMAIN`"
        )
    try:
        return ModelCard.from_json(text)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def is_ours(path: Path) -> bool:
    """Whether a file is one of ours, by what is in it.

    Raises:
        ModelError: it is a safetensors file, but cut off or damaged, so that nobody can say.
    """
    try:
        with path.open("rb") as file:
            safetensors = file.read(9)[8:] == b"{"
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    return safetensors and read_header(path).card is not None


def _parse(file: IO[bytes], size: int) -> Header:
    length = int.from_bytes(file.read(8), "little")
    if size < 9 or length > LARGEST_HEADER:
        raise ModelError("is not a safetensors file")
    text = file.read(length)
    if len(text) < length and text.startswith(b"{"):
        raise ModelError(f"is cut off: {size} bytes of at least {8 + length}")
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        header = _header(metadata, entries)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelError("is not a safetensors file") from error
    if size != 8 + length + end:
        raise ModelError(f"is damaged: it has {size} bytes, but its header speaks of {8 + length + end}")
    return header


def _header(metadata: Mapping[str, str], entries: Mapping[str, Any]) -> Header:
    return Header(
        card=metadata.get(METADATA_KEY),
        shapes={name: tuple(int(side) for side in entry["shape"]) for name, entry in entries.items()},
        dtypes={name: str(entry["dtype"]) for name, entry in entries.items()},
    )
