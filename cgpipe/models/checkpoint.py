"""Reads files of weights that others wrote, without ever running what is in them."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cgpipe.errors import ModelError, ModelNotFoundError
from cgpipe.models.header import read_header

_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK\x03\x04"
_TENSORFLOW_INDEX_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
_TENSORFLOW = "a TensorFlow checkpoint: cgpipe reads PyTorch's; convert it with the project that it comes from"
_SAVE_AGAIN = "Where the file was made, save the network's state_dict() with torch.save"
_DAMAGED = "cut short or damaged: copy or download it again"

# What a file begins with, and what it then is.
_NOT_WEIGHTS: tuple[tuple[bytes, str], ...] = (
    (b"<", "a web page or XML: download it again, from the link that gives the file itself"),
    (b"{", "JSON text: download it again, from the link that gives the file itself"),
    (b"version https://git-lfs", "a Git LFS pointer, not the weights themselves: fetch them with git lfs pull"),
    (b"model_checkpoint_path", _TENSORFLOW),
    (b"\x89HDF", "a Keras or other HDF5 file: cgpipe reads PyTorch's checkpoints"),
    (b"\x93NUMPY", "a NumPy array: cgpipe reads PyTorch's checkpoints"),
    (b"\x1f\x8b", "a gzip archive: unpack it and name the file inside"),
    (b"Rar!", "a RAR archive: unpack it and name the file inside"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it and name the file inside"),
    (b"\x89PNG", "a picture, not a model"),
    (b"\xff\xd8\xff", "a picture, not a model"),
)


def load_checkpoint(path: Path) -> Any:
    """What ``torch.save`` (old formats too) or safetensors wrote to ``path``, with its tensors on the CPU.

    Only tensors and plain containers are read: a file that asks for anything else is refused, and nothing in it runs.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file cannot be read, is damaged, or is something else; the message says what it looks like.
    """
    try:
        start, end = _ends(path)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: there is no such file") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if other := _something_else(path, start, end):
        raise ModelError(f"{path} is {other}")
    if start[8:9] == b"{":
        return _load_safetensors(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    # Bytes from anywhere make the reader fail in any way; weights_only sees to it that failing is all it does.
    except Exception as error:
        raise ModelError(f"{path} is {_why_unreadable(start, str(error))}") from error


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    if read_header(path).card is not None:
        raise ModelError(f"{path} is one of cgpipe's own models: use it as it is")
    return load_file(path)


def _ends(path: Path) -> tuple[bytes, bytes]:
    with path.open("rb") as file:
        start = file.read(512)
        file.seek(max(0, file.seek(0, 2) - 8))
        return start, file.read()


def _something_else(path: Path, start: bytes, end: bytes) -> str | None:
    if not start:
        return "an empty file: copy or download it again"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    for signature, description in _NOT_WEIGHTS:
        if text.startswith(signature):
            return description
    if end == _TENSORFLOW_INDEX_END or re.search(r"\.(meta|pb|data-\d+-of-\d+)$", path.name):
        return _TENSORFLOW
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it and name the file inside"
    return _something_else_zipped(path) if start.startswith(_ZIP) else None


def _something_else_zipped(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return _DAMAGED
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program, which is code. " + _SAVE_AGAIN
    if not any(name.endswith("/data.pkl") for name in names):
        return "a zip archive: unpack it and name the file inside"
    return None


def _why_unreadable(start: bytes, error: str) -> str:
    if refused := re.search(r"GLOBAL ([\w.]+)", error):
        return (
            f"not plain weights: it holds Python objects ({refused[1]}), and to load those would run code from the "
            f"file. Nothing was run. {_SAVE_AGAIN}"
        )
    from_torch = start.startswith((_ZIP, _LEGACY_TORCH))
    if from_torch and "Unsupported operand" not in error:
        return _DAMAGED
    if start.startswith(b"\x80") or from_torch:
        return f"a Python pickle of a kind that cannot be read without trusting it. Nothing was run. {_SAVE_AGAIN}"
    return "not a checkpoint of any kind that cgpipe knows"
