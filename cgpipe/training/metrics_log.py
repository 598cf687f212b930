"""The losses of a run, as lines of JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from cgpipe.errors import TrainingError
from cgpipe.storage import atomic_write
from cgpipe.training.state import KEPT


class MetricsLog:
    """Means of the losses since the last line, one JSON object a line; lines after the resumed step are dropped.

    Args:
        path: the file, or None to write nothing: that is for the first of several processes.
        step: the step resumed at.

    Raises:
        TrainingError: the file cannot be written, as on a full disk; what it holds stays.
    """

    def __init__(self, path: Path | None, step: int) -> None:
        self.path = path
        self.means: dict[str, float] = {}
        self._sums: defaultdict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(()))
        self._count = 0
        if path is not None:
            kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
            with _writing(path), atomic_write(path) as partial:
                partial.write_text("".join(kept), encoding="utf-8")

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """Takes in one step's losses without waiting for the device."""
        for name, loss in losses.items():
            self._sums[name] = self._sums[name].to(loss.device) + loss
        self._count += 1

    def write(self, step: int, epoch: int, learning_rate: float) -> None:
        """Writes a line and begins new means."""
        self.means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._append({"step": step, "epoch": epoch, "learning_rate": learning_rate} | self.means)
        self._sums.clear()
        self._count = 0

    def write_figures(self, step: int, epoch: int, figures: dict[str, float]) -> None:
        """Writes a line of what was measured at this step; the means go on."""
        self._append({"step": step, "epoch": epoch, **figures})

    def write_warning(self, step: int, epoch: int, warning: str) -> None:
        """Writes a line of what was noticed at this step."""
        self._append({"step": step, "epoch": epoch, "warning": warning})

    def _append(self, line: Mapping[str, float | str]) -> None:
        if self.path is not None:
            with _writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}. {KEPT}") from error


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
