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

LIMITS = {
    "one": 45,
    "folder": 60,
    "tests": 60,
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
    began = time.monotonic()
    report: dict[str, Any] = {}
    for part in chosen.only.split(","):
        left = 3600.0 if chosen.dry_run else chosen.seconds - (time.monotonic() - began)
        if left < 5:
            report[part] = {"rows": [], "error": "no time was left"}
            continue
        limit = 600.0 if chosen.dry_run else min(LIMITS[part], left)
        report[part] = run(part, limit, dry=chosen.dry_run)
        print(f"{part}: {report[part]['seconds']} s {report[part].get('error', '')}", flush=True)
        (chosen.folder / "report.json").write_text(json.dumps(report, indent=1))
        (chosen.folder / "report.md").write_text(markdown(report))
    print(markdown(report))


def run(part: str, limit: float, *, dry: bool) -> dict[str, Any]:
    """One part; what it printed as rows, and how it ended."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        command = [sys.executable, str(HERE / "parts.py"), part, folder, str(rows), *(["--dry"] if dry else [])]
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            try:
                code: Any = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = f"stopped after {limit:.0f} s"
            # Whatever it started goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.seek(0)
            said = log.read()
        found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    result: dict[str, Any] = {"rows": found, "seconds": round(time.monotonic() - began, 1)}
    if code:
        result |= {"error": str(code), "log": said[-3000:]}
    return result


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
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


if __name__ == "__main__":
    main()
