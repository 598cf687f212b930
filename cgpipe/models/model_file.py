"""Our own model file: one generator in one ``.safetensors`` file, with everything needed to use it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from cgpipe.errors import ModelError, UsageError
from cgpipe.models.card import ModelCard
from cgpipe.models.exported_file import Exported, checked_exported
from cgpipe.models.header import METADATA_KEY, Header, read_card, read_header
from cgpipe.models.onnx_file import check_onnx
from cgpipe.models.program import PROGRAMS, OnnxRuntime, Program, Signature
from cgpipe.models.torchscript_file import TorchScript, checked_torchscript
from cgpipe.models.weights import CHANNELS, GRAY_OR_RGB, LARGEST_MULTIPLE, check_finite, in_rgb
from cgpipe.networks import Generator, build_generator
from cgpipe.storage import atomic_write

__all__ = ["Model", "load_model", "read_card", "save_model"]

Runtime = OnnxRuntime | TorchScript | Exported

PROGRAM = "program"
"""The tensor that stores a program's bytes in place of weights."""
_TYPES = ("F16", "BF16", "F32", "F64", "I64")
"""Dtypes of weights; the last is that of a batch norm's counter."""


@dataclass(frozen=True)
class Model:
    """A generator and what is known about it."""

    card: ModelCard
    generator: Generator

    def for_videos(self) -> Model:
        """The model as videos use it: at its working scales, since each pixel counts for speed."""
        return replace(self, card=replace(self.card, large_side=None))

    def require_rgb(self, pictures: str) -> None:
        """Raises UsageError if it takes or gives other channels than gray or RGB; ``pictures`` are those it gets."""
        taken, given = self.generator.channels
        if (taken, given) != (3, 3):
            raise UsageError(
                f"{pictures} are RGB, but this model makes pictures of {given} channels from pictures of {taken}: "
                "`cgpipe translate` runs it on folders of them."
            )


def save_model(path: str | PathLike[str], model: Model, *, dtype: torch.dtype = torch.float16) -> None:
    """Writes a model file, whole or not at all; deterministic.

    Args:
        path: the file; folders are created as needed.
        model: the model; not modified.
        dtype: of the weights in the file. Buffers, such as running variances of batch norm, keep their dtype, since
            they may exceed the range of half precision.

    Raises:
        ModelError: a weight is not finite in ``dtype``, or the file cannot be written.
    """
    target = Path(path)
    contents = save(_tensors(model.generator, dtype, target), {METADATA_KEY: model.card.to_json()})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            partial.write_bytes(contents)
    except OSError as error:
        raise ModelError(f"{target} cannot be written: {error.strerror}.") from error


def load_model(path: str | PathLike[str], *, as_rgb: bool = True) -> Model:
    """Loads one of our files, in float32 on the CPU, ready for inference (``eval``, no gradients).

    Args:
        path: the file.
        as_rgb: make of a network on gray pictures one on RGB, which gives the same for them.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file is damaged, not one of ours, needs a newer cgpipe, or does not fit its architecture; the
            message names the file and the field or tensor.
    """
    source = Path(path)
    card = read_card(source)
    try:
        generator = _load(source, card)
        if as_rgb and generator.channels != (3, 3) and {*generator.channels} <= {*GRAY_OR_RGB}:
            card, generator = on_rgb(card, generator)
        if generator.channels not in ((3, 3), card.channels):
            raise ModelError(f"channels are {card.channels}, but its network has {generator.channels}.")
        return Model(card, generator.eval().requires_grad_(False))
    except SafetensorError as error:
        raise ModelError(f"{source} is damaged: {error}.") from error
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error


def _load(path: Path, card: ModelCard) -> Generator:
    header = read_header(path)
    if card.architecture in PROGRAMS:
        return _program(path, header, card)
    _check_settings(card.settings, len(header.shapes))
    with torch.device("meta"):  # allocates nothing until the sizes are known to match the file
        _check_fit(header, _build(card))
    generator = _build(card)
    generator.load_state_dict(load_file(path))
    check_finite(generator)
    return generator


