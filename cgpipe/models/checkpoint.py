"""Reads checkpoints of other projects, without running any code in them."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file

from cgpipe.errors import ModelError
from cgpipe.models.archives import require_proportion
from cgpipe.models.header import open_file, read_header
from cgpipe.models.pickles import LARGEST_PICKLE, SAVE_AGAIN, check_pickle

_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK\x03\x04"
_TENSORFLOW_INDEX_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
_TENSORFLOW = "a TensorFlow checkpoint: cgpipe reads PyTorch's; convert it with the project that it comes from"
_DAMAGED = "cut short or damaged: copy or download it again"

# Leading bytes of files that are not checkpoints, and what they are.
_NOT_WEIGHTS: tuple[tuple[bytes, str], ...] = (
    (b"<?xml", "XML: of OpenVINO's files cgpipe reads none, export the model as ONNX or TorchScript instead"),
    (b"<", "a web page: download it again, from the link that gives the file itself"),
    (b"{", "JSON text: download it again, from the link that gives the file itself"),
    (b"version https://git-lfs", "a Git LFS pointer, not the weights themselves: fetch them with git lfs pull"),
    (b"model_checkpoint_path", _TENSORFLOW),
    (b"\x89HDF", "a Keras or other HDF5 file: cgpipe reads PyTorch's checkpoints"),
    (b"\x93NUMPY", "a NumPy array: cgpipe reads PyTorch's checkpoints"),
    (b"\x1f\x8b", "a gzip archive: unpack it and name the file inside"),
    (b"Rar!", "a RAR archive: unpack it and name the file inside"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it and name the file inside"),
    (b"ftrt", "a TensorRT engine, made for one GPU: use the network that it was built from, such as ONNX"),
    (b"ptrt", "a TensorRT engine, made for one GPU: use the network that it was built from, such as ONNX"),
    (b"7767517\n", "a network of ncnn: use the checkpoint, ONNX or TorchScript file that it was made from"),
    (b"7767517\r", "a network of ncnn: use the checkpoint, ONNX or TorchScript file that it was made from"),
    (b"\x89PNG", "a picture, not a model"),
    (b"\xff\xd8\xff", "a picture, not a model"),
)

# Entries of archives that are not checkpoints, and what they are.
_ZIPPED: tuple[tuple[str, str], ...] = (
    ("archive_format", "a torch.export program (.pt2), or part of one, without a graph: export it again"),
    ("model.weights.h5", "a Keras network: cgpipe runs ONNX and TorchScript; convert it with tf2onnx"),
    (".npy", "an archive of NumPy arrays (.npz): cgpipe reads PyTorch's checkpoints, and safetensors"),
    (".mlmodel", "a Core ML network: use the checkpoint, ONNX or TorchScript file that it was made from"),
)


def load_checkpoint(path: Path) -> Any:
    """Loads a file of ``torch.save`` (old formats too) or safetensors, with its tensors on the CPU.

    Only tensors and plain containers are loaded: a file with anything else is refused, and none of its code runs.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file cannot be read, is damaged, or is not a checkpoint; the message says what it looks like.
    """
    start, end = _ends(path)
    if other := _something_else(path, start, end):
        raise ModelError(f"{path} is {other}.")
    if start[8:9] == b"{":
        return _load_safetensors(path)
    with open_file(path) as file, warnings.catch_warnings(action="ignore"):
        try:
            _check_before(path, file, start)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        # On untrusted bytes the reader may fail in any way, but with weights_only it can do no more than fail.
        except Exception as error:
            raise ModelError(f"{path} is {_why_unreadable(start, str(error))}.") from error


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    if read_header(path).card is not None:
        raise ModelError(f"{path} is one of cgpipe's own models: use it as it is.")
    try:
        return load_file(path)
    except Exception as error:  # the library does not document what it raises
        raise ModelError(f"{path} is damaged: {error}.") from error


def _check_before(path: Path, file: IO[bytes], start: bytes) -> None:
    """Refuses a file whose loading would take far more work or memory than its size justifies."""
    if not start.startswith(_ZIP):
        # The format before torch 1.6: a magic number, a version, the system, the content, and the keys of the storages.
        check_pickle(file, pickles=5 if start.startswith(_LEGACY_TORCH) else 1)
        return
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        require_proportion(sum(entry.file_size for entry in entries), path.stat().st_size)
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                if entry.file_size > LARGEST_PICKLE:
                    raise ModelError(
                        f"It has {entry.file_size / 1e6:.0f} MB of pickle instructions beside its weights."
                    )
                check_pickle(io.BytesIO(archive.read(entry)))


def _ends(path: Path) -> tuple[bytes, bytes]:
    with open_file(path) as file:
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
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite network: cgpipe runs ONNX and TorchScript; convert it with tf2onnx"
    if path.suffix == ".bin" and path.with_suffix(".param").exists():
        return "the weights of an ncnn network: use the checkpoint, ONNX or TorchScript file that it was made from"
    if start[257:262] == b"ustar":
        return "a tar archive: unpack it and name the file inside"
    return _something_else_zipped(path) if start.startswith(_ZIP) else None


def _something_else_zipped(path: Path) -> str | None:
    if _directory_size(path) > LARGEST_PICKLE:
        return "an archive of too many files"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # any number in a damaged archive may be wrong
        return _DAMAGED
    if any(name.endswith("/constants.pkl") for name in names):
        return "TorchScript, not a checkpoint: it is run as it is, and loaded with --model"
    for ending, description in _ZIPPED:
        if any(name.endswith(ending) for name in names):
            return description
    if not any(name.endswith("/data.pkl") for name in names):
        return "a zip archive: unpack it and name the file inside"
    return None


def _directory_size(path: Path) -> int:
    """Size in bytes of the central directory at the end of an archive, as the archive states it."""
    with open_file(path) as file:
        file.seek(max(0, file.seek(0, 2) - 65_557))
        _, found, end = file.read().rpartition(b"PK\x05\x06")
    return int.from_bytes(end[8:12], "little") if found else 0


def _why_unreadable(start: bytes, error: str) -> str:
    if refused := re.search(r"GLOBAL ([\w.]+)", error):
        return (
            f"not plain weights: it holds Python objects ({refused[1]}), and loading those would run code from the "
            f"file. Nothing was run. {SAVE_AGAIN}"
        )
    from_torch = start.startswith((_ZIP, _LEGACY_TORCH))
    if from_torch and "Unsupported operand" not in error:
        return _DAMAGED
    if start.startswith(b"\x80") or from_torch:
        return f"a Python pickle that cannot be read without running its code. Nothing was run. {SAVE_AGAIN}"
    return "not a checkpoint that cgpipe knows: `cgpipe models import --help` lists the supported projects"
