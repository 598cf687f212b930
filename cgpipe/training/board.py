"""A run's metrics and pictures for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from cgpipe.errors import MissingDependencyError


class Board:
    """Writes event files that ``tensorboard --logdir`` shows.

    Args:
        folder: folder of the event files.
        step: the step resumed at; TensorBoard drops what was written for later steps.
        recipe: the settings of the run, shown as its hyperparameters.

    Raises:
        MissingDependencyError: tensorboard is not installed.
        OSError: from any method, if a file cannot be written, as on a full disk.
    """

    def __init__(self, folder: Path, step: int, recipe: Mapping[str, object]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams
        except ImportError as error:
            raise MissingDependencyError(
                "--tensorboard needs tensorboard: pip install 'cgpipe[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)
        plain = {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in recipe.items()}
        for summary in hparams(plain, {}):
            self._writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]

    def add_figures(self, figures: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve."""
        for name, figure in figures.items():
            self._writer.add_scalar(name, figure, step)

    def add_grid(self, name: str, grid: torch.Tensor, step: int) -> None:
        """Adds a picture (3, H, W) in [-1, 1]."""
        self._writer.add_image(name, grid.add(1).div(2).clamp(0, 1), step)

    def add_histograms(self, weights: Iterable[tuple[str, torch.Tensor]], step: int) -> None:
        """Adds a histogram of each tensor's values."""
        for name, weight in weights:
            self._writer.add_histogram(name, weight.detach(), step)

    def close(self) -> None:
        """Flushes and closes the files."""
        self._writer.close()
