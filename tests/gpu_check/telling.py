"""A plugin of pytest that writes down each test as it begins and ends, so that what is stopped loses no name.

The file is named by the environment variable GPU_CHECK_ROWS. Tests that are not in passed.txt run first.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

PASSED = Path(__file__).with_name("passed.txt")
"""Tests that have passed on a GPU; a run of gpu-check leaves the list as it is then in the folder of its report."""


def tell(table: str, **cells: object) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # the process that started this one is told too
        return
    with Path(os.environ["GPU_CHECK_ROWS"]).open("a") as file:
        file.write(json.dumps({"table": table, **cells}) + "\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    passed = PASSED.read_text().splitlines()
    items.sort(key=lambda item: item.name in passed)


def pytest_runtest_logstart(nodeid: str) -> None:
    tell("under way", test=_name(nodeid))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        result = report.outcome if report.when == "call" or report.skipped else f"failed in {report.when}"
        tell("tests", test=_name(report.nodeid), result=result, seconds=round(report.duration, 2), why=_why(report))


def _name(nodeid: str) -> str:
    return nodeid.rpartition("::")[2]


def _why(report: pytest.TestReport) -> str:
    """The reason why a test was left out; of one that failed the errors, and where they were met."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    lines = report.longreprtext.splitlines()
    return "\n".join([line for line in lines if line.startswith("E ")][:12] + lines[-1:])[:2000]
