"""The metrics file of a run: JSON lines."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from cgpipe.errors import TrainingError
from cgpipe.storage import atomic_write
from cgpipe.training.state import what_is_kept


class MetricsLog:
    """Writes mean losses since the last line, one JSON object per line, once it has a file.

    Each line has ``step``, ``epoch`` and ``time`` (seconds since 1970); a line of losses also has ``seconds_a_step``
    since the line before, in this process. A loss that is not finite is ``null``.

    Attributes:
        means: the losses of the last line.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.means: dict[str, float] = {}
        self._sums: defaultdict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(()))
        self._count = self._timed = 0
        self._begun = time.monotonic()

    def open(self, path: Path | None, step: int) -> None:
        """Begins to write; lines after a step are dropped.

        Args:
            path: the file, or None to write nothing, in all processes but the first.
            step: the step resumed at.

        Raises:
            TrainingError: the file has an invalid line, or cannot be written, as on a full disk; its content is kept.
        """
        self.path = path
        self._timed, self._begun = 0, time.monotonic()
        if path is not None:
            kept = [line for line in _complete_lines(path) if _step_of(path, line) <= step]
            with _writing(path), atomic_write(path) as partial:
                partial.write_text("".join(kept), encoding="utf-8")

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """Adds a step's losses, without waiting for the device."""
        for name, loss in losses.items():
            self._sums[name] = self._sums[name].to(loss.device) + loss
        self._count += 1
        self._timed += 1

    def write(self, step: int, epoch: int, learning_rate: float) -> None:
        """Writes a line and resets the means."""
        self.means = {name: float(total) / self._count for name, total in self._sums.items()}
        seconds = round((time.monotonic() - self._begun) / self._timed, 4)
        self._append(step, epoch, {"learning_rate": learning_rate, "seconds_a_step": seconds} | self.means)
        self._sums.clear()
        self._count = self._timed = 0
        self._begun = time.monotonic()

    def write_figures(self, step: int, epoch: int, figures: dict[str, float]) -> None:
        """Writes a line of metrics of this step; the means continue."""
        self._append(step, epoch, figures)

    def write_warning(self, step: int, epoch: int, warning: str) -> None:
        """Writes a line with a warning of this step."""
        self._append(step, epoch, {"warning": warning})

    def state_dict(self) -> dict[str, object]:
        """The losses since the last line."""
        return {"sums": {name: total.cpu() for name, total in self._sums.items()}, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self._sums.clear()
        self._sums.update(state["sums"])
        self._count = state["count"]

    def _append(self, step: int, epoch: int, values: Mapping[str, float | str]) -> None:
        if self.path is None:
            return
        line: dict[str, float | str | None] = {"step": step, "epoch": epoch, "time": round(time.time(), 1)}
        line |= {name: _json_value(value) for name, value in values.items()}
        with _writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


def _json_value(value: float | str) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}. {what_is_kept(path.parent)}") from error


def _complete_lines(path: Path) -> list[str]:
    """The complete lines of a file, without one that a kill cut off."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} cannot be read: {error}. Move it away to continue without it.") from error
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _step_of(path: Path, line: str) -> int:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        step = None
    if not isinstance(step, int):
        shown = line.strip()[:40]
        raise TrainingError(f"{path} has a line without a step, {shown!r}: remove that line, or move the file away.")
    return step
