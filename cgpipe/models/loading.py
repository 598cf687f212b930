"""Any model file into a model, and foreign files into the user's folder."""

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


class Way(TypedDict, total=False):
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
        path: the file, or what :func:`cgpipe.models.find_model` found.
        source: the domain that goes in, for a foreign file, which does not say.
        target: the domain that comes out, likewise.
        direction: which generator to take from a foreign file that holds both.
        generator: the name, in the file, of the one to take from a foreign file with several.
        batch_statistics: normalise a foreign network with batch norm by each picture's own statistics.
        inputs: ``NAME=VALUE`` for the inputs of a program besides the picture (see
            :func:`cgpipe.models.inputs.input_values`).
        told: how a program takes and gives pictures, where its file does not say and the probe is wrong.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelError: the file is damaged or of no known kind.
        UsageError: a foreign file holds several generators, and nothing says which one is meant; or an input of a
            program has no value.
        MissingDependencyError: what runs a program is not installed.
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
    **way: Unpack[Way],
) -> Entry:
    """Files a model in the user's folder, its weights as they are, so that ``--to`` finds it.

    Args:
        path: a file of ours or of another project.
        source: the domain that goes in; needed for a foreign file, and takes the place of what one of ours says.
        target: the domain that comes out, likewise.
        name: what to call it; by default ``<source>2<target>``, the name that ``--to`` prefers.
        overwrite: put it in the place of a model of that name.
        way: how a foreign file or a program is read, as for :func:`load_any`; a program's is kept with it.

    Raises:
        UsageError: a domain is missing, or the name is ill-formed or taken.
        ModelError: the file or a domain's name cannot be used, or the user's folder cannot be written.
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
    """Half precision where that loses nothing of the weights, else float32."""
    exact = all(torch.equal(weight, weight.half().float()) for weight in generator.parameters())
    return torch.float16 if exact else torch.float32
