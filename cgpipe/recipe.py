"""Recipes: dataclasses of settings, filled from their defaults, a TOML file and the command line."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Hashable, Mapping
from copy import copy
from dataclasses import MISSING, asdict, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from cgpipe.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MODEL_FILES = ("teacher", "init", "init_a_to_b", "init_b_to_a")
"""Settings that name a model or the path of its file."""
LOCAL = ("workers", "threads", "cache_mb", "gpu_ids", "publish", "licence", "tensorboard", "histograms")
"""Settings that do not affect what is learned."""

Value = TypeVar("Value")

RECIPE_NAME = "recipe.toml"
"""The file in a run's folder with the run's settings."""


def setting(
    default: Value,
    help: str,
    *,
    flag: str | None = None,
    files: bool = False,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
) -> Value:
    """A setting of a recipe, with its help text.

    Args:
        default: its default value.
        help: its help text.
        flag: the name of its option, if that differs.
        files: whether a path may be a file, not only a folder.
        above, at_least, below: the bounds of a number, for :func:`check_settings`.
    """
    metadata: dict[str, object] = {"help": help, "files": files, "above": above, "at_least": at_least, "below": below}
    metadata |= {"flag": flag} if flag else {}
    if isinstance(default, dict):
        return field(default_factory=lambda: copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# -- reading ---------------------------------------------------------------------------------------------------------


def read_recipe(recipe: Path | None, config: type[DataclassInstance]) -> dict[str, Any]:
    """Reads the TOML file ``recipe``, with each value converted to its type in the dataclass ``config``.

    Raises:
        UsageError: the recipe cannot be read, a name in it is unknown, or a value has the wrong type.
    """
    if recipe is None:
        return {}
    try:
        settings = tomllib.loads(recipe.read_text(encoding="utf-8-sig"))  # some editors begin a file with a BOM
    except OSError as error:
        raise UsageError(f"Cannot read the recipe {recipe}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{recipe} is not a TOML recipe: {error}.") from error
    return _settings(config, settings, str(recipe))


def read_run_recipe(folder: Path, config: type[DataclassInstance], *, required: bool) -> dict[str, Any]:
    """The settings of the run in ``folder``, and the folder itself; empty if there is no run and none is required.

    Raises:
        UsageError: there is no run, or its recipe cannot be read.
    """
    recipe = folder / RECIPE_NAME
    if recipe.is_file():
        return read_recipe(recipe, config) | {"checkpoint_dir": folder}
    if required:
        raise UsageError(f"There is no run in {folder}: name its folder with --checkpoint-dir.")
    return {}


def _settings(config: type[DataclassInstance], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values of TOML as the settings of a dataclass."""
    known = [entry.name for entry in fields(config)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0].lower().replace("-", "_"), known, n=1, cutoff=0.75)
        meant = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
        raise UsageError(f"{where}: unknown setting {unknown[0]!r}. It is misspelt, or of a newer cgpipe. {meant}")
    hints = type_hints(config)
    return {name: _as(hints[name], name, value) for name, value in values.items()}


def _as(wanted: Any, name: str, value: object) -> object:
    """A value of TOML as a setting of the type ``wanted``; one value alone is also a list of one."""
    parts = get_args(wanted)
    if get_origin(wanted) is tuple:
        return tuple(_as(parts[0], name, entry) for entry in (value if isinstance(value, list) else [value]))
    if type(None) in parts:
        return _as(parts[0], name, value)
    if get_origin(wanted) is Literal:
        return value
    if isinstance(value, dict) and is_dataclass(wanted):
        return _filled(cast("type[DataclassInstance]", wanted), name, value)
    if wanted is Path and isinstance(value, str):
        return _path(value)
    if isinstance(value, dict) and get_origin(wanted) is Mapping:
        return value
    if type(value) is wanted or (wanted is float and type(value) is int):
        return value
    kind = wanted.__name__ if wanted in (int, float, str, bool, Path) else "table"
    raise UsageError(f"{name} must be of type {kind}, not {value!r}.")


def _filled(config: type[DataclassInstance], name: str, values: Mapping[str, Any]) -> DataclassInstance:
    """A dataclass within a recipe."""
    given = _settings(config, values, name)
    missing = [entry.name for entry in fields(config) if entry.default is MISSING and entry.name not in given]
    if missing:
        raise UsageError(f"{name}: {missing[0]} is missing in {dict(values)}.")
    return config(**given)


def _path(text: str) -> Path:
    """A path of a recipe, which no shell has seen: ``~`` is the home folder.

    Raises:
        UsageError: a backslash of Windows was read as a control character, as ``\\r`` in ``"C:\\runs"``.
    """
    if any(ord(character) < 32 for character in text):
        raise UsageError(f"The path {text!r} has a control character: write 'C:\\runs' in single quotes, or C:/runs.")
    return Path(os.path.expanduser(text))


@cache  # a recipe is checked again for every stage
def type_hints(config: Hashable) -> dict[str, object]:
    """The types of a dataclass's fields."""
    return get_type_hints(config)


def parse_list(text: str) -> tuple[str, ...]:
    """The items of a comma-separated setting."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


# -- checking --------------------------------------------------------------------------------------------------------


def check_settings(settings: DataclassInstance) -> None:
    """Checks each setting against its bounds or choices; raises UsageError for the first invalid one."""
    hints = type_hints(settings.__class__)
    for entry in fields(settings):
        value, bounds = getattr(settings, entry.name), entry.metadata
        if get_origin(hints[entry.name]) is Literal:
            _check_choice(entry.name, value, get_args(hints[entry.name]))
        if (limit := bounds.get("above")) is not None and not value > limit:
            raise UsageError(f"{entry.name} must be greater than {limit:g}, not {value}.")
        if (limit := bounds.get("at_least")) is not None and not value >= limit:
            said = "not be negative" if limit == 0 else f"be at least {limit:g}"
            raise UsageError(f"{entry.name} must {said}, not {value}.")
        if (limit := bounds.get("below")) is not None and not value < limit:
            raise UsageError(f"{entry.name} must be less than {limit:g}, not {value}.")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")


# -- writing ---------------------------------------------------------------------------------------------------------


def plain_settings(config: DataclassInstance) -> dict[str, object]:
    """The recipe as JSON values, without settings of a machine or of folders; model files are reduced to names."""
    return {
        name: Path(value).name if name in MODEL_FILES else value
        for name, value in asdict(config).items()
        if name not in LOCAL and not name.endswith("_every") and not _is_place(value)
    }


def _is_place(value: object) -> bool:
    """Whether a setting is a path, or empty."""
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(entry, Path) for entry in value)
    return isinstance(value, Path | None)


def to_toml(config: DataclassInstance, *, leave_out: tuple[str, ...] = ()) -> str:
    """The settings of a recipe as TOML for :func:`read_recipe`, with absolute paths."""
    lines = []
    for name, value in asdict(config).items():
        if value is not None and name not in leave_out:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float() if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        case int() | float():
            return repr(value)
        case Path():
            return _toml(str(value.absolute()))
        case Mapping():
            entries = (f"{_key(key)} = {_toml(entry)}" for key, entry in value.items() if entry is not None)
            return "{" + ", ".join(entries) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
    text = json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"{text!r} is not UTF-8, and cannot be kept in a recipe: rename it.")
    return text


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
