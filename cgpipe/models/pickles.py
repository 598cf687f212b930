"""Checks a pickle before it is loaded: its instructions tell how much work and memory it would take.

torch's ``weights_only`` reader runs nothing outside its allowlist. But even that can be abused: nested tuples of a few
bytes take forever to hash, and a ``bytearray`` may have any length.
"""

from __future__ import annotations

import pickletools
from typing import IO

from cgpipe.errors import ModelError

SAVE_AGAIN = "Save the network's state_dict() with torch.save where the file was made"
LARGEST_PICKLE = 16_000_000
"""Most bytes; a network of 1,000 tensors has 0.1 MB of instructions, its optimiser twice that."""
MOST_STEPS = 500_000
"""Most instructions; a tensor takes about 30."""
LARGEST_VALUE = 1_000_000
"""Most values in one tuple, including nested ones."""

_MAKES_BYTES = ("builtins bytearray", "__builtin__ bytearray", "_codecs encode")


def check_pickle(file: IO[bytes], pickles: int = 1) -> None:
    """Checks consecutive pickles, and leaves ``file`` positioned after them.

    Raises:
        ModelError: loading them would take more work or memory than any checkpoint.
        ValueError: they are truncated, or not pickles.
    """
    start = file.tell()
    for _ in range(pickles):
        sizes = _Sizes()
        for step, (opcode, argument, place) in enumerate(pickletools.genops(file)):
            if step > MOST_STEPS or (place or 0) - start > LARGEST_PICKLE:
                raise ModelError("It holds far more than a network's weights: save the network's state_dict() alone.")
            if argument in _MAKES_BYTES:
                raise ModelError(f"It holds raw bytes beside its tensors. Nothing was run. {SAVE_AGAIN}.")
            sizes.step(opcode, argument)


class _Sizes:
    """The stack of the pickle machine, with each value replaced by its number of nested values."""

    def __init__(self) -> None:
        self._stack: list[int | None] = []  # None for a mark
        self._memo: dict[object, int] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        if opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            self._stack.append(self._memo.get(argument, 1))
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = self._top()
        elif opcode.name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif opcode.name == "DUP":
            self._stack.append(self._top())
        else:
            taken = [self._pop_to_mark() if kind is pickletools.stackslice else self._pop() for kind in _taken(opcode)]
            inside = 1 + sum(taken) if opcode.name.startswith("TUPLE") else 1
            if inside > LARGEST_VALUE:
                raise ModelError("It holds endlessly nested tuples. Nothing was run.")
            # Lists and dictionaries cannot be hashed, so their content does not count.
            self._stack += [None if kind is pickletools.markobject else inside for kind in opcode.stack_after]

    def _top(self) -> int:
        return (self._stack[-1] or 0) if self._stack else 0

    def _pop(self) -> int:
        if not self._stack:
            raise ValueError("takes more values than there are")
        return self._stack.pop() or 0

    def _pop_to_mark(self) -> int:
        size = 0
        while self._stack and (value := self._stack.pop()) is not None:
            size += value
        return size


def _taken(opcode: pickletools.OpcodeInfo) -> list[pickletools.StackObject]:
    """What an instruction pops from the stack, top first; a slice includes its mark."""
    return [kind for kind in reversed(opcode.stack_before) if kind is not pickletools.markobject]
