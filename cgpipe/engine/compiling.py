"""``torch.compile``: where it can work, where what it makes is kept, and what is done when that fails."""

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
    """Whether ``torch.compile`` can work: on a CPU it needs a C++ compiler. Warns where there is none."""
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
    """Keeps what is compiled in the user's cache, unless the user has named another place.

    Torch's own place is a temporary folder: all would be gone when the machine restarts.
    """
    os.environ.setdefault(CACHE_VARIABLE, str(user_cache_path("cgpipe") / "compiled"))


def compiled_or_eager(run: Callable[[], T]) -> T:
    """What ``run`` gives, which calls compiled networks.

    A process that is killed while it compiles leaves half a library behind, and every later one that finds it fails. So
    where compiling fails, what is kept is thrown away, and it is tried once more; then all goes on eagerly, with a
    warning. Each try begins with the same random numbers; what ``run`` had changed before it failed stays changed.
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
    # Where nothing has been compiled the module is not there, and takes a second to import.
    exceptions = sys.modules.get("torch._dynamo.exc")
    return exceptions is not None and isinstance(error, (exceptions.TorchDynamoException, ImportError))


def _forget_compiled(error: Exception) -> None:
    torch.compiler.reset()
    if folder := os.environ.get(CACHE_VARIABLE):
        # Moved first, so that another process never finds it half gone.
        aside = Path(f"{folder}-broken-{os.getpid()}")
        try:
            Path(folder).rename(aside)
        except OSError:
            return
        shutil.rmtree(aside, ignore_errors=True)


def _go_on_eagerly(error: Exception) -> None:
    reason = str(error).strip().partition("\n")[0]
    warnings.warn(f"Compiling failed ({reason}): continuing without.", CgpipeWarning, stacklevel=4)
    torch.compiler.reset()
    torch.compiler.set_stance("force_eager")