def _program(path: Path, header: Header, card: ModelCard) -> Program:
    if dict(header.dtypes) != {PROGRAM: "U8"}:
        raise ModelError(f"It should hold a program ({PROGRAM}) and nothing else.")
    signature = Signature.from_settings(card.settings)
    content = load_file(path)[PROGRAM].numpy().tobytes()
    if card.architecture == "torchscript":
        content = checked_torchscript(content)
    elif card.architecture == "torch-export":
        content = checked_exported(content)
    elif check_onnx(content, path.parent).external:
        raise ModelError("Its program needs constants from other files.")
    run = start(card.architecture, content)
    return Program(run, signature, run.runtime, content)


def start(kind: str, content: bytes, path: str | None = None) -> Runtime:
    """Loads a program into its runtime.

    Args:
        kind: a name in :data:`cgpipe.models.program.PROGRAMS`.
        content: the program's bytes, already checked.
        path: the file, if constants lie beside it.

    Raises:
        ModelError: the runtime rejects it.
        MissingDependencyError: the runtime is not installed.
    """
    if kind == "torch-export":
        return Exported(content)
    return TorchScript(content) if kind == "torchscript" else OnnxRuntime(content, path)


def on_rgb(card: ModelCard, generator: Generator) -> tuple[ModelCard, Generator]:
    """A network on gray pictures as one on RGB, which runs wherever RGB does; its card keeps the channels."""
    weights, _ = in_rgb(generator.state_dict())
    settings = {name: value for name, value in card.settings.items() if name not in CHANNELS}
    generator = build_generator(card.architecture, **settings)
    generator.load_state_dict(weights)
    return replace(card, settings=settings), generator


def _check_settings(settings: Mapping[str, object], tensors: int) -> None:
    """Refuses settings that need more blocks than the file has tensors, so that building is cheap."""
    for name in ("blocks", "deep_blocks", "levels"):
        value = settings.get(name, 0)
        if isinstance(value, int | float) and not 0 <= value <= tensors:
            raise ModelError(f"Settings: {name} is {value}, but the file holds {tensors} tensors.")


def _build(card: ModelCard) -> Generator:
    try:
        with warnings.catch_warnings(action="ignore"):  # of layers without weights, which are refused below
            generator = build_generator(card.architecture, **card.settings)
    except (ValueError, TypeError, RuntimeError, OverflowError, ArithmeticError) as error:
        raise ModelError(f"The architecture or its settings are invalid: {error}.") from error
    if generator.multiple > LARGEST_MULTIPLE:
        raise ModelError(f"The settings are invalid: sides would have to be multiples of {generator.multiple}.")
    return generator


def _tensors(generator: Generator, dtype: torch.dtype, target: Path) -> dict[str, torch.Tensor]:
    if isinstance(generator, Program):
        if not generator.content:
            raise ModelError(f"{target} is not written: its constants are in other files. Merge them first.")
        return {PROGRAM: torch.frombuffer(bytearray(generator.content), dtype=torch.uint8)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
    for name, _ in generator.named_parameters():
        tensors[name] = tensors[name].to(dtype)
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ModelError(f"{target} is not written: tensor {name} holds a value that is not finite as {dtype}.")
    return tensors


def _check_fit(header: Header, generator: Generator) -> None:
    found = dict(header.shapes)
    for name, tensor in generator.state_dict().items():
        if name not in found:
            raise ModelError(f"Tensor {name} is missing.")
        shape = found.pop(name)
        if shape != tensor.shape or 0 in shape:
            needed = f"the architecture and settings in the header need {tuple(tensor.shape)}"
            raise ModelError(f"Tensor {name} has shape {shape}, but {needed}.")
        if header.dtypes[name] not in _TYPES:
            raise ModelError(f"Tensor {name} is of type {header.dtypes[name]}: weights are {', '.join(_TYPES[:-1])}.")
    for name in found:
        raise ModelError(f"Tensor {name} does not belong to the architecture in the header.")
