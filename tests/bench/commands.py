"""Whole commands, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from settings import CannotMeasureError


def run(*arguments: object) -> str:
    """Runs Python with these arguments and gives what it printed.

    Raises:
        CannotMeasureError: it failed.
    """
    finished = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    if finished.returncode:
        raise CannotMeasureError(f"{' '.join(map(str, arguments))}: {finished.stderr.strip() or finished.stdout}")
    return finished.stdout


def cgpipe(*arguments: object, report: Path) -> dict[str, Any]:
    """Runs a command of cgpipe and gives its report."""
    run("-m", "cgpipe", *arguments, "--json", report)
    return dict(json.loads(report.read_text(encoding="utf-8")))
