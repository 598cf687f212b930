"""Keeps the bytecode of libraries that were installed without."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec


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

        sys.pycache_prefix = str(user_cache_path("cgpipe") / "bytecode")
        sys.dont_write_bytecode = False
