"""Loads any model file, and imports foreign files to the user's folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TypedDict, Unpack

import torch

from cgpipe.errors import UsageError
from cgpipe.models.card import UNKNOWN, ModelCard
from cgpipe.models.foreign import read_foreign
from cgpipe.models.header import is_ours
from cgpipe.models.model_file import Model, load_model, save_model
from cgpipe.models.probe import Told
from cgpipe.models.program import PROGRAMS
from cgpipe.models.running import load_program, program_kind, with_inputs
from cgpipe.models.zoo import Entry, Found, user_models_folder
from cgpipe.networks import Generator
from cgpipe.options import Direction


class LoadOptions(TypedDict, total=False):
    """Options of :func:`load_any`, for functions that pass them on."""

    direction: Direction | None
    generator: str | None
    batch_statistics: bool
    inputs: Sequence[str]
    told: Told | None


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def load_any(
    path: str | PathLike[str],
    *,
    source: str | None = None,
    target: str | None = None,
    direction: Direction | None = None,
    generator: str | None = None,
    batch_statistics: bool = False,
    inputs: Sequence[str] = (),
    told: Told | None = None,
) -> Model:
    """A model from a file of ours or of another project, or from a network as ONNX, TorchScript or torch.export.

    Args:
        path: the file, or the result of :func:`cgpipe.models.find_model`.
        source: the source domain of a foreign file, which does not state it.
        target: the target domain, likewise.
        direction: which generator to take from a foreign file that holds both.
        generator: the generator's name in a foreign file with several.
        batch_statistics: let batch norm of a foreign network use each picture's own statistics.
        inputs: ``NAME=VALUE`` for the inputs of a program besides the picture (see
            :func:`cgpipe.models.inputs.input_values`).
        told: the input and output format of a program, if neither its file nor the probe gets it right.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file is damaged or of an unknown kind.
        UsageError: a foreign file holds several generators, and no argument selects one; or an input of a program has
            no value.
        MissingDependencyError: a program's runtime is not installed.
    """
    file = Path(fspath(path))
    card = path.card if isinstance(path, Found) else None
    if card is not None and card.architecture in PROGRAMS and not is_ours(file):
        return load_program(file, inputs=inputs, card=card)
    if program_kind(file):
        return load_program(file, source=source, target=target, inputs=inputs, told=told)
    if is_ours(file):
        return with_inputs(load_model(file), inputs, file)
    if inputs:
        raise UsageError(f"{file} is not an ONNX network: it has no inputs besides the picture.")
    foreign = read_foreign(
        file, direction=direction, target=target, generator=generator, batch_statistics=batch_statistics
    )
    card = ModelCard(
        architecture=foreign.architecture,
        settings=foreign.settings,
        source=source or UNKNOWN,
        target=target or UNKNOWN,
        training_size=None,
        channels=foreign.channels,
        made_by={"recognised_as": foreign.recognised_as, "file": file.name},
        quality={},
        licence=UNKNOWN,
        notes="\n".join(foreign.notes),
    )
    return Model(card, foreign.generator)


def import_model(
    path: str | PathLike[str],
    *,
    source: str | None = None,
    target: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
    **way: Unpack[LoadOptions],
) -> Entry:
    """Imports a model to the user's folder, with unchanged weights, so that ``--to`` finds it.

    Args:
        path: a file of ours or of another project.
        source: the source domain; required for a foreign file, and overrides that of one of ours.
        target: the target domain, likewise.
        name: its name; by default ``<source>2<target>``, which ``--to`` prefers.
        overwrite: replace a model of that name.
        way: how a foreign file or a program is read, as for :func:`load_any`; stored with a program.

    Raises:
        UsageError: a domain is missing, or the name is invalid or taken.
        ModelError: the file or a domain's name is invalid, or the user's folder cannot be written.
    """
    model = load_any(path, source=source, target=target, **way)
    card = replace(model.card, source=source or model.card.source, target=target or model.card.target)
    if UNKNOWN in (card.source, card.target):
        raise UsageError(f"{Path(path)} does not name its domains: give both with --from and --to.")
    name = name or card.name
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a valid name for a model: use letters, digits, dots, - and _.")
    filed = user_models_folder() / f"{name}.safetensors"
    if filed.exists() and not overwrite:
        raise UsageError(f"{filed} already exists: use another --name, or replace it with --overwrite.")
    save_model(filed, Model(card, model.generator), dtype=narrowest(model.generator))
    return Entry(path=filed, place="user", card=card)


def narrowest(generator: Generator) -> torch.dtype:
    """Half precision if it represents all weights exactly, else float32."""
    exact = all(torch.equal(weight, weight.half().float()) for weight in generator.parameters())
    return torch.float16 if exact else torch.float32
