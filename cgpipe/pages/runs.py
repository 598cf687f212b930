"""Pages of training runs: curves, grids over time, metrics, settings; of one run, or a comparison of several."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from cgpipe.errors import UsageError
from cgpipe.pages.page import Page, readable, rows_of

METRICS, RECIPE = "metrics.jsonl", "recipe.toml"
PAGE = "run.html"
"""The page in a run's folder."""

POINTS = 600
"""Most points of a curve; with more, neighbours are averaged."""

_NO_CURVE = frozenset(("step", "epoch", "time", "seconds_a_step"))
_GRID = re.compile(r"(.+)-(\d{4,})\.jpg")
_PLACES = ("checkpoint_dir", "results_dir")

Curve = list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The record of a run, read from its folder.

    Args:
        folder: the run's folder.
        recipe: its settings by name.
        step, epoch: its progress.
        seconds: time spent on steps.
        curves: logged steps and values, by name.
        epochs: the first logged step of each epoch.
        warnings: warnings, with their steps.
    """

    folder: Path
    recipe: Mapping[str, Any]
    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    curves: Mapping[str, Curve] = field(default_factory=dict)
    epochs: Mapping[int, int] = field(default_factory=dict)
    warnings: tuple[tuple[int, str], ...] = ()

    @property
    def losses(self) -> dict[str, float]:
        """The latest value of every loss."""
        return {name: curve[-1][1] for name, curve in self.curves.items() if curve and not _is_figure(name)}

    @property
    def kid(self) -> dict[str, float]:
        """The best KID x1000 of every measured model."""
        return {name[10:]: min(value for _, value in curve) for name, curve in self.curves.items() if _is_kid(name)}

    def figures(self) -> list[tuple[str, str]]:
        """The rows at the top of the page."""
        rate = f"{self.step / self.seconds:.2f}" if self.seconds else ""
        told = [("Steps", f"{self.step:,}"), ("Epochs", f"{self.epoch:,}"), ("Hours", f"{self.seconds / 3600:.2f}")]
        told += [("Steps a second", rate)] if rate else []
        return told + [(f"Best {words}, {name}", text) for words, name, text in self._best()]

    def _best(self) -> Iterator[tuple[str, str, str]]:
        """The best value of every figure that was measured: what it is, of which model, and the value."""
        for name, curve in self.curves.items():
            for start, (words, best, digits) in _FIGURES.items():
                if name.startswith(start):
                    yield words, name.removeprefix(start), f"{best(value for _, value in curve):.{digits}f}"


_FIGURES: Mapping[str, tuple[str, Callable[[Iterable[float]], float], int]] = {
    "kid_x1000_": ("KID x1000", min, 1),
    "psnr_": ("PSNR in dB", max, 2),
    "ssim_": ("SSIM", max, 4),
    "l1_of_255_": ("L1 of 255", min, 2),
}
"""What ``--watch-every`` measures, by how its names begin: words for it, which is the best, and digits."""


def _is_kid(name: str) -> bool:
    return name.startswith("kid_x1000_")


def _is_figure(name: str) -> bool:
    return name.startswith(tuple(_FIGURES)) or name == "learning_rate"


# -- reading -----------------------------------------------------------------------------------------------------------


def find_runs(folder: Path) -> list[RunRecord]:
    """The runs in a folder and below, by name.

    Raises:
        UsageError: the folder is missing or holds no run.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: name one that holds runs.")
    found = sorted({path.parent for path in folder.rglob(METRICS)})
    if not found:
        raise UsageError(f"{folder} holds no run: every run of `cgpipe train` leaves {METRICS} in its folder.")
    return [read_run(path) for path in found]


def read_run(folder: Path) -> RunRecord:
    """Reads a run's record; damaged or missing parts are omitted."""
    step = epoch = 0
    seconds, last = 0.0, 0
    curves: dict[str, Curve] = {}
    epochs: dict[int, int] = {}
    warnings: list[tuple[int, str]] = []
    for line in _lines(folder / METRICS):
        step, epoch = line["step"], int(line.get("epoch") or 0)
        epochs.setdefault(epoch, step)
        if isinstance(taken := line.get("seconds_a_step"), int | float):
            seconds += max(0, step - last) * taken
            last = step
        if "warning" in line:
            warnings.append((step, str(line["warning"])))
        for name, value in line.items():
            if name not in _NO_CURVE and isinstance(value, int | float):
                curves.setdefault(name, []).append((step, float(value)))
    return RunRecord(
        folder=folder,
        recipe=_recipe(folder / RECIPE),
        step=step,
        epoch=epoch,
        seconds=seconds,
        curves=curves,
        epochs=epochs,
        warnings=tuple(warnings),
    )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            with suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict) and type(line.get("step")) is int:
                    yield line


