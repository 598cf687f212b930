"""Signals at bad moments: real processes, real signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOADS = """
import builtins, os, signal, sys, time
from cgpipe.cli.signals import number_of, stop_like_ctrl_c
stop_like_ctrl_c()
imported = builtins.__import__
def interrupted(name, *others):
    module = imported(name, *others)
    if name.startswith("numpy") and "torch._C" not in sys.modules:  # which that module imports itself
        builtins.__import__ = imported
        os.kill(os.getpid(), signal.{name})
        os.kill(os.getpid(), signal.{name})
    return module
builtins.__import__ = interrupted
try:
    import torch
    time.sleep(3)
except KeyboardInterrupt as stop:
    print(number_of(stop))
"""


@pytest.mark.parametrize(("name", "number"), [("SIGINT", 2), ("SIGTERM", 15)])
def test_a_signal_while_torch_is_loaded_is_heard_after_it(name: str, number: int) -> None:
    ended = subprocess.run([sys.executable, "-c", LOADS.format(name=name)], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == (f"{number}\n", "")


def test_ctrl_c_before_the_first_import_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nfrom cgpipe.__main__ import main\nmain()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, "")
