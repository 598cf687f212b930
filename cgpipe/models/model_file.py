"""Our own model file: one generator in one ``.safetensors``, which says everything needed to use it."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from cgpipe.errors import ModelError
from cgpipe.models.card import ModelCard
from cgpipe.models.header import METADATA_KEY, read_card, read_header
from cgpipe.networks import Generator, build_generator
from cgpipe.storage import atomic_write

__all__ = ["Model", "load_model", "read_card", "save_model"]


@dataclass(frozen=True)
class Model:
    """A generator and what is known about it."""

    card: ModelCard
    generator: Generator


def save_model(path: str | PathLike[str], model: Model, *, dtype: torch.dtype = torch.float16) -> None:
    """Writes a model file, whole or not at all; the same model gives the same bytes.

    Args:
        path: where to; folders are made as needed.
        model: its generator stays as it is.
        dtype: of the weights in the file. Buffers, such as the running variances of a batch norm, keep their own type:
            they may leave the range of half precision.

    Raises:
        ModelError: a weight is not a finite number in ``dtype``, or the file cannot be written.
    """
    target = Path(path)
    contents = save(_tensors(model.generator, dtype, target), {METADATA_KEY: model.card.to_json()})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as partial:
            partial.write_bytes(contents)
    except OSError as error:
        raise ModelError(f"{target} cannot be written: {error.strerror}") from error


def load_model(path: str | PathLike[str]) -> Model:
    """One of our files, its weights in float32 on the CPU, ready for inference (``eval``, no gradients).

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file is damaged, not one of ours, made for a newer cgpipe, or does not fit its architecture;
            the message names the file and the field or tensor.
    """
    source = Path(path)
    card = read_card(source)
    with torch.device("meta"):  # no memory is asked for before the sizes are known to be those of the file
        _check_fit(source, _build(source, card))
    generator = _build(source, card)
    try:
        generator.load_state_dict(load_file(source))
    except SafetensorError as error:
        raise ModelError(f"{source} is damaged: {error}") from error
    return Model(card, generator.eval().requires_grad_(False))


def _build(path: Path, card: ModelCard) -> Generator:
    try:
        return build_generator(card.architecture, **card.settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ModelError(f"{path}: architecture or settings: {error}") from error


def _tensors(generator: Generator, dtype: torch.dtype, target: Path) -> dict[str, torch.Tensor]:
    tensors = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
    for name, _ in generator.named_parameters():
        tensors[name] = tensors[name].to(dtype)
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ModelError(f"{target} is not written: tensor {name} holds a value that is not finite as {dtype}")
    return tensors


def _check_fit(path: Path, generator: Generator) -> None:
    found = dict(read_header(path).shapes)
    for name, tensor in generator.state_dict().items():
        if name not in found:
            raise ModelError(f"{path}: tensor {name} is missing")
        shape = found.pop(name)
        if shape != tensor.shape:
            needed = f"the architecture and settings in the header need {tuple(tensor.shape)}"
            raise ModelError(f"{path}: tensor {name} has shape {shape}, but {needed}")
    for name in found:
        raise ModelError(f"{path}: tensor {name} has no place in the architecture that the header names")