def _recipe(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return tomllib.loads(path.read_text(encoding="utf-8"))
    return {}


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """The settings that differ between runs, apart from folders."""
    names = dict.fromkeys(name for run in runs for name in run.recipe if name not in _PLACES)
    return [name for name in names if any(run.recipe.get(name) != runs[0].recipe.get(name) for run in runs)]


# -- one run -----------------------------------------------------------------------------------------------------------


def write_run(folder: Path) -> Path:
    """Writes the page of the run in ``folder``, and returns its path.

    Raises:
        UsageError: a page that cgpipe did not make is in its place.
        MediaError: it cannot be written.
    """
    run, page = read_run(folder), Page(folder / PAGE)
    page.claim(pictures=False)
    grids = list(_grids(page, Path(run.recipe.get("results_dir") or folder / "results")))
    pair = " to ".join(str(run.recipe[name]) for name in ("source", "target") if run.recipe.get(name))
    tables = [("Settings", rows_of(run.recipe))]
    tables += [("Warnings", [(f"Step {step:,}", text) for step, text in run.warnings])] if run.warnings else []
    page.write(
        "run.html",
        title=readable(folder.resolve().name),
        lead=f"{'distilled' if run.recipe.get('teacher') else 'trained'} · {pair}" if pair else "",
        notice="",
        figures=run.figures(),
        runs=[],
        tables=tables,
        data={"runs": [_drawn("", run)], "grids": grids, "epochs": sorted(run.epochs.items())},
    )
    return page.path


def _drawn(name: str, run: RunRecord) -> dict[str, Any]:
    return {"name": name, "curves": {curve: _thinned(points) for curve, points in run.curves.items()}}


def _thinned(points: Curve) -> Curve:
    if len(points) <= POINTS:
        return points
    size = -(-len(points) // POINTS)
    parts = [points[first : first + size] for first in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _grids(page: Page, folder: Path) -> Iterator[dict[str, Any]]:
    """Sample grids by name, in order of step."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.glob("*.jpg")):
        if parts := _GRID.fullmatch(path.name):
            found.setdefault(readable(parts[1]), []).append((int(parts[2]), path))
    for name, paths in found.items():
        yield {"name": name, "at": [at for at, _ in paths], "from": [page.address(path) for _, path in paths]}


# -- several runs ------------------------------------------------------------------------------------------------------


def names_of(runs: Sequence[RunRecord], folder: Path) -> list[str]:
    """Names of the runs: their paths relative to the folder."""
    return [readable(run.folder.relative_to(folder)) if run.folder != folder else folder.resolve().name for run in runs]


def table_of(runs: Sequence[RunRecord], folder: Path) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each run: steps, hours, KID, losses, and differing settings."""
    settings = differing(runs)
    headings = ["run", "steps", "hours", "KID x1000", *settings, "losses"]
    rows = []
    for name, run in zip(names_of(runs, folder), runs, strict=True):
        kid = ", ".join(f"{value:.1f}" for value in run.kid.values())
        losses = ", ".join(f"{loss} {value:.3g}" for loss, value in run.losses.items())
        told = [_short(run.recipe.get(setting)) for setting in settings]
        rows.append([name, f"{run.step:,}", f"{run.seconds / 3600:.2f}", kid, *told, losses])
    return headings, rows


def _short(value: object) -> str:
    """A setting in a table; for a path, its name."""
    text = dict(rows_of({"x": value})).get("X", "")
    return Path(text).name if "/" in text or "\\" in text else text


def to_text(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in plain text; the last column is not padded."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    aligned = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
    return "\n".join(aligned)


def to_json(runs: Sequence[RunRecord], folder: Path) -> list[dict[str, Any]]:
    """The same as JSON values, with the whole recipe."""
    return [
        {
            "run": name,
            "folder": readable(run.folder),
            "step": run.step,
            "epoch": run.epoch,
            "seconds": round(run.seconds, 1),
            "kid_x1000": run.kid,
            "losses": run.losses,
            "recipe": dict(run.recipe),
        }
        for name, run in zip(names_of(runs, folder), runs, strict=True)
    ]


def write_runs(runs: Sequence[RunRecord], folder: Path, path: Path) -> None:
    """Writes a page that compares the runs.

    Raises:
        UsageError: a page that cgpipe did not make is in its place, or the path is not a page's name.
        MediaError: it cannot be written.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{path} is not a page's name: use one such as runs.html.")
    page = Page(path)
    page.claim(pictures=False)
    headings, rows = table_of(runs, folder)
    names = names_of(runs, folder)
    links = [page.address(run.folder / PAGE) if (run.folder / PAGE).is_file() else "" for run in runs]
    spent = timedelta(seconds=round(sum(run.seconds for run in runs)))
    page.write(
        "run.html",
        title=f"Runs in {readable(folder.resolve().name)}",
        lead=f"{len(runs)} run{'s' * (len(runs) != 1)}, {spent} in all",
        notice="",
        figures=[],
        headings=headings,
        runs=list(zip(rows, links, strict=True)),
        tables=[],
        data={"runs": [_drawn(name, run) for name, run in zip(names, runs, strict=True)], "grids": [], "epochs": []},
    )


def write_figures(folder: Path, title: str, lead: str, tables: Sequence[tuple[str, list[tuple[str, str]]]]) -> Path:
    """Writes the page of an evaluation to the folder of its grids, and returns its path.

    Raises:
        UsageError: a page that cgpipe did not make is in its place.
        MediaError: it cannot be written.
    """
    page = Page(folder / "figures.html")
    page.claim(pictures=False)
    figures, *rest = tables
    grids = list(_grids(page, folder))
    page.write(
        "run.html",
        title=title,
        lead=lead,
        notice="",
        figures=figures[1],
        runs=[],
        tables=rest,
        data={"runs": [], "grids": grids, "epochs": []},
    )
    return page.path
