"""The tables that ``bin/bench`` makes, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from folder import measure_folder
from generator import measure_generator
from int8 import measure_int8
from memory import measure_memory
from results import Table
from settings import Settings
from start import measure_start
from styles import measure_styles
from tiles import measure_tiles
from training import measure_train
from video import measure_video
from working_scale import measure_scale

TABLES: Mapping[str, Callable[[Settings], list[Table]]] = {
    "generator-resnet": partial(measure_generator, "resnet"),
    "generator-shipped": partial(measure_generator, "shipped"),
    "generator-fast": partial(measure_generator, "fast"),
    "int8-resnet": partial(measure_int8, "resnet"),
    "int8-shipped": partial(measure_int8, "shipped"),
    "tiles": measure_tiles,
    "train-compact": partial(measure_train, "compact"),
    "train-resnet": partial(measure_train, "resnet"),
    "folder": measure_folder,
    "video-256": partial(measure_video, "256"),
    "video-480p": partial(measure_video, "480p"),
    "video-1080p": partial(measure_video, "1080p"),
    "start": measure_start,
    "styles": measure_styles,
    "memory": measure_memory,
    "scale": measure_scale,
}


QUICK = ("generator-shipped", "generator-fast", "start", "video-256", "folder")
"""Tables of the page that takes minutes, the most telling first."""


def chosen(name: str | None) -> list[str]:
    """The tables called ``name``, or beginning with it (``generator`` stands for all three); without one, all."""
    return [table for table in TABLES if name is None or table == name or table.startswith(f"{name}-")]
