"""A stand-in for CUDA graphs: records the operations of some work, and runs them again on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Made = TypeVar("Made")
Operation = tuple[Any, tuple[Any, ...], dict[str, Any], list[torch.Tensor]]

CONSTANTS = ("aten::lift_fresh", "aten::lift_fresh_copy")


class Tape(TorchDispatchMode):
    """Like a CUDA graph it knows nothing of Python, and refuses what a GPU cannot record.

    That is drawing random numbers, copying constants from the host, and reading back anything but a choice.

    Attributes:
        recordings: how many there are.
        replays: how often one was used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recordings = self.replays = 0
        self._operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reads_back = func.name() == "aten::_local_scalar_dense" and args[0].is_floating_point()
        if torch.Tag.nondeterministic_seeded in func.tags or func.name() in CONSTANTS or reads_back:
            raise RuntimeError(f"{func.name()} cannot be recorded")
        made = func(*args, **kwargs)
        if not _is_view(func):
            fresh = [] if func._schema.is_mutable else [leaf for leaf in tree_leaves(made) if _is_tensor(leaf)]
            self._operations.append((func, args, kwargs, fresh))
        return made

    def __call__(self, work: Callable[[], Made]) -> Callable[[], Made]:
        """Runs the work; the first replay is what that run has done already."""
        self._operations = operations = []
        with self:
            made = work()
        self.recordings += 1
        has_run = True

        def replay() -> Made:
            nonlocal has_run
            for operation in () if has_run else operations:
                _run(*operation)
            has_run = False
            self.replays += 1
            return made

        return replay


@torch.no_grad()
def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], fresh: list[torch.Tensor]) -> None:
    made = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if _is_tensor(leaf)]
    for place, tensor in zip(fresh, made if fresh else [], strict=True):
        place.copy_(tensor)


def _is_view(func: Any) -> bool:
    returned = func._schema.returns
    return bool(returned) and all(r.alias_info is not None and not r.alias_info.is_write for r in returned)


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)
