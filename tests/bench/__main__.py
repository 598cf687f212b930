"""Benchmarks, each printed as a Markdown table; ``bin/bench`` runs them."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch
from memory import measure_memory
from video import measure_video


def main() -> None:
    """Runs what is asked for, beginning with a line about the machine."""
    parser = argparse.ArgumentParser(prog="bin/bench", description=__doc__)
    parser.add_argument("what", choices=["memory", "video"])
    parser.add_argument("clip", nargs="?", type=Path, help="of your own, for `video`; by default one that is made")
    asked = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, {threads} threads, ", end="")
    print(f"Python {platform.python_version()}, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_memory(Path(folder)) if asked.what == "memory" else measure_video(Path(folder), asked.clip)
    print(f"| {' | '.join(rows[0])} |")
    print("|---" * len(rows[0]) + "|")
    for row in rows[1:]:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    sys.exit(main())
