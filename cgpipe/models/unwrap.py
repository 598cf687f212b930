"""Finds the generators in a checkpoint, however they are wrapped, and selects one.

Generators are recognised by content: mappings of names to tensors, at most a few levels deep. Projects wrap them in a
``state_dict``, a trainer's attributes (``netG_A.model.1.weight``), both directions, EMA weights, and the ``module.`` of
parallel training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count, groupby

import torch

from cgpipe.errors import ModelError, UsageError
from cgpipe.models.layouts import is_generator, unknown
from cgpipe.models.weights import Weights
from cgpipe.options import Direction

_DEEPEST = 4
"""Levels of mappings, and of prefixes, that are searched."""
_MOST_MAPPINGS = 2_000
_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
"""Prefixes of DataParallel and torch.compile."""
_PLAIN = {"state_dict", "model", "model_state_dict", "models", "params", "weights", "net", "network", "networks"}
"""Names that do not identify a generator."""
_AVERAGED = re.compile(r"[_.]?(ema|averaged?)(?=\.|$)", re.IGNORECASE)

# cycleGAN-PyTorch names a generator by its target first and its source second.
_ANCESTOR: Mapping[str, Direction] = {"Gba": "AtoB", "Gab": "BtoA"}
_WAYS: tuple[tuple[str, Direction], ...] = (
    (r"(net|gen|generator)?_?g?_?a(_?(to|2)?_?)b", "AtoB"),
    (r"(net|gen|generator)?_?g?_?b(_?(to|2)?_?)a", "BtoA"),
    (r"(net)?_?g_?a", "AtoB"),
    (r"(net)?_?g_?b", "BtoA"),
)


def one_generator(
    content: object,
    notes: list[str],
    *,
    direction: Direction | None = None,
    target: str | None = None,
    generator: str | None = None,
) -> Weights:
    """The state dict of the selected generator, without the prefixes of wrappers.

    Args:
        content: the content of a checkpoint.
        notes: receives a sentence for each choice.
        direction: selects one of two generators whose names tell their directions.
        target: selects a generator that is named after its target domain.
        generator: selects by the name in the file, as the error lists them.

    Raises:
        ModelError: there is no generator of a known kind.
        UsageError: there are several, and no argument selects one; the message lists their names.
    """
    if direction not in (None, "AtoB", "BtoA"):
        raise UsageError(f"direction must be AtoB or BtoA, not {direction!r}.")
    if not isinstance(content, Mapping):
        raise ModelError(f"It holds a {type(content).__name__}, not a network's weights.")
    found: dict[str, Weights] = {}
    for path, weights in _generators(content):
        short = ".".join(name for name in path if name not in _PLAIN) or "generator"
        found[".".join(path) if short in found else short] = weights
    if not found:
        raise unknown(_some_keys(content))
    found = _averages_first(found, notes)
    name = _chosen(list(found), direction, target, generator, notes)
    return found[name]


def _generators(content: Mapping[object, object]) -> Iterator[tuple[tuple[str, ...], Weights]]:
    """Every generator of a known kind, by its path in the file."""
    for path, weights in _state_dicts(content, (), count()):
        for inner, part in _parts(weights, _DEEPEST):
            yield (*path, *inner), part


def _state_dicts(
    content: Mapping[object, object], path: tuple[str, ...], visits: Iterator[int]
) -> Iterator[tuple[tuple[str, ...], Weights]]:
    """The mappings that hold tensors, at any depth; ``visits`` limits the search, since mappings may be recursive."""
    if len(path) > _DEEPEST or next(visits) > _MOST_MAPPINGS:
        return
    tensors = {str(key): value.detach() for key, value in content.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield path, tensors
    for key, value in content.items():
        if isinstance(value, Mapping) and value is not content:
            yield from _state_dicts(value, (*path, str(key)), visits)


def _parts(weights: Weights, levels: int) -> Iterator[tuple[tuple[str, ...], Weights]]:
    """The generators in a state dict: all of it, or the keys of a common prefix (``G_A.``, ``generators.zebra.``)."""
    weights = without_wrappers(weights)
    if is_generator(weights):
        yield (), weights
    elif levels:
        named = sorted((key.partition(".") for key in weights), key=lambda parts: parts[0])
        for first, group in groupby(named, key=lambda parts: parts[0]):
            part = {rest: weights[f"{first}.{rest}"] for _, _, rest in group if rest}
            for path, generator in _parts(part, levels - 1) if part else ():
                yield (first, *path), generator


def without_wrappers(weights: Weights) -> Weights:
    """A state dict without the prefixes of DataParallel and torch.compile."""
    return {_WRAPPERS.sub("", key): value for key, value in weights.items()}


def _some_keys(content: Mapping[object, object]) -> list[str]:
    """Keys for the message about a file without generators: those of its first state dict, and its own."""
    first = next((weights for _, weights in _state_dicts(content, (), count())), {})
    return list(dict.fromkeys([*(_WRAPPERS.sub("", key) for key in first), *map(str, content)]))


def _averages_first(found: Mapping[str, Weights], notes: list[str]) -> dict[str, Weights]:
    """Without the generators that also have EMA weights, which are the ones that projects publish."""
    averaged = {name: _AVERAGED.sub("", name) for name in found if _AVERAGED.search(name)}
    plain = [name for name in found if name in averaged.values() or (len(found) == 2 and len(averaged) == 1)]
    dropped = {name for name in plain if name not in averaged}
    if dropped:
        notes.append("The running average (EMA) of the weights was loaded.")
    return {name: weights for name, weights in found.items() if name not in dropped}


def _chosen(
    names: list[str], direction: Direction | None, target: str | None, generator: str | None, notes: list[str]
) -> str:
    if generator is not None:
        return _by_name(names, generator)
    if len(names) == 1:
        if direction is not None:
            notes.append(f"The file does not hold both directions: {direction} has no effect.")
        return names[0]
    ways = _ways(names)
    for name in names:
        if direction is not None and ways.get(name) == direction:
            way = direction.replace("to", " to ")
            notes.append(f"Of the generators in the file, {name} was loaded: it translates {way}.")
            return name
    for name in names:
        if target is not None and name.rpartition(".")[2] == target:
            notes.append(f"Of the generators in the file, the one that paints {target} was loaded.")
            return name
    raise _several(names, ways)


def _by_name(names: list[str], generator: str) -> str:
    for fits in (str.__eq__, lambda name, asked: name.rpartition(".")[2] == asked):
        if matches := [name for name in names if fits(name, generator)]:
            return matches[0]
    raise UsageError(f"There is no generator {generator} in the file: it holds {', '.join(names)}.")


def _ways(names: list[str]) -> dict[str, Direction]:
    """The directions of generators by their names, if the names tell both; else empty."""
    last = {name: name.rpartition(".")[2] for name in names}
    if set(last.values()) >= set(_ANCESTOR):
        return {name: _ANCESTOR[word] for name, word in last.items() if word in _ANCESTOR}
    for pattern_pair in (_WAYS[:2], _WAYS[2:]):
        told = {
            name: way
            for name, word in last.items()
            for pattern, way in pattern_pair
            if re.fullmatch(pattern, word, re.I)
        }
        if sorted(told.values()) == ["AtoB", "BtoA"]:
            return told
    return {}


def _several(names: list[str], ways: Mapping[str, Direction]) -> UsageError:
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    if ways:
        return UsageError(
            f"The file holds generators for both directions ({listed}): choose one with --direction AtoB or "
            "--direction BtoA (A is what trainA held), or --generator NAME."
        )
    return UsageError(f"The file holds the generators {listed}: choose one with --generator NAME.")
