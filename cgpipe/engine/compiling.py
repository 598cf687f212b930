"""``torch.compile``: whether it can work, where its cache is, and the fallback to eager."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from platformdirs import user_cache_path

from cgpipe.errors import CgpipeWarning

T = TypeVar("T")

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def can_compile(device: torch.device) -> bool:
    """Whether ``torch.compile`` can work: on a CPU it needs a C++ compiler. Warns if there is none."""
    found = device.type != "cpu" or has_compiler()
    if not found:
        warnings.warn(
            "Compiling needs a C++ compiler, which is not installed: continuing without.", CgpipeWarning, stacklevel=2
        )
    return found


def has_compiler() -> bool:
    """Whether there is a C++ compiler."""
    return bool(shutil.which("c++") or shutil.which("g++"))


def keep_compiled() -> None:
    """Keeps compiled code in the user's cache folder, unless the user has named another one.

    Torch's default is a temporary folder, which is lost when the machine restarts.
    """
    os.environ.setdefault(CACHE_VARIABLE, str(_own_cache()))


def _own_cache() -> Path:
    return user_cache_path("cgpipe") / "compiled"


def compiled_or_eager(run: Callable[[], T]) -> T:
    """Calls ``run``, which uses compiled networks; falls back to eager if compiling fails.

    A process killed while compiling leaves a truncated library behind, on which every later process fails. So after a
    failure cgpipe's own cache is removed and compiling is tried once more; then everything runs eagerly, with a
    warning. Each try starts from the same random state; what ``run`` had changed before it failed stays changed.
    """
    random = torch.get_rng_state()
    for help_it in (_forget_compiled, _go_on_eagerly):
        try:
            return run()
        except (RuntimeError, ImportError) as error:
            if not _failed_to_compile(error):
                raise
            help_it(error)
            torch.set_rng_state(random)
    return run()


def _failed_to_compile(error: Exception) -> bool:
    # If nothing was compiled the module is not loaded, and importing it takes a second.
    exceptions = sys.modules.get("torch._dynamo.exc")
    return exceptions is not None and isinstance(error, (exceptions.TorchDynamoException, ImportError))


def _forget_compiled(error: Exception) -> None:
    torch.compiler.reset()
    folder = _own_cache()
    if os.environ.get(CACHE_VARIABLE) == str(folder):  # another one may hold more than cgpipe's code
        # Moved first, so that another process never finds it half deleted.
        aside = folder.with_name(f"{folder.name}-broken-{os.getpid()}")
        try:
            folder.rename(aside)
        except OSError:
            return
        shutil.rmtree(aside, ignore_errors=True)


def _go_on_eagerly(error: Exception) -> None:
    reason = str(error).strip().partition("\n")[0]
    warnings.warn(f"Compiling failed ({reason}): continuing without.", CgpipeWarning, stacklevel=4)
    torch.compiler.reset()
    torch.compiler.set_stance("force_eager")
