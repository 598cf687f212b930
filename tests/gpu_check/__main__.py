"""Runs every part in a process of its own, under its own limit of time, and writes one report of all."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PASSED = HERE / "passed.txt"
FROM_OUTSIDE = "ended from outside"

LIMITS = {
    "tests": 90,
    "one": 45,
    "folder": 60,
    "resnet": 40,
    "start": 35,
    "video": 40,
    "train": 40,
    "machine": 30,
    "train-resnet": 30,
    "compile": 60,
}
"""Seconds that each part may take; what it has found by then is kept."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the report goes")
    parser.add_argument("--dry-run", action="store_true", help="all of it tiny and on the CPU")
    parser.add_argument("--only", default=",".join(LIMITS), help="parts, with commas between them")
    parser.add_argument("--seconds", type=float, default=235, help="after which no other part begins")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    # Whoever ends this by a limit of his own gets a report of what there is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    report: dict[str, Any] = {}
    for part in chosen.only.split(","):
        left = 3600.0 if chosen.dry_run else chosen.seconds - (time.monotonic() - began)
        if left < 5:
            report[part] = {"rows": [], "error": "no time was left"}
            continue
        limit = 600.0 if chosen.dry_run else min(LIMITS[part], left)
        report[part] = run(part, limit, chosen.folder, dry=chosen.dry_run)
        print(f"{part}: {report[part]['seconds']} s {report[part].get('error', '')}", flush=True)
        (chosen.folder / "report.json").write_text(json.dumps(report, indent=1))
        (chosen.folder / "report.md").write_text(markdown(report))
        if part == "tests":
            (chosen.folder / PASSED.name).write_text(passed_by_now(report[part]["rows"]))
        if report[part].get("error") == FROM_OUTSIDE:
            break
    print(markdown(report))


def run(part: str, limit: float, folder: Path, *, dry: bool) -> dict[str, Any]:
    """One part; what it wrote as rows, and how it ended. Both files lie in the folder while it runs."""
    began = time.monotonic()
    rows, log = folder / f"{part}.jsonl", folder / f"{part}.log"
    rows.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(HERE / "parts.py"), part, scratch, str(rows.resolve())]
        code = end_of([*command, "--dry"] if dry else command, limit, log)
    result: dict[str, Any] = {"rows": without_ended(read(rows)), "seconds": round(time.monotonic() - began, 1)}
    if code:
        result |= {"error": str(code), "log": log.read_text(errors="replace")[-3000:]}
    return result


def end_of(command: list[str], limit: float, log: Path) -> int | str:
    """How a command ended, or was ended with all that it had started."""
    process = None
    try:
        with log.open("w") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
            return process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    except KeyboardInterrupt:
        return FROM_OUTSIDE
    finally:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def read(rows: Path) -> list[dict[str, Any]]:
    """The rows of a file; what was cut off in the middle of one is left out."""
    lines = rows.read_text().splitlines() if rows.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def without_ended(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without the tests that were under way and have ended since."""
    ended = {row["test"] for row in rows if row["table"] == "tests"}
    return [row for row in rows if row["table"] != "under way" or row["test"] not in ended]


def passed_by_now(rows: list[dict[str, Any]]) -> str:
    """The tests that have passed on a GPU, one a line: this time, or before and not failed since."""
    results = {row["test"]: row["result"] for row in rows if row["table"] == "tests"}
    before = {test for test in PASSED.read_text().splitlines() if results.get(test, "skipped") == "skipped"}
    return "".join(f"{test}\n" for test in sorted(before | {t for t, result in results.items() if result == "passed"}))


def markdown(report: dict[str, Any]) -> str:
    """The report as tables, one a part."""
    lines = ["# On a GPU", ""]
    for part, result in report.items():
        lines += [f"## {part}", ""]
        for table in dict.fromkeys(row["table"] for row in result["rows"]):
            rows = [{k: v for k, v in row.items() if k != "table"} for row in result["rows"] if row["table"] == table]
            columns = list(dict.fromkeys(key for row in rows for key in row))
            lines += [f"{table}:", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += [f"| {' | '.join(_cell(row.get(column)) for column in columns)} |" for row in rows]
            lines.append("")
        if "error" in result:
            lines += [f"Ended with: {result['error']}", "", "```", *result.get("log", "").splitlines()[-12:], "```", ""]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else " ".join(str(value).replace("|", "/").split())[:700]


if __name__ == "__main__":
    main()
