"""Parses ``--input NAME=VALUE``: numbers, or a file of numbers or a picture, for a network's other inputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from cgpipe.errors import ModelError, UsageError
from cgpipe.media.pictures.read import read_picture
from cgpipe.models.onnx_file import read_onnx
from cgpipe.models.program import Array, OnnxRuntime, Port
from cgpipe.options import named_value

LARGEST = 1 << 24
"""Most numbers in one input."""
_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?"


def input_values(given: Sequence[str], ports: Sequence[Port], folder: Path) -> dict[str, object]:
    """The values of a network's inputs, as nested lists.

    Args:
        given: ``NAME=VALUE`` each. A value is comma-separated numbers; for a vector also ``INDEX:NUMBER`` pairs, or one
            integer for a one-hot vector; a ``.npy`` file; or a picture, for an input that takes one or that another
            ONNX file in ``folder`` computes from one.
        ports: the network's inputs.
        folder: the folder of the network's file.

    Raises:
        UsageError: there is no such input, or a value does not fit it.
        MediaError: a picture cannot be read.
    """
    by_name = {port.name: port for port in ports}
    values = {}
    for text in given:
        name, value = named_value(text)
        if name not in by_name:
            raise UsageError(f"The network has no input {name}: it has {', '.join(by_name)}.")
        values[name] = _value(value, by_name[name], folder).tolist()
    return values


def _value(text: str, port: Port, folder: Path) -> Array:
    if port.free:
        return _of_any_shape(text, port)
    shape = tuple(side or 1 for side in port.shape)
    count = int(np.prod(shape, dtype=np.int64)) if shape else 1
    if count > LARGEST:
        raise UsageError(f"The input {port.name} takes {count} numbers, which is more than cgpipe supports.")
    if re.fullmatch(rf"{_NUMBER}(,{_NUMBER})*", text, re.IGNORECASE):
        numbers = [float(number) for number in text.split(",")]
        if len(numbers) == 1 and count > 1 and numbers[0].is_integer() and 0 <= numbers[0] < count:
            return _at_places({int(numbers[0]): 1.0}, count).reshape(shape)
        return _fitting(np.array(numbers, np.float32), shape, port)
    if re.fullmatch(rf"\d+:{_NUMBER}(,\d+:{_NUMBER})*", text, re.IGNORECASE):
        pairs = (pair.split(":") for pair in text.split(","))
        places = {int(place): float(number) for place, number in pairs}
        if max(places) >= count:
            raise UsageError(f"The input {port.name} has the indices 0 to {count - 1}, not {max(places)}.")
        return _at_places(places, count).reshape(shape)
    return _from_file(Path(text).expanduser(), port, shape, folder)


def _of_any_shape(text: str, port: Port) -> Array:
    """Numbers as a row, (1, count); the content of a ``.npy`` file; or a picture, (1, 3, H, W) in [0, 1]."""
    if re.fullmatch(rf"{_NUMBER}(,{_NUMBER})*", text, re.IGNORECASE):
        numbers = np.array([[float(number) for number in text.split(",")]], np.float32)
        return _fitting(numbers, numbers.shape, port)
    path = Path(text).expanduser()
    if path.suffix == ".npy" and path.is_file():
        try:
            values = np.load(path, allow_pickle=False)
            return _fitting(values, values.shape, port)
        except (ValueError, OSError, TypeError) as error:
            raise UsageError(f"{path} holds no numbers for the input {port.name}: {error}.") from error
    return _from_file(path, port, (1, 3, 0, 0), path.parent)


def _at_places(places: dict[int, float], count: int) -> Array:
    values = np.zeros(count, np.float32)
    for place, number in places.items():
        values[place] = number
    return values


def _fitting(values: Array, shape: tuple[int, ...], port: Port) -> Array:
    if values.size != int(np.prod(shape, dtype=np.int64)):
        wanted = "x".join(map(str, shape)) or "one number"
        raise UsageError(f"The input {port.name} takes {wanted}, but {values.size} numbers are given.")
    if not np.isfinite(values).all():
        raise UsageError(f"The value of input {port.name} is not finite.")
    return values.astype(np.float32).reshape(shape)


def _from_file(path: Path, port: Port, shape: tuple[int, ...], folder: Path) -> Array:
    if not path.is_file():
        raise UsageError(f"The input {port.name} takes numbers or a file, and there is no file {path}.")
    if path.suffix == ".npy":
        try:
            return _fitting(np.load(path, allow_pickle=False), shape, port)
        except (ValueError, OSError, TypeError) as error:
            raise UsageError(f"{path} holds no numbers for the input {port.name}: {error}.") from error
    stored = read_picture(path).pixels
    pixels = torch.from_numpy(stored.astype(np.float32) / np.iinfo(stored.dtype).max)
    if len(shape) == 4 and 3 in (shape[1], shape[3]):
        return _as_picture(pixels, port)
    return _fitting(_predicted(pixels, port, folder), shape, port)


def _as_picture(pixels: torch.Tensor, port: Port) -> Array:
    """A picture (H, W, 3), center-cropped and resized to the input's size, in [0, 1]."""
    last = not port.free and port.shape[3] == 3
    rows, columns = (None, None) if port.free else port.shape[1:3] if last else port.shape[2:4]
    height, width = pixels.shape[:2]
    size = (rows or height, columns or width)
    scale = max(size[0] / height, size[1] / width)
    inner = (max(size[0], round(height * scale)), max(size[1], round(width * scale)))
    picture = F.interpolate(pixels.permute(2, 0, 1)[None], inner, mode="bilinear", antialias=True)
    top, left = ((side - wanted) // 2 for side, wanted in zip(inner, size, strict=True))
    picture = picture[:, :, top : top + size[0], left : left + size[1]]
    return np.ascontiguousarray((picture.permute(0, 2, 3, 1) if last else picture).numpy())


def _predicted(pixels: torch.Tensor, port: Port, folder: Path) -> Array:
    """The output for a picture of another network in this folder that has an output of the input's name."""
    for path in sorted(folder.glob("*.onnx")):
        try:
            run = OnnxRuntime(read_onnx(path)[0])
        except ModelError:
            continue
        places = [place for place, output in enumerate(run.outputs) if output.name == port.name]
        if places and len(run.inputs) == 1 and len(run.inputs[0].shape) == 4:
            outputs = run({run.inputs[0].name: _as_picture(pixels, run.inputs[0])}, torch.get_num_threads())
            return np.asarray(outputs[places[0]])
    raise UsageError(
        f"The input {port.name} takes numbers, and no ONNX file in {folder} computes them from a picture: "
        "give numbers, or a .npy file."
    )
