"""What is asked for, and a benchmark that cannot be run here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch


class CannotMeasureError(Exception):
    """Something is asked for that this machine has not got; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every table is told.

    Args:
        folder: for what is made on the way; empty at first, and gone afterwards.
        device: where the networks run.
        runs: of each way; None for the table's own number.
        quick: the smallest sizes and one run, to see that all works; the figures mean nothing.
        dataset: folder of pictures to use in place of those that are made.
        clip: likewise for videos.
    """

    folder: Path
    device: torch.device
    runs: int | None = None
    quick: bool = False
    dataset: Path | None = None
    clip: Path | None = None

    def times(self, usual: int) -> int:
        """How often each way is run, ``usual`` being the table's own number."""
        return self.runs or (1 if self.quick else usual)
