"""Random numbers of losses, drawn on the CPU, whose random state a run keeps.

A step that is replayed (:mod:`cgpipe.training.replay`) runs no Python, so nothing in it can draw. Its draws are listed
while it runs for the first time; from then on they are made before the step, in the same order, and given to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw of a step.

    Args:
        make: draws from torch's generator; must not depend on the pictures of the step.
        is_choice: the number, a scalar, decides what the step does.
    """

    make: Callable[[], torch.Tensor]
    is_choice: bool = False


_source: ContextVar[Callable[[Draw], torch.Tensor]] = ContextVar("source", default=lambda draw: draw.make())


def drawn(make: Callable[[], torch.Tensor], device: torch.device) -> torch.Tensor:
    """The numbers that ``make`` draws, on ``device``."""
    return _source.get()(Draw(make)).to(device)


def chosen(count: int) -> int:
    """One of 0 to ``count - 1``, which decides what a step does."""
    return int(_source.get()(Draw(lambda: torch.randint(count, ()), is_choice=True)))


@contextmanager
def listed() -> Iterator[list[Draw]]:
    """Lists the draws of its body, which are made as they come."""
    found: list[Draw] = []

    def draw_and_list(draw: Draw) -> torch.Tensor:
        found.append(draw)
        return draw.make()

    with _from(draw_and_list):
        yield found


@contextmanager
def given(numbers: Sequence[torch.Tensor]) -> Iterator[None]:
    """Gives these numbers to the draws of its body, in order."""
    left = iter(numbers)
    with _from(lambda draw: next(left)):
        yield


@contextmanager
def _from(source: Callable[[Draw], torch.Tensor]) -> Iterator[None]:
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)
