"""bin/gpu-check keeps what is known of the tests on a GPU whenever it is ended. No GPU is needed."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

from shell import wait_until

GPU_CHECK = Path(__file__).parent / "gpu_check"

SOME_TESTS = """
import time
import pytest

def test_fp32_agrees_with_the_cpu():
    pass

def test_that_passes():
    pass

def test_that_fails():
    assert 1 == 2

def test_for_others():
    pytest.skip("needs another GPU")

def test_without_end():
    time.sleep(600)
"""


def test_each_test_is_written_down_as_it_ends_and_those_that_never_passed_come_first(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SOME_TESTS)
    rows = tmp_path / "rows.jsonl"
    environment = os.environ | {"PYTHONPATH": str(GPU_CHECK), "GPU_CHECK_ROWS": str(rows)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-p", "telling", "-p", "no:cacheprovider", "-c", os.devnull, tmp_path]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    wait_until(lambda: rows.exists() and "test_without_end" in rows.read_text(), process)
    process.kill()
    process.wait()
    gpu_check = runpy.run_path(str(GPU_CHECK / "__main__.py"))
    found = gpu_check["without_ended"](gpu_check["read"](rows))
    told = [(row["table"], row["test"], row.get("result")) for row in found]
    assert told == [
        ("tests", "test_that_passes", "passed"),
        ("tests", "test_that_fails", "failed"),
        ("tests", "test_for_others", "skipped"),
        ("under way", "test_without_end", None),
    ]
    assert "assert 1 == 2" in found[1]["why"] and "test_some.py:12" in found[1]["why"]
    page = gpu_check["markdown"]({"tests": {"rows": found}})
    assert "test_that_fails" in page and "test_without_end" in page
    passed = gpu_check["passed_by_now"](found).splitlines()
    assert {"test_that_passes", "test_fp32_agrees_with_the_cpu"} <= set(passed)
    assert "test_that_fails" not in passed


def test_a_run_that_is_ended_leaves_a_report(tmp_path: Path) -> None:
    command = [sys.executable, GPU_CHECK, tmp_path, "--only", "machine,one", "--dry-run"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "machine.log").exists, process)
    process.terminate()
    process.wait()
    page = (tmp_path / "report.md").read_text()
    assert "## machine" in page and "Ended with: ended from outside" in page
    assert "## one" not in page
