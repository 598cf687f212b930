"""Keeps the bytecode of libraries that were installed without."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

ROOM = 500_000_000
"""Free bytes with which bytecode is kept; that of one environment has about 100 MB."""


def keep_bytecode(library: str = "torch") -> None:
    """Keeps bytecode in cgpipe's cache folder, if a library has none and Python would not keep it either.

    uv and many container images install without bytecode, into folders that are read-only or with
    PYTHONDONTWRITEBYTECODE set. Then Python compiles the thousand modules of torch at every start, for 1.5 s.
    PYTHONPYCACHEPREFIX in the environment names another folder.
    """
    spec = find_spec(library)
    if sys.pycache_prefix or spec is None or not spec.origin or os.path.exists(spec.cached or ""):
        return
    if sys.dont_write_bytecode or not os.access(os.path.dirname(spec.origin), os.W_OK):
        from platformdirs import user_cache_path

        folder = user_cache_path("cgpipe") / "bytecode"
        if _has_room(folder):
            sys.pycache_prefix = str(folder)
            sys.dont_write_bytecode = False


def _has_room(folder: Path) -> bool:
    """Whether all bytecode fits: some versions of Python keep what was written in part, and then fail to read it."""
    if resource is not None and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return False
    try:
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        return shutil.disk_usage(there).free > ROOM
    except OSError:
        return False
