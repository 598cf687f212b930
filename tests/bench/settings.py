"""What is asked for, and a benchmark that cannot be run here."""

from __future__ import annotations

import time
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
        tiny: the smallest sizes and one run, to see that all works; the figures mean nothing.
        until: for a page within a few minutes: one run, fewer pictures, and from this time on, by
            :func:`time.monotonic`, nothing that is slow to start.
        dataset: folder of pictures to use in place of those that are made.
        clip: likewise for videos.
    """

    folder: Path
    device: torch.device
    runs: int | None = None
    tiny: bool = False
    until: float | None = None
    dataset: Path | None = None
    clip: Path | None = None

    def times(self, usual: int) -> int:
        """How often each way is run, ``usual`` being the table's own number."""
        return self.runs or (1 if self.tiny or self.brief else usual)

    @property
    def brief(self) -> bool:
        """Whether there are only minutes for all tables."""
        return self.until is not None

    @property
    def late(self) -> bool:
        """Whether those minutes are over."""
        return self.until is not None and time.monotonic() > self.until
