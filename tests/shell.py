"""Commands and programs as a user runs them: in this process, or in one of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from click.testing import CliRunner, Result

from cgpipe.cli import cli

CGPIPE = [sys.executable, "-m", "cgpipe"]


def invoke(*words: object, **options: Any) -> Result:
    """``cgpipe`` with these words, in this process."""
    return CliRunner().invoke(cli, [str(word) for word in words], prog_name="cgpipe", **options)


def run_python(program: str, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, until its end; what it prints is captured."""
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def wait_until(holds: Callable[[], object], process: subprocess.Popen[Any] | None = None, seconds: float = 300) -> None:
    """Until something holds, or the process has ended that was to bring it about; too late, that is killed."""
    end = time.monotonic() + seconds
    while not holds() and (process is None or process.poll() is None):
        if time.monotonic() > end:
            if process is not None:
                process.kill()  # a test that fails would wait for it
            raise TimeoutError(f"nothing came of it in {seconds:g} s")
        time.sleep(0.005)


def count_and_peak(program: str, *words: object) -> tuple[int, int]:
    """The number that a program prints, and the most memory that its process held, in KiB."""
    # Not ru_maxrss, which begins with what the process that started it had.
    peak = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    told = run_python(f"{program}\n{peak}", *words)
    assert told.returncode == 0, told.stderr
    count, kib = map(int, told.stdout.split())
    return count, kib
