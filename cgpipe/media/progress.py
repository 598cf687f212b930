"""How far a picture is that takes long, and whether to leave off in its middle."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Literal

from cgpipe.errors import CgpipeError

Stage = Literal["read", "translate", "write"]

_SPANS: dict[Stage, tuple[float, float]] = {"read": (0.0, 0.05), "translate": (0.05, 0.9), "write": (0.9, 1.0)}
"""Where each stage begins and ends, as shares of a picture's time."""


class StoppedError(CgpipeError):
    """The job was stopped in the middle of a picture."""

    def __init__(self) -> None:
        super().__init__("The job was stopped. Run it again to translate this picture.")


class Progress:
    """What reads, translates and writes large pictures part by part tells this after each part, from any thread.

    Args:
        tell: called with the share of the picture that is done, 0 to 1.

    Attributes:
        stopped: set it to stop whatever is under way after the part at hand.
    """

    def __init__(self, tell: Callable[[float], None] | None = None) -> None:
        self.stopped = Event()
        self._tell = tell

    def reached(self, stage: Stage, share: float) -> None:
        """A share of a stage is done, 0 to 1.

        Raises:
            StoppedError: the job was stopped.
        """
        if self.stopped.is_set():
            raise StoppedError
        if self._tell is not None:
            begin, end = _SPANS[stage]
            self._tell(begin + share * (end - begin))
