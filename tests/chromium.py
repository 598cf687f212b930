"""The Chromium in which tests open pages: cheap, without a priority of its own, killed when a test takes too long."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The shell has no windows of its own to draw: the tests take half as long in it.
NAMES = ("chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None or os.name == "nt", reason="needs Chromium")

LONGEST = 240
"""Seconds of a test. What a page evaluates has no timeout in Playwright, so one that hangs would hang the run."""

OPTIONS = [
    "--no-sandbox",
    "--no-zygote",
    "--disable-gpu",
    "--disable-audio-output",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream=fps=5",
    "--use-fake-ui-for-media-stream",
]

# Root's Chromium raises the priority of its threads, and where the tests run at a real-time one, threads that spin on
# a lock keep the one that holds it from running.
START = f"""#!/bin/sh
echo $$ >"$0.pid"
set -- "{PROGRAM}" "$@"
for calmly in "setpriv --bounding-set -sys_nice --inh-caps -sys_nice" "chrt --other 0"; do
    $calmly true 2>/dev/null && set -- $calmly "$@"
done
exec "$@"
"""


class Chromium:
    """Opens windows in one browser, which is started again after a test that it was killed for."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self._driver, self._program, self._browser = driver, folder / "chromium", None
        self._program.write_text(START)
        self._program.chmod(0o755)

    @contextlib.contextmanager
    def window(self, **options: Any) -> Iterator[Any]:
        """A new context of Playwright's."""
        options = {"viewport": {"width": 1200, "height": 800}, **options}
        if self._browser is None or not self._browser.is_connected():
            self._browser = self._driver.chromium.launch(executable_path=self._program, args=OPTIONS, timeout=60_000)
        with self._browser.new_context(**options) as context:
            context.set_default_timeout(1000 * LONGEST / 2)
            yield context

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Kills the browser if the body takes longer than ``LONGEST``."""
        watchdog = threading.Timer(LONGEST, self.kill)
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def close(self) -> None:
        if self._browser is not None:
            self._browser.close()

    def kill(self) -> None:
        """Ends every process of the browser's; what waits for it raises."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(Path(f"{self._program}.pid").read_text()), signal.SIGKILL)
