"""Programs (ONNX, TorchScript, torch.export) as models: probes their format, and binds their other inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cgpipe.errors import CgpipeError, UsageError
from cgpipe.models.card import UNKNOWN, ModelCard
from cgpipe.models.exported_file import Exported, is_exported, read_exported
from cgpipe.models.inputs import input_values
from cgpipe.models.model_file import Model, start
from cgpipe.models.onnx_file import OnnxContents, read_onnx
from cgpipe.models.probe import Told, probe
from cgpipe.models.program import OnnxRuntime, Program, Signature
from cgpipe.models.torchscript_file import TorchScript, is_torchscript, read_torchscript

_NAMES = {"onnx": "ONNX", "torchscript": "TorchScript", "torch-export": "a torch.export program"}


def program_kind(path: Path) -> str | None:
    """The architecture of a program file, by content or name; None for other files."""
    if path.suffix.lower() == ".onnx":
        return "onnx"
    if is_torchscript(path):
        return "torchscript"
    return "torch-export" if is_exported(path) else None


def load_program(
    path: Path,
    *,
    source: str | None = None,
    target: str | None = None,
    inputs: Sequence[str] = (),
    told: Told | None = None,
    card: ModelCard | None = None,
) -> Model:
    """A program as a model.

    Args:
        path: the file.
        source, target: the domains, which the file does not state.
        inputs: values of its inputs besides the picture, ``NAME=VALUE`` each.
        told: what the user says about its format.
        card: its card, if known; then nothing is probed.

    Raises:
        ModelError: the file is damaged, or does not map pictures to pictures of the same size.
        UsageError: an input has no value.
        MissingDependencyError: its runtime is not installed.
    """
    kind = program_kind(path) or "onnx"
    contents = OnnxContents()
    if kind == "onnx":
        content, contents = read_onnx(path)
    else:
        content = read_exported(path) if kind == "torch-export" else read_torchscript(path)
    try:
        run = start(kind, content, str(path) if contents.external else None)
        values = input_values(inputs, run.inputs, path.parent)
        if card is None:
            makers = contents.makers if isinstance(run, OnnxRuntime) else run.makers
            signature = probe(run, run.inputs, run.outputs, values, makers, told or Told())
            card = _card(kind, path, signature, source, target)
        else:
            signature = Signature.from_settings(card.settings)
            signature = replace(signature, inputs={**signature.inputs, **values})
    except CgpipeError as error:
        raise type(error)(f"{path}: {error}") from error
    kept = b"" if contents.external else content
    return Model(replace(card, settings=signature.to_settings()), Program(run, signature, run.runtime, kept))


def with_inputs(model: Model, inputs: Sequence[str], path: Path) -> Model:
    """A model with other values for its program's inputs."""
    if not inputs:
        return model
    generator = model.generator
    if not isinstance(generator, Program) or not isinstance(generator.feed, OnnxRuntime | TorchScript | Exported):
        raise UsageError(f"{path} is not a program: it has no inputs besides the picture.")
    values = input_values(inputs, generator.feed.inputs, path.parent)
    signature = replace(generator.signature, inputs={**generator.signature.inputs, **values})
    program = Program(generator.feed, signature, generator.runtime or "", generator.content)
    return Model(replace(model.card, settings=signature.to_settings()), program)


def _card(kind: str, path: Path, signature: Signature, source: str | None, target: str | None) -> ModelCard:
    side = max(signature.size) if signature.size else None
    return ModelCard(
        architecture=kind,
        settings=signature.to_settings(),
        source=source or UNKNOWN,
        target=target or UNKNOWN,
        training_size=side,
        made_by={"recognised_as": f"a network as {_NAMES[kind]}", "file": path.name},
        quality={},
        licence=UNKNOWN,
        notes=f"Found with a test card: {signature}.",
    )
