"""A run's state on disk: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from cgpipe.errors import TrainingError

FORMAT = 1
KEPT = "The last good state is kept: put that right, and go on with --resume."
"""What to do when something could not be written."""


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` (tensors and plain data) so that ``path`` is always either the old or the new state, whole.

    Raises:
        TrainingError: the disk is full or the folder cannot be written; the old state is still there.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        # On a full disk torch raises a RuntimeError of its own, while it handles that of the file system.
        cause = error if isinstance(error, OSError) else error.__context__
        reason = (cause.strerror if isinstance(cause, OSError) else None) or error
        raise TrainingError(f"The state could not be saved to {path}: {reason}. {KEPT}") from error


def load_state(path: Path) -> dict[str, Any]:
    """Reads what :func:`save_state` wrote.

    Raises:
        TrainingError: there is no state, or it cannot be read.
    """
    if not path.is_file():
        raise TrainingError(f"There is nothing to resume: {path} does not exist. Start without --resume.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TrainingError(f"{path} cannot be read as a training state: {error}") from error
    if state.get("format") != FORMAT:
        raise TrainingError(f"{path} is of state format {state.get('format')}; this cgpipe reads format {FORMAT}.")
    return state
