"""Describes this machine for a bug report or a program, as plain values."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from cgpipe.engine.autotune import cpu_multiplies_bf16
from cgpipe.engine.backends import ENGINES, PACKAGES
from cgpipe.models import list_models, user_models_folder
from cgpipe.storage import cache_folder

LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless", "av", "pillow", "safetensors", "click")
"""Packages whose versions affect the results."""


def describe_machine() -> dict[str, object]:
    """Versions, processors, devices with their dtypes, engines, codecs, picture formats, extras and folders.

    It contains no name of a user or a file, only the two folders.
    """
    return {
        "versions": _versions(),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count() or 1,
            "threads of torch": torch.get_num_threads(),
            "memory": _memory(),
        },
        "devices": _devices(),
        "engines": [engine for engine in ENGINES if all(map(_has, PACKAGES.get(engine, ())))],
        "pictures": _pictures(),
        "video": _video(),
        "extras": _extras(),
        "models": {"shipped and own": len(list_models()), "folder of your own": _at_home(user_models_folder())},
        "cache": _at_home(cache_folder()),
    }


def _versions() -> dict[str, str]:
    found = {"cgpipe": _version("cgpipe"), "python": platform.python_version()}
    return found | {name: _version(name) for name in LIBRARIES}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        if distribution != "cgpipe":
            return "unknown"
        return str(sys.modules["cgpipe"].__version__)  # run from a checkout that is not installed


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            named = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        named = None
    return named[1] if named else platform.processor() or platform.machine()


def _memory() -> str:
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return "unknown"
    return f"{size / 2**30:.1f} GiB"


def _devices() -> dict[str, str]:
    """Each device of ``--device`` with its name and dtypes."""
    found = {"cpu": f"fp32{', bf16' if cpu_multiplies_bf16() else ''}"}
    for number in range(torch.cuda.device_count()):
        values = torch.cuda.get_device_properties(number)
        bf16 = ", bf16" if values.major >= 8 else ""
        found[f"cuda:{number}"] = f"{values.name}, {values.total_memory / 2**30:.1f} GiB: fp32, fp16{bf16}"
    return found


def _pictures() -> dict[str, list[str]]:
    from cgpipe.media.pictures.formats import FORMATS

    return {"suffixes": [suffix for format in FORMATS if format.installed for suffix in format.suffixes]}


def _video() -> dict[str, object]:
    import av
    from av.codec.hwaccel import hwdevices_available

    from cgpipe.media.video.encoding import encoders_here

    libraries = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    return {"encoders": encoders_here(), "decoding on": hwdevices_available(), "libraries": libraries}


def _extras() -> Mapping[str, str]:
    """Each extra, with its missing packages."""
    try:
        needed = importlib.metadata.requires("cgpipe") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    missing: dict[str, list[str]] = {}
    for line in needed:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        name = re.match(r"[\w.-]+", line)
        if extra and name and extra[1] != "test":
            missing.setdefault(extra[1], []).extend([] if _version(name[0]) != "unknown" else [name[0]])
    return {name: f"missing {', '.join(those)}" if those else "installed" for name, those in missing.items()}


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _at_home(folder: Path) -> str:
    """A folder with the home folder as ``~``, which hides the user's name."""
    return str(Path("~") / folder.relative_to(Path.home())) if folder.is_relative_to(Path.home()) else str(folder)
