"""The generators by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from inspect import signature

from cgpipe.networks.base import Generator
from cgpipe.networks.cartoon import AnimeGenerator, WhiteBoxGenerator
from cgpipe.networks.compact import CompactGenerator
from cgpipe.networks.resnet import ResNetGenerator
from cgpipe.networks.ugatit import UGATITGenerator
from cgpipe.networks.unet import UNetGenerator

GENERATORS: Mapping[str, Callable[..., Generator]] = {
    "compact": partial(CompactGenerator, channels=64, blocks=2, deep_channels=96, deep_blocks=4),
    "compact-flat": partial(CompactGenerator, channels=64, blocks=6),
    "compact-xs": partial(CompactGenerator, channels=32, blocks=1, deep_channels=64, deep_blocks=3),
    "resnet": ResNetGenerator,
    "resnet_9blocks": partial(ResNetGenerator, blocks=9),
    "resnet_6blocks": partial(ResNetGenerator, blocks=6),
    "resnet_9blocks_antialias": partial(ResNetGenerator, blocks=9, antialias=True),
    "resnet_6blocks_antialias": partial(ResNetGenerator, blocks=6, antialias=True),
    "unet": UNetGenerator,
    "unet_128": partial(UNetGenerator, levels=7),
    "unet_256": partial(UNetGenerator, levels=8),
}

FOREIGN: Mapping[str, Callable[..., Generator]] = {
    "ugatit": UGATITGenerator,
    "animegan2": AnimeGenerator,
    "whitebox": WhiteBoxGenerator,
}
"""Generators of other projects: their files are run, but none is trained here."""

_ALL = {**GENERATORS, **FOREIGN}


def build_generator(architecture: str, **settings: object) -> Generator:
    """A generator with fresh weights.

    Args:
        architecture: a name in :data:`GENERATORS` or :data:`FOREIGN`.
        settings: keyword arguments of that architecture that differ from its defaults, such as ``ngf`` or ``norm``.

    Raises:
        ValueError: the name is unknown, or the architecture has no such setting or value.
    """
    if architecture not in _ALL:
        raise ValueError(f"unknown architecture {architecture!r}: choose one of {', '.join(GENERATORS)}")
    try:
        return _ALL[architecture](**settings)
    except TypeError as error:
        raise ValueError(f"architecture {architecture!r}: {error}") from error


def setting_names(architecture: str) -> Collection[str]:
    """The settings that an architecture has; none if it is unknown."""
    return signature(_ALL[architecture]).parameters if architecture in _ALL else ()


def all_settings(architecture: str, settings: Mapping[str, object]) -> dict[str, object]:
    """``settings`` with what the name alone stands for, so that a file still fits when a preset is changed later."""
    preset = _ALL[architecture]
    return (dict(preset.keywords) if isinstance(preset, partial) else {}) | dict(settings)


def effective_settings(architecture: str, settings: Mapping[str, object]) -> dict[str, object]:
    """Every setting of a generator with its value, those that nobody named included."""
    parameters = signature(_ALL[architecture]).parameters
    return {name: parameter.default for name, parameter in parameters.items()} | dict(settings)
