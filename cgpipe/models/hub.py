"""Writes a folder for the Hugging Face hub: the model file and its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from cgpipe.errors import MediaError
from cgpipe.models.card import UNKNOWN, ModelCard
from cgpipe.models.header import is_ours
from cgpipe.models.loading import narrowest
from cgpipe.models.model_file import Model, save_model
from cgpipe.storage import atomic_write

_MADE = "library_name: cgpipe"
"""Identifies a card written by cgpipe."""
_HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "gpl-3.0")


def write_for_hub(model: Model, file: Path, folder: Path, *, name: str, overwrite: bool = False) -> tuple[Path, Path]:
    """Writes a model and its card to a folder, for ``hf upload OWNER/NAME FOLDER``.

    Nothing is sent anywhere. ``--model hf://OWNER/NAME`` then finds the model.

    Args:
        model: the model, which is written if ``file`` is of another project.
        file: the model's file; one of ours is copied byte for byte.
        folder: the folder; created if needed.
        name: name of the model.
        overwrite: replace a card or a model that cgpipe did not make.

    Returns:
        The paths of the model file and of the card, ``README.md``.

    Raises:
        MediaError: the folder holds a card or a model that cgpipe did not make, or cannot be written.
        ModelError: the model cannot be written.
    """
    target, card = folder / f"{name}.safetensors", folder / "README.md"
    if not overwrite:
        _check_replaceable(target, card)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_ours(file):
            with atomic_write(target) as partial:
                shutil.copyfile(file, partial)
        else:
            save_model(target, model, dtype=narrowest(model.generator))
        with atomic_write(card) as partial:
            partial.write_text(hub_card(model.card, target.name), encoding="utf-8")
    except OSError as error:
        raise MediaError(f"{folder} cannot be written: {error.strerror}.") from error
    return target, card


def _check_replaceable(target: Path, card: Path) -> None:
    foreign = [target] if target.exists() and not is_ours(target) else []
    if card.exists() and _MADE not in card.read_text(encoding="utf-8", errors="replace"):
        foreign.append(card)
    if foreign:
        raise MediaError(f"{foreign[0]} was not made by cgpipe: name another folder, or use --overwrite.")


def hub_card(card: ModelCard, file: str) -> str:
    """The text of ``README.md``: the hub's metadata, then what the model file says about itself."""
    licence = card.licence.lower()
    known = licence in _HUB_LICENCES
    metadata = {
        "license": licence if known else "other",
        **({} if known else {"license_name": card.licence}),
        "pipeline_tag": "image-to-image",
        "tags": ["cyclegan", "unpaired-image-translation", card.source, card.target],
    }
    lines = [
        "---",
        _MADE,
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in metadata.items()),
        "---",
    ]
    lines += ["", f"# {card.pair.capitalize()}", "", *_paragraphs(card.description, card.notes)]
    to = f" --to {card.target}" if card.target != UNKNOWN else ""
    lines += ["```", f"cgpipe translate photos/ --model hf://OWNER/NAME/{file}{to}", "```", ""]
    lines += _table(
        "Network", {"architecture": card.architecture, **card.settings, "training size": card.training_size}
    )
    lines += _table("Figures", card.quality) + _table("Made by", card.made_by)
    return "\n".join(lines)


def _paragraphs(*texts: str) -> list[str]:
    return [line for text in texts if text for line in (text, "")]


def _table(title: str, values: Mapping[str, object]) -> list[str]:
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in _flat(values)]
    return [f"## {title}", "", "| | |", "|---|---|", *rows, ""] if rows else []


def _flat(values: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    """Names and values, with nested ones flattened and empty ones omitted."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}, ")
        elif value not in (None, "", []):
            yield before + name, value


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
