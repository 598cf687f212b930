"""A generator made ready to run: rewritten, in the right arithmetic, behind the right back end."""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch

from cgpipe.engine.backends import Engine, Run, check_engine, others_here, prepare
from cgpipe.engine.memory import keep_freed_memory
from cgpipe.engine.precision import DTYPES, TOLERANCE, Precision, cast, check_precision, choose_precision, timed
from cgpipe.engine.remembered import recall, remember, trial_key
from cgpipe.engine.rewrites import rewrite
from cgpipe.errors import CgpipeWarning
from cgpipe.networks import Generator

FIRST_LOOK = 8
"""Pictures of one size that run eagerly before another back end is thought of; again at every doubling."""
TRIAL_SHARE = 0.05
"""Share of the time that the rest of the job would take eagerly which a trial may cost."""
EXPECTED_START: Mapping[Engine, float] = {"compile": 45.0, "onnx": 10.0, "openvino": 3.0}
"""Seconds that a back end takes to start, where it was never tried here: more than was ever seen, so that a trial
costs less than it may."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a back end takes: ``start`` seconds once, ``each`` a picture, and eager ``eager`` a picture beside it."""

    start: float
    each: float
    eager: float

    def gain(self, pictures: float) -> float:
        """Seconds that it saves over so many pictures, one after the other."""
        return pictures * (self.eager - self.each) - self.start


def worth_trying(engine: Engine, eager_seconds: float, pictures: float) -> bool:
    """Whether a back end that was never measured here may be tried, with so many pictures still to come."""
    return EXPECTED_START[engine] <= TRIAL_SHARE * pictures * eager_seconds


