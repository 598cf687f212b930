"""Compares a run's state with the recipe that resumes it, and upgrades states of earlier versions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgpipe.data.direction import Domain

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

AT_THE_START = ("init", "init_type", "init_gain", "init_a_to_b", "init_b_to_a", "init_discriminators")
"""Settings that have done their work when a run resumes."""
NOT_COMPARED = ("checkpoint_dir", *AT_THE_START)
"""Settings that may differ without a word: a run's folder may be moved."""


def settings_of(config: DataclassInstance) -> dict[str, object]:
    """All settings as JSON values, with absolute paths."""
    values: dict[str, object] = json.loads(
        json.dumps(asdict(config), default=lambda value: str(Path(value).absolute()))
    )
    return values


def differences(state: Mapping[str, Any], config: DataclassInstance, counts: Mapping[Domain, int]) -> Iterator[str]:
    """How the datasets and settings of a resumed run differ from those in its state, as text."""
    before, now = json.loads(state["settings"]), settings_of(config)
    for name in now:
        if name not in NOT_COMPARED and before.get(name, now[name]) != now[name]:
            yield f"{name} = {_shown(now[name])}; it was {_shown(before[name])}"
    for domain, count in counts.items():
        if (earlier := state["pictures"].get(domain, count)) != count:
            yield f"{count} pictures of domain {domain.upper()}; there were {earlier}"


def _shown(value: object) -> str:
    return "none" if value in (None, "", []) else json.dumps(value).strip('"')


def upgraded(state: dict[str, Any], epoch_of: Callable[[int], tuple[int, int]]) -> dict[str, Any]:
    """Upgrades a state written by an earlier version.

    Args:
        state: the state as read.
        epoch_of: returns an epoch's batch size and number of steps.
    """
    renamed = {_renamed(name): value for name, value in state.items()}
    for part in ("networks", "learners", "optimizers"):
        if part in renamed:
            renamed[part] = {_renamed(name): value for name, value in renamed[part].items()}
    since: dict[str, object] = {"best": {}, "published": {}, "scaler": {}, "pictures": {}, "collapse": {}}
    since["settings"] = state.get("config", "{}")
    if "picture" not in state:
        size, steps = epoch_of(state["epoch"])
        since["picture"] = size * state.get("step_in_epoch", state["step"] % steps)
    return since | renamed


def whole_number(state: Mapping[str, object], name: str) -> int:
    """A counter in a state; TypeError if it is not a whole number."""
    value = state[name]
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"{name} is {value!r}, which is not a count")
    return value


def _renamed(name: str) -> str:
    return name.replace("judge", "discriminator", 1) if name.startswith("judge") else name
