"""A run's folder: its state file, and the lock that keeps a second run out."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from cgpipe.errors import TrainingError
from cgpipe.storage import PREFIX, atomic_write

STATE_NAME = "state.pt"
LOCK_NAME = f"{PREFIX}lock"
FORMAT = 1


def what_is_kept(folder: Path) -> str:
    """A sentence on what an interrupted run in ``folder`` can resume from."""
    if (folder / STATE_NAME).is_file():
        return f"The last saved state is kept in {folder}: continue with --resume."
    return f"Nothing was saved yet in {folder}: start again."


def save_state(path: Path, state: dict[str, object]) -> None:
    """Writes ``state`` (tensors and plain data) so that ``path`` is always either the old or the new state, whole.

    Raises:
        TrainingError: the disk is full or the folder cannot be written; the old state is still there.
    """
    try:
        with atomic_write(path, durable=True) as temporary, temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
    except (OSError, RuntimeError) as error:
        # On a full disk torch raises its own RuntimeError while handling the file system's error.
        cause = error if isinstance(error, OSError) else error.__context__
        reason = (cause.strerror if isinstance(cause, OSError) else None) or error
        raise TrainingError(f"The state could not be saved to {path}: {reason}. {what_is_kept(path.parent)}") from error


def load_state(path: Path) -> dict[str, Any]:
    """Reads what :func:`save_state` wrote.

    Raises:
        TrainingError: it cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TrainingError(f"{path} cannot be read as a training state: {error}.") from error
    if not isinstance(state, dict):
        raise TrainingError(f"{path} is not a training state, but holds a {type(state).__name__}.")
    if state.get("format") != FORMAT:
        raise TrainingError(f"{path} has state format {state.get('format')}, but this cgpipe reads format {FORMAT}.")
    return {**state}


_held: set[IO[str]] = set()
"""Locked files of this process."""


def _let_go() -> None:
    """Closes them in a worker process, which would hold their locks for some seconds after its run is killed."""
    for file in _held:
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a run's folder until the body or this process ends.

    Raises:
        TrainingError: another run holds the lock, or the folder cannot be written.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be written: {error.strerror}. Choose another --checkpoint-dir."
        ) from error
    with file:
        if not _lock(file.fileno()):
            file.seek(0)
            raise TrainingError(
                f"Another run is using {folder} ({file.read().strip() or 'of another process'}): wait until it "
                "has ended, or choose another --checkpoint-dir."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> bool:
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        return True
