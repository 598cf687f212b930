"""Signals at bad moments: real processes, real signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.{name})
    whole = True
except BaseException:
    whole = False  # as libraries do that can do without a part
"""

IMPORTS = """
import time
from cgpipe.cli.signals import number_of, stop_like_ctrl_c
stop_like_ctrl_c()
import swallows
try:
    time.sleep(20)
except KeyboardInterrupt as stop:
    print(swallows.whole, number_of(stop))
"""


@pytest.mark.parametrize(("name", "number"), [("SIGINT", 2), ("SIGTERM", 15)])
def test_a_signal_during_an_import_is_heard_after_it(tmp_path: Path, name: str, number: int) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOWS.format(name=name))
    command = [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{IMPORTS}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == (f"True {number}\n", "")


def test_ctrl_c_before_the_first_import_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom cgpipe.__main__ import main\nmain()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, "")
