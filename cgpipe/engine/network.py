"""A generator ready to run: rewritten, in the right dtype, with the chosen engine."""

from __future__ import annotations

from threading import Lock

import torch

from cgpipe.engine.autotune import DTYPES, cast, check_precision, choose_precision
from cgpipe.engine.backends import FP32_ONLY, Run, auto_engine, check_engine, prepare
from cgpipe.engine.memory import keep_freed_memory
from cgpipe.engine.rewrites import rewrite
from cgpipe.engine.vulkan import check_choices, memory_of
from cgpipe.errors import UsageError
from cgpipe.networks import Generator
from cgpipe.options import Engine, Precision

MOST_PIXELS = 1 << 20
"""Pixels of a picture up to which ncnn is chosen, which takes a batch one by one; larger ones need much more memory."""


class Network:
    """A generator ready for pictures; its dtype is chosen on the first one.

    Thread-safe.

    Args:
        generator: in fp32; switched to eval mode.
        device: what computes; for ``vulkan:N`` pictures and weights stay on the CPU.
        precision: ``auto`` chooses (see :func:`cgpipe.engine.autotune.choose_precision`).
        engine: ``auto`` is ``eager``, ``ncnn`` for Vulkan, and on a CPU what
            :func:`cgpipe.engine.backends.auto_engine` says, for pictures of up to :data:`MOST_PIXELS`.

    Raises:
        UsageError: the device does not support the dtype or the engine.
        MissingDependencyError: the engine needs a package that is not installed.
    """

    def __init__(
        self, generator: Generator, device: torch.device, *, precision: Precision = "auto", engine: Engine = "auto"
    ) -> None:
        self.device = device
        """What computes."""
        self._gpu = None if memory_of(device) == device else device.index
        if self._gpu is not None:
            check_choices(generator.runtime, precision, engine)
            engine = "ncnn"
        if generator.runtime:
            precision, engine = _of_its_own(generator.runtime, precision, engine)
        device = memory_of(device)
        check_precision(precision, device)
        check_engine(engine, device)
        keep_freed_memory()
        generator = generator.eval().requires_grad_(False)
        self._generator = generator if generator.runtime else rewrite(generator, device).to(device)
        self.precision: Precision = "fp32" if engine in FP32_ONLY and precision == "auto" else precision
        """The dtype; ``auto`` until the first picture."""
        self._may_choose = engine == "auto" and device.type == "cpu" and not generator.runtime
        self.engine: Engine = "eager" if engine == "auto" else engine
        """What runs it."""
        self.reasons: dict[str, str] = {}
        """Reasons for what was chosen automatically."""
        self._ready = False
        self._runs: dict[int, Run] = {}
        self._lock = Lock()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Runs (N, 3, H, W) in [-1, 1] on the device, with sides that the network accepts; float32 in and out."""
        return self.run(x).float()

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """The same with the result in the network's own dtype."""
        with self._lock:
            run = self._run_for(x)
        return run(x.to(dtype=DTYPES[self.precision], memory_format=torch.channels_last))

    def ready_for(self, x: torch.Tensor) -> Precision:
        """The dtype, chosen on (N, 3, H, W) in [-1, 1] if it has not been chosen yet."""
        with self._lock:
            if not self._ready:
                self._make_ready(x)
            return self.precision

    def _run_for(self, x: torch.Tensor) -> Run:
        if not self._ready:
            self._make_ready(x)
        large = self._may_choose and x.shape[2] * x.shape[3] > MOST_PIXELS
        engine: Engine = "eager" if large else self.engine
        # In a worker thread torch has one thread, outside it all: other engines are told how many.
        threads = 0 if engine == "eager" else torch.get_num_threads()
        if threads not in self._runs:
            self._runs[threads] = prepare(self._generator, engine, self._gpu)
        return self._runs[threads]

    def _make_ready(self, x: torch.Tensor) -> None:
        if self.precision == "auto":
            self.precision, self.reasons["precision"] = choose_precision(self._generator, x)
        self._generator = cast(self._generator, DTYPES[self.precision])
        if self._may_choose:
            self.engine = auto_engine(self._generator, self.precision)
        self._ready = True

    def describe(self) -> dict[str, object]:
        """The choices and their reasons, for a report."""
        return {"precision": self.precision, "engine": self.engine} | (
            {"why": dict(self.reasons)} if self.reasons else {}
        )


def _of_its_own(runtime: str, precision: Precision, engine: Engine) -> tuple[Precision, Engine]:
    """The only precision and engine of a network that another runtime runs."""
    if precision not in ("auto", "fp32"):
        raise UsageError(f"{runtime} runs this network as it is: use --precision auto, not {precision}.")
    if engine not in ("auto", "eager"):
        raise UsageError(f"{runtime} runs this network as it is: use --engine auto, not {engine}.")
    return "fp32", "eager"
