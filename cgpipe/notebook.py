"""Output in notebooks: a progress bar, and tables for reports and translators."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from html import escape
from importlib.util import find_spec
from types import TracebackType
from typing import Protocol, Self


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel: Jupyter, JupyterLab, Colab, VS Code."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and hasattr(shell, "kernel")


class Bar(Protocol):
    """The part of tqdm that is used."""

    n: float

    def update(self, count: int) -> object: ...

    def clear(self) -> None: ...

    def close(self) -> None: ...


class CountedBar:
    """Counts finished items, on a bar where one is drawn; a context manager that takes it away."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._count = 0

    def advance(self, count: int = 1) -> None:
        """Adds ``count``."""
        self._count += count
        self._show(self._count)

    def part(self, share: float) -> None:
        """Shows that a share of the next item is done, 0 to 1; the bar never goes back."""
        if self._bar is not None:
            self._show(max(self._bar.n, self._count + round(min(share, 0.99), 2)))

    def _show(self, count: float) -> None:
        if self._bar is not None:
            self._bar.n = count
            self._bar.update(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class ProgressBar(CountedBar):
    """A progress bar: a widget in a notebook with ipywidgets, else text on standard error.

    Args:
        unit: what is counted, in the singular.
        shown: whether it is shown; None: only in a notebook.
    """

    def __init__(self, unit: str, shown: bool | None = None) -> None:
        super().__init__()
        self._unit = unit
        self._shown = in_notebook() if shown is None else shown

    def start(self, total: int | None) -> None:
        """Starts to count to ``total``, or without a limit."""
        if not self._shown:
            return
        if in_notebook() and find_spec("ipywidgets"):
            from tqdm.notebook import tqdm
        else:
            from tqdm import tqdm
        self._bar = tqdm(total=total, unit=self._unit)


def html_table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and values, for ``_repr_html_``; rows without a value are omitted.

    All text is escaped.
    """
    cells = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{_cell(value)}</td></tr>"
        for name, value in rows
        if value not in (None, "", 0, [], ())
    )
    return f"<table><caption>{escape(title)}</caption>{cells}</table>"


def _cell(value: object) -> str:
    lines = value if isinstance(value, list | tuple) else [value]
    return "<br>".join(escape(str(line)) for line in lines)
