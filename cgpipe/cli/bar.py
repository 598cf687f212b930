"""The line that shows how far a job or a run is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cgpipe.training.run import Progress


class CountingBar:
    """Counts what is done, with a rate and the time left; quiet where nobody watches.

    Args:
        unit: what is counted, in the singular.
    """

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._bar: Any = None

    def start(self, model: str, total: int | None) -> None:
        """Says which model was taken and begins to count up to ``total``, or without end."""
        from tqdm import tqdm

        click.echo(f"Model: {model}", err=True)
        self._bar = tqdm(total=total, unit=self.unit, disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def advance(self, count: int = 1) -> None:
        """Counts ``count`` more."""
        if self._bar is not None:
            self._bar.update(count)

    def write(self, line: str) -> None:
        """Writes a line above the bar."""
        if self._bar is not None:
            self._bar.clear()
        click.echo(line, err=True)

    def __enter__(self) -> CountingBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()


class ByteBar:
    """Shows how far a download is; quiet where nobody watches.

    Args:
        name: of what is downloaded.
    """

    def __init__(self, name: str) -> None:
        from tqdm import tqdm

        quiet = not sys.stderr.isatty()
        self._bar = tqdm(desc=name, unit="B", unit_scale=True, disable=quiet, dynamic_ncols=True)

    def show(self, there: int, total: int | None) -> None:
        """Shows that ``there`` bytes are there, of ``total`` where that is known."""
        self._bar.total = total
        self._bar.update(there - self._bar.n)

    def __enter__(self) -> ByteBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()


class TrainingBar:
    """The line that shows how a run goes; silent where nobody watches, or where another process shows it."""

    def __init__(self, *, quiet: bool = False) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit="step", disable=quiet or not sys.stderr.isatty(), dynamic_ncols=True)

    def __enter__(self) -> TrainingBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, progress: Progress) -> None:
        """Shows a step."""
        if self._bar.total is None:
            self._bar.total, self._bar.initial, self._bar.n = progress.total_steps, progress.step - 1, progress.step - 1
        self._bar.update(1)
        for warning in progress.warnings:
            self._bar.clear()
            click.echo(f"Warning: {warning}", err=True)
        if not self._bar.disable:
            shown = [f"{self._steps_a_second() * progress.pictures:.3g} pictures/s"]
            shown += [f"{name} {loss:.3f}" for name, loss in progress.losses.items()]
            self._bar.set_postfix_str(", ".join(shown), refresh=False)

    def _steps_a_second(self) -> float:
        now: dict[str, Any] = self._bar.format_dict
        return float(now["rate"] or (now["n"] - now["initial"]) / max(now["elapsed"], 1e-9))
