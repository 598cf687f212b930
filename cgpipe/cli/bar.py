"""Progress bars of jobs, downloads and training runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cgpipe.cli.terminal import Loudness, detail, escaped, loudness, say, warn
from cgpipe.notebook import Bar, CountedBar

if TYPE_CHECKING:
    from cgpipe.training.run import Progress

NARROW = 58
"""Terminal width up to which the training line has no bar and uses short names."""

SHORTEST_BAR = 10 * " "


def watched() -> bool:
    """Whether to draw a bar: standard error is a terminal, and ``--quiet`` is not given."""
    return sys.stderr is not None and sys.stderr.isatty() and loudness() > Loudness.QUIET


class CountingBar(CountedBar):
    """Counts finished items, with a rate and the time left; draws nothing without a terminal.

    Args:
        unit: what is counted, in the singular.
    """

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit
        self._model = ""

    def start(self, model: str, total: int | None) -> None:
        """Prints the model, if it is another than before, and starts to count to ``total``, or without a limit."""
        if model != self._model:
            self._model = model
            say(f"Model: {model}")
        self._bar = self._bar_to(total)

    def count(self, name: str, total: int) -> None:
        """Counts what has this name, of ``total`` in all."""
        if self._bar is None:
            self._bar = self._bar_to(total)
        self.detail(name)
        self.advance()

    def _bar_to(self, total: int | None) -> Bar | None:
        if not watched():
            return None
        from tqdm import tqdm

        bar: Bar = tqdm(total=total, unit=self._unit, dynamic_ncols=True)
        return bar

    def write(self, line: str) -> None:
        """Prints a line above the bar, even with ``--quiet``."""
        self.clear()
        warn(escaped(line, one_line=True))

    def detail(self, line: str) -> None:
        """Prints a line above the bar, with ``--verbose`` only."""
        if loudness() == Loudness.VERBOSE:
            self.clear()
            detail(line)

    def clear(self) -> None:
        """Takes the bar away until it counts on, so that something can be written above it."""
        if self._bar is not None:
            self._bar.clear()


class ByteBar:
    """Progress of a download; draws nothing without a terminal.

    Args:
        name: of the download.
    """

    def __init__(self, name: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(desc=escaped(name), unit="B", unit_scale=True, disable=not watched(), dynamic_ncols=True)

    def show(self, there: int, total: int | None) -> None:
        """Shows that ``there`` bytes have arrived, of ``total`` if that is known."""
        self._bar.total = total
        self._bar.update(there - self._bar.n)

    def __enter__(self) -> ByteBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()


class TrainingBar:
    """Progress of a training run; draws nothing without a terminal, or if another process does.

    Args:
        quiet: draw nothing.
        log_every: steps between the lines of ``--verbose``.
    """

    def __init__(self, *, quiet: bool = False, log_every: int = 0) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit="step", disable=quiet or not watched(), dynamic_ncols=True)
        self._log_every = 0 if quiet else log_every

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, progress: Progress) -> None:
        """Shows a step."""
        if self._bar.total is None:
            self._bar.total, self._bar.initial, self._bar.n = progress.total_steps, progress.step - 1, progress.step - 1
        if not self._bar.disable:
            self._bar.bar_format = self._line(progress, self._bar.format_dict["ncols"] or 79)
        self._bar.update(1)
        for warning in progress.warnings:
            self._bar.clear()
            warn(f"Warning: {warning}")
        if self._log_every and progress.step % self._log_every == 0 and loudness() == Loudness.VERBOSE:
            self._bar.clear()
            losses = ", ".join(_told(progress.losses))
            detail(f"Step {progress.step} of {progress.total_steps}, epoch {progress.epoch}: {losses}")

    def _line(self, progress: Progress, columns: int) -> str:
        """A line of at most ``columns``: as many losses as fit, with short names if necessary."""
        rate, steps, wide = self._steps_a_second(), progress.total_steps, columns > NARROW
        left = self._bar.format_interval((steps - progress.step) / max(rate, 1e-9))
        parts = [f"{progress.step}/{steps}", f"{left} left" if wide else left]
        parts.append(f"{rate * progress.pictures:.3g}{' pictures' if wide else ''}/s")
        begin, comma = ("{percentage:3.0f}%|{bar}| ", ", ") if wide else ("{percentage:3.0f}% ", " ")
        room = columns - len(f"100%|{SHORTEST_BAR}| " if wide else "100% ")
        whole, short = _told(progress.losses), _told(progress.losses, short=True)
        losses = whole if len(comma.join([*parts, *whole])) <= room else short
        while losses and len(comma.join([*parts, *losses])) > room:
            losses.pop()
        return begin + comma.join([*parts, *losses])

    def _steps_a_second(self) -> float:
        now = self._bar.format_dict
        return float(now["rate"] or (now["n"] - now["initial"]) / max(now["elapsed"], 1e-9))


class LearningBar:
    """The line that shows how a look is learned before a job begins; nothing where none is."""

    def __init__(self) -> None:
        self._bar: TrainingBar | None = None

    def __enter__(self) -> LearningBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.__exit__()

    def update(self, progress: Progress) -> None:
        """Shows a step; the line ends with the last one."""
        if self._bar is None:
            say(f"Learning the look: {progress.total_steps} steps, once.")
            self._bar = TrainingBar()
        self._bar.update(progress)
        if progress.step == progress.total_steps:
            self._bar.__exit__()


def _told(losses: Mapping[str, float], *, short: bool = False) -> list[str]:
    """Each loss with its name: ``cycle_a 1.234``, in short ``cyc_a 1.23``."""
    if short:
        return [f"{name[:3]}{name[-2:] if name[-2:-1] == '_' else ''} {loss:.2f}" for name, loss in losses.items()]
    return [f"{name} {loss:.3f}" for name, loss in losses.items()]