class Network:
    """A generator ready for pictures; its arithmetic and back end are chosen when the first ones are seen.

    Calls from several threads are allowed.

    Args:
        generator: in fp32; is put into eval mode.
        precision: ``auto`` measures (see :func:`cgpipe.engine.precision.choose_precision`).
        engine: ``auto`` runs eagerly, and changes to another back end for a size of which so many pictures are still
            to come that its start pays, by what was measured on this machine.

    Raises:
        UsageError: the device has no such arithmetic, or the back end does not run there.
        MissingDependencyError: the back end needs a package that is not installed.
    """

    def __init__(
        self, generator: Generator, device: torch.device, *, precision: Precision = "auto", engine: Engine = "auto"
    ) -> None:
        check_precision(precision, device)
        check_engine(engine, device)
        if device.type == "cpu":
            keep_freed_memory()
        generator = generator.eval().requires_grad_(False)
        self._generator = rewrite(generator, device).to(device)
        self.precision: Precision = "fp32" if engine == "onnx" and precision == "auto" else precision
        """What it is computed in; ``auto`` until the first picture."""
        self.engine: Engine = engine
        """What runs it; for ``auto``, what ran the last picture."""
        self.reasons: dict[str, str] = {}
        """Why, for what was left to choose."""
        self.left: int | None = None
        """How many pictures are still to come; who knows it keeps it up to date."""
        self.auto = engine == "auto"
        """Whether the back end is left to it."""
        self._threads = torch.get_num_threads()
        self._ready = False
        self._runs: dict[tuple[Engine, int], Run] = {}
        self._chosen: dict[tuple[int, ...], Engine] = {}
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._fastest: dict[tuple[int, ...], float] = {}
        self._lock = Lock()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Runs (N, 3, H, W) in [-1, 1] on the device, sides as the network takes them; float32 in and out."""
        with self._lock:
            run = self._run_for(x)
        started = time.perf_counter()
        result = run(x.to(dtype=DTYPES[self.precision], memory_format=torch.channels_last)).float()
        shape = tuple(x.shape)
        self._fastest[shape] = min(self._fastest.get(shape, math.inf), time.perf_counter() - started)
        return result

    def _run_for(self, x: torch.Tensor) -> Run:
        if not self._ready:
            self._choose_precision(x)
            self._ready = True
        shape = tuple(x.shape)
        before = self._seen[shape]
        self._seen[shape] += len(x)
        if self.auto:
            self.engine = self._chosen.get(shape, "eager")
            if self.left and self.engine == "eager" and _passes_a_look(before, self._seen[shape]):
                self.engine = self._chosen[shape] = self._choose_engine(x)
        return self._prepared(self.engine)

    def _choose_precision(self, x: torch.Tensor) -> None:
        if self.precision == "auto":
            self.precision, self.reasons["precision"] = choose_precision(self._generator, x)
        self._generator = cast(self._generator, DTYPES[self.precision])

    def _prepared(self, engine: Engine) -> Run:
        # In a lane torch has one thread, outside of it all: what a back end is told of threads differs.
        key = (engine, 0 if engine == "eager" else torch.get_num_threads())
        if key not in self._runs:
            self._runs[key] = prepare(self._generator, engine)
        return self._runs[key]

    def _choose_engine(self, x: torch.Tensor) -> Engine:
        """What will run the rest of the pictures of this size."""
        left = self._left(tuple(x.shape))
        # In lanes so many pictures are under way at once.
        turns = left * torch.get_num_threads() / self._threads
        x = x.to(dtype=DTYPES[self.precision], memory_format=torch.channels_last)
        key = f"{self.precision}: {trial_key(self._generator, x.device, x.shape)}"
        best, gain = "eager", 0.0
        for engine in others_here(x.device):
            if engine == "compile" and torch.get_num_threads() < self._threads:
                continue  # In lanes nothing runs compiled: they would share what is compiled for one of them.
            cost = self._cost(engine, x, turns, key)
            if cost and cost.gain(turns) > gain:
                best, gain = engine, cost.gain(turns)
                self.reasons["engine"] = (
                    f"{engine} takes {1000 * cost.each:.1f} ms a picture, eager {1000 * cost.eager:.1f}, and starts in "
                    f"{cost.start:.1f} s: {gain:.0f} s saved over {left} pictures"
                )
        if best == "eager":
            self.reasons["engine"] = f"nothing installed here would save time over the {left} pictures still to come"
        return best  # type: ignore[return-value]

    def _left(self, shape: tuple[int, ...]) -> int:
        """How many pictures of a shape are still to come, if the rest is mixed as what was seen."""
        total = sum(self._seen.values())
        return round((self.left or 0) * self._seen[shape] / total) if total else 0

    def _cost(self, engine: Engine, x: torch.Tensor, turns: float, key: str) -> Cost | None:
        match recall(f"{engine}, {key}"):
            case [start, each, eager]:
                return Cost(start=start, each=each, eager=eager)
        if not worth_trying(engine, self._eager_seconds(x), turns):
            return None
        cost = self._try(engine, x, timed(lambda: self._prepared("eager")(x), x.device) / len(x))
        remember(f"{engine}, {key}", [cost.start, cost.each, cost.eager])
        return cost

    def _eager_seconds(self, x: torch.Tensor) -> float:
        """Seconds a picture, from the runs so far; measured for a GPU, whose work goes on after a call."""
        seen = self._fastest.get(tuple(x.shape)) if x.device.type == "cpu" else None
        return (seen or timed(lambda: self._prepared("eager")(x), x.device)) / len(x)

    def _try(self, engine: Engine, x: torch.Tensor, eager: float) -> Cost:
        """Starts a back end and times it; one that fails, or gives another result, is as slow as can be."""
        started = time.perf_counter()
        never = Cost(start=1e9, each=eager, eager=eager)
        try:
            run = self._prepared(engine)
            result = run(x)
            start = time.perf_counter() - started
            each = timed(lambda: run(x), x.device) / len(x)
        except Exception as error:  # whatever a foreign library raises: eager still works
            warnings.warn(
                f"{engine} does not run this network ({error}): going on eagerly.", CgpipeWarning, stacklevel=2
            )
            return never
        difference = float((result.float() - self._prepared("eager")(x).float()).abs().mean()) / 2
        return Cost(start=start, each=each, eager=eager) if difference <= TOLERANCE else never

    def describe(self) -> dict[str, Any]:
        """What was chosen and why, for a report."""
        return {"precision": self.precision, "engine": self.engine} | (
            {"why": dict(self.reasons)} if self.reasons else {}
        )


def _passes_a_look(before: int, after: int) -> bool:
    """Whether a count reaches 8, 16, 32 and so on in this step."""
    return after >= FIRST_LOOK and (after // FIRST_LOOK).bit_length() != (before // FIRST_LOOK).bit_length()
