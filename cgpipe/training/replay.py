"""Parts of a training step as CUDA graphs: a replay is one launch instead of some thousand.

At small crops and batches a GPU waits for Python to launch its kernels. What is replayed runs no Python: all that
changes from step to step (pictures, random numbers, the learning rate) is copied into tensors that the graph reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch

from cgpipe.data.unpaired import Pictures
from cgpipe.engine.cuda import go_on_without_graph
from cgpipe.training.draws import Draw, given, listed
from cgpipe.training.optimise import rate_from

Made = TypeVar("Made")


class Record(Protocol):
    """Records what ``work`` does on the device, and returns a function that does it again.

    Recording does nothing on the device. What ``work`` made is returned by each replay, which overwrites it.
    """

    def __call__(self, work: Callable[[], Made]) -> Callable[[], Made]: ...


class Replayed(Generic[Made]):
    """A part of a training step that is recorded and replayed, where that is possible.

    It runs twice without a recording: once to list its draws, once to load its kernels. The third time it is recorded.
    When a shape changes, this starts again. Choices (:func:`cgpipe.training.draws.chosen`) have a recording for each
    of their combinations.

    Args:
        work: takes batches; computes losses and gradients and steps ``optimizer``. It reads nothing back from the
            device. When anything else that it depends on changes, :meth:`forget` must be called.
        optimizer: its learning rate may change from step to step.
        record: None: nothing is recorded.
    """

    def __init__(
        self,
        work: Callable[..., Made],
        optimizer: torch.optim.Optimizer | None,
        record: Record | None,
    ) -> None:
        self._work = work
        self._optimizer = optimizer
        self._record = record
        self.forget()

    def forget(self) -> None:
        """Drops all recordings, and their memory."""
        self._shapes: list[dict[str, torch.Size]] = []
        self._draws: list[Draw] | None = None
        self._batches: tuple[Pictures, ...] = ()
        self._numbers: list[torch.Tensor] = []
        self._rate: torch.Tensor | None = None
        self._replays: dict[tuple[int, ...], Callable[[], Made] | None] = {}

    def __call__(self, *batches: Pictures) -> Made:
        """What ``work`` makes; the next call may overwrite it."""
        if self._record is None:
            return self._work(*batches)
        shapes = [{name: pictures.shape for name, pictures in batch.items()} for batch in batches]
        if shapes != self._shapes:
            self.forget()
            self._shapes = shapes
        if self._draws is None:
            with listed() as draws:
                made = self._work(*batches)
            self._draws = draws
            return made
        numbers = [draw.make() for draw in self._draws]
        self._fill(batches, numbers)
        replay = self._replay_for(numbers)
        if replay is not None:
            return replay()
        with given(numbers):
            return self._work(*batches)

    def _replay_for(self, numbers: list[torch.Tensor]) -> Callable[[], Made] | None:
        """The recording for these choices, made now where they come for the second time; None where there is none."""
        assert self._draws is not None
        choices = tuple(int(n) for draw, n in zip(self._draws, numbers, strict=True) if draw.is_choice)
        if choices not in self._replays:
            self._replays[choices] = None
        elif self._replays[choices] is None:
            self._replays[choices] = self._recording()
        return self._replays[choices]

    def _fill(self, batches: tuple[Pictures, ...], numbers: list[torch.Tensor]) -> None:
        """Copies what is new in this step to where the recordings read it."""
        assert self._draws is not None
        device = next(iter(batches[0].values())).device
        if not self._batches:
            self._batches = tuple({name: p.clone() for name, p in batch.items()} for batch in batches)
            self._numbers = [
                torch.empty_like(number, device=number.device if draw.is_choice else device)
                for draw, number in zip(self._draws, numbers, strict=True)
            ]
            self._rate = torch.zeros((), device=device)
        for kept, batch in zip(self._batches, batches, strict=True):
            for name, pictures in kept.items():
                pictures.copy_(batch[name], non_blocking=True)
        for place, number in zip(self._numbers, numbers, strict=True):
            # From pinned memory, since the GPU may still be busy with the step before.
            place.copy_(number.pin_memory() if place.is_cuda else number, non_blocking=True)
        if self._optimizer is not None and self._rate is not None:
            self._rate.fill_(self._optimizer.param_groups[0]["lr"])

    def _recording(self) -> Callable[[], Made] | None:
        assert self._record is not None and self._rate is not None
        try:
            with rate_from(self._optimizer, self._rate), given(self._numbers):
                return self._record(lambda: self._work(*self._batches))
        except RuntimeError as error:  # torch raises it for everything that cannot be recorded
            go_on_without_graph(error)
            self._record = None
            return None
