"""Tables of figures, as Markdown for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""Values by column; what has no column of its name is only in the JSON."""

REPORT = "speed.md"
PAGE = "quick.md"


@dataclass(frozen=True)
class Aim:
    """Something that is to be reached: ``value`` at least ``bound``, or at most; both printed by ``form``."""

    what: str
    value: float
    bound: float
    form: str = ".2f"
    at_most: bool = False

    @property
    def reached(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        side, verdict = "most" if self.at_most else "least", "reached" if self.reached else "missed"
        return f"{self.what}: {self.value:{self.form}}, to be at {side} {self.bound:{self.form}}: {verdict}."


@dataclass(kw_only=True)
class Table:
    """One table.

    Args:
        title: what is measured, in a few words.
        columns: how the values of each are printed, as a format specification.
        rows: what was measured.
        notes: sentences below it: how it was measured, what was left out and why.
        aims: what was to be reached.
    """

    title: str
    columns: Mapping[str, str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)

    def markdown(self) -> str:
        """Heading, table, aims and notes."""
        lines = [f"### {self.title}", "", _line(self.columns), "|---" * len(self.columns) + "|"]
        lines += [_line(_cell(row.get(name), form) for name, form in self.columns.items()) for row in self.rows]
        lines += ["", *(f"- {note}" for note in [*self.aims, *self.notes])]
        return "\n".join(lines).rstrip() + "\n"


def write_results(folder: Path, name: str, tables: list[Table], machine: Mapping[str, str], command: str) -> None:
    """Writes ``<name>.json``, and from all such files in the folder :data:`REPORT` anew."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "command": command,
        "machine": machine,
        "tables": [asdict(table) | {"markdown": table.markdown()} for table in tables],
    }
    (folder / f"{name}.json").write_text(json.dumps(contents, indent=1), encoding="utf-8")
    (folder / REPORT).write_text(report(sorted(folder.glob("*.json"))), encoding="utf-8")


def write_page(folder: Path, tables: list[Table], machine: Mapping[str, str], left_out: list[str]) -> Path:
    """One page with the machine, the date, the versions and every table, which a user can send."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    parts = ["# Speed of cgpipe on one machine\n", "`bin/bench --quick`; one run of each way, in turn.\n"]
    parts += ["".join(f"- {name}: {value}\n" for name, value in machine.items())]
    parts += [table.markdown() for table in tables]
    parts += [f"Left out: {', '.join(left_out)}.\n"] * bool(left_out)
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def report(files: Iterable[Path]) -> str:
    """One Markdown page of several results, each with its machine and the command that repeats it."""
    parts = ["# Speed\n", "Made by `bin/bench`; every figure is the median of runs that were made in turn.\n"]
    for path in files:
        contents = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"## {path.stem}\n")
        parts.append(f"`{contents['command']}`: {'; '.join(contents['machine'].values())}.\n")
        parts += [table["markdown"] for table in contents["tables"]]
    return "\n".join(parts)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object, form: str) -> str:
    return "" if value is None else format(value, "" if isinstance(value, str) else form)
