"""Recipes: a dataclass of settings, filled from its defaults, a TOML file and the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from cgpipe.errors import UsageError

MODEL_FILES = ("teacher", "init", "init_a_to_b", "init_b_to_a")
"""Settings that name a model, or the path of its file."""
LOCAL = ("workers", "threads", "gpu_ids", "publish", "licence", "tensorboard", "histograms")
"""Settings that change nothing in what is learnt."""


def setting(default: Any, help: str, *, flag: str | None = None, files: bool = False) -> Any:
    """A setting of a recipe, with the text that ``--help`` shows.

    Args:
        default: what is taken where nobody says anything.
        help: the text.
        flag: its option, where that has another name.
        files: a path may be that of a file, not only of a folder.
    """
    metadata = {"help": help, "files": files} | ({"flag": flag} if flag else {})
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def read_recipe(recipe: Path | None, config: type) -> dict[str, Any]:
    """What the TOML file ``recipe`` says, each value of the type that the dataclass ``config`` has for it.

    Raises:
        UsageError: the recipe cannot be read, a name in it is unknown, or a value is of another type.
    """
    if recipe is None:
        return {}
    try:
        settings = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the recipe {recipe}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{recipe} is not a TOML recipe: {error}.") from error
    known = [entry.name for entry in fields(config)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise UsageError(f"{recipe}: unknown setting {unknown[0]!r}. Known: {', '.join(known)}.")
    hints = get_type_hints(config)
    return {name: _as(hints[name], name, value) for name, value in settings.items()}


def _as(wanted: Any, name: str, value: Any) -> Any:
    if Path in (wanted, *get_args(wanted)) and isinstance(value, str):
        return Path(value)
    if isinstance(value, list):
        return tuple(value)
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    if wanted in (int, float, str, bool, Path) and not fits:
        raise UsageError(f"{name} must be of type {wanted.__name__}, not {value!r}.")
    return value


def plain_settings(config: Any) -> dict[str, Any]:
    """The recipe as JSON values, without what belongs to one machine or one run's folders; of model files the names."""
    return {
        name: Path(value).name if name in MODEL_FILES else value
        for name, value in asdict(config).items()
        if name not in LOCAL and not name.endswith("_every") and not isinstance(value, Path | None)
    }


def require(settings: Any, *, positive: tuple[str, ...] = (), not_negative: tuple[str, ...] = ()) -> None:
    """Checks numbers of a recipe; raises UsageError with the name of the first that is out of its range."""
    values: Mapping[str, Any] = vars(settings)
    for name in positive:
        if values[name] <= 0:
            raise UsageError(f"{name} must be greater than 0, not {values[name]}.")
    for name in not_negative:
        if values[name] < 0:
            raise UsageError(f"{name} must not be negative, but is {values[name]}.")
