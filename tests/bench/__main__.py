"""Benchmarks: how fast cgpipe is here, beside other ways to do the same and beside the machine's limits."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parent.parent))  # the plainly written networks of the tests

import torch
from machine import describe_machine
from measure import tell
from results import REPORT, Table, write_page, write_results
from settings import CannotMeasureError, Settings
from tables import QUICK, TABLES, chosen

PAGE_SECONDS = 300.0


def main() -> None:
    """Makes the tables that are asked for, prints them as Markdown and writes them to a folder."""
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("table", nargs="?", help="one table, or the first word of several; by default all")
    parser.add_argument("clip", nargs="?", type=Path, help="a video of your own, in place of one that is made")
    parser.add_argument("--clip", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, metavar="FOLDER", help="pictures of your own, likewise")
    parser.add_argument("--runs", type=int, metavar="N", help="runs of each way; by default each table's own number")
    parser.add_argument("--cuda", action="store_true", help="on the GPU")
    parser.add_argument("--quick", action="store_true", help="the most telling tables on one page, in five minutes")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it works; the figures say nothing")
    parser.add_argument("--list", action="store_true", help="name the tables")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("bench-results"), metavar="FOLDER", help="[default: bench-results]"
    )
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(TABLES))
        return
    names = list(QUICK) if asked.quick and not asked.table else chosen(asked.table)
    if not names:
        parser.error(f"there is no table {asked.table!r}: choose one of {', '.join(TABLES)}")
    if asked.cuda and not torch.cuda.is_available():
        parser.error("--cuda: torch finds no GPU here")
    for path in (asked.clip, asked.dataset):
        if path and not path.exists():
            parser.error(f"{path} does not exist")
    device = torch.device("cuda" if asked.cuda else "cpu")
    machine = describe_machine(device)
    print("; ".join(machine.values()), end="\n\n")
    sys.exit((_make_page if asked.quick else _make_tables)(names, asked, device, machine))


def _make_tables(names: list[str], asked: argparse.Namespace, device: torch.device, machine: Mapping[str, str]) -> int:
    """Every table at its full size, each in a file of its own; the exit code."""
    failed = False
    for name in names:
        try:
            tables = _measured(name, asked, device)
        except CannotMeasureError as error:
            tell(f"{name} cannot be measured: {error}")
            failed = True
            continue
        write_results(asked.output, f"{name}-cuda" if asked.cuda else name, tables, machine, _command(name, asked))
    tell(f"Written to {asked.output / REPORT}")
    return int(failed)


def _make_page(names: list[str], asked: argparse.Namespace, device: torch.device, machine: Mapping[str, str]) -> int:
    """One page within :data:`PAGE_SECONDS`, or little more; tables for which there is no time are left out."""
    started, tables, left_out = time.monotonic(), list[Table](), list[str]()
    for number, name in enumerate(names, 1):
        if tables and time.monotonic() - started > 0.8 * PAGE_SECONDS:
            left_out.append(f"{name} (no time was left)")
            continue
        try:
            tables += _measured(name, asked, device, started + PAGE_SECONDS * number / (len(names) + 2))
        except CannotMeasureError as error:
            left_out.append(f"{name} ({error})")
    page = write_page(asked.output, tables, machine, left_out)
    tell(f"Written to {page}: the machine, the versions and the tables, and nothing that names you or your files.")
    return int(not tables)


def _measured(name: str, asked: argparse.Namespace, device: torch.device, until: float | None = None) -> list[Table]:
    """One table, printed too."""
    tell(f"{name}:")
    with tempfile.TemporaryDirectory(prefix="cgpipe-bench-") as folder:
        settings = Settings(
            folder=Path(folder),
            device=device,
            runs=asked.runs,
            tiny=asked.tiny,
            until=until,
            dataset=asked.dataset,
            clip=asked.clip,
        )
        tables = TABLES[name](settings)
    for table in tables:
        print(table.markdown())
    return tables


def _command(name: str, asked: argparse.Namespace) -> str:
    """What repeats one table; files and folders by name only."""
    given = {"--clip": asked.clip and asked.clip.name, "--dataset": asked.dataset and asked.dataset.name}
    given |= {"--runs": asked.runs, "--cuda": asked.cuda, "--tiny": asked.tiny}
    words = ["bin/bench", name]
    for option, value in given.items():
        words += [option] * bool(value) + [str(value)] * (bool(value) and value is not True)
    return " ".join(words)


if __name__ == "__main__":
    main()
