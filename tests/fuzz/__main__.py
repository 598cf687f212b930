"""Runs the fuzz of every kind, one after the other; see bin/fuzz."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent

COUNTS = {"pictures": (3000, 40), "clips": (300, 6), "models": (600, 60), "kills": (40, 2)}
"""Cases of each kind, in full and with --quick. A kind is the module of its name, with ``run(count, seed)``."""

FINE = frozenset(("translated", "skipped", "failed", "refused", "loaded", "damaged", "ignored", "kills", "rounds"))
"""What a case may end in; every other outcome must be counted zero times."""


def main() -> int:
    """Fuzzes what was asked for; 1 where something went wrong."""
    parser = argparse.ArgumentParser(prog="bin/fuzz", description="Damaged and hostile files, and killed jobs.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"some of {', '.join(COUNTS)}; else all")
    parser.add_argument("--quick", action="store_true", help="a minute of each")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="else drawn, and said")
    parser.add_argument("--count", type=int, help="cases of each kind")
    parser.add_argument("-o", "--output", type=Path, default=Path("fuzz-results.jsonl"), help="list of runs to add to")
    given = parser.parse_args()
    unknown = set(given.kinds) - set(COUNTS)
    if unknown:
        parser.error(f"there is no kind {', '.join(sorted(unknown))}; there are {', '.join(COUNTS)}")
    kinds = given.kinds or list(COUNTS)
    wrong = [fuzz(kind, given.count or COUNTS[kind][given.quick], given.seed, given.output) for kind in kinds]
    return 1 if any(wrong) else 0


def fuzz(kind: str, count: int, seed: int, output: Path) -> dict[str, int]:
    """Runs one kind, says and keeps what came of it, and gives the outcomes that should not be."""
    began = time.monotonic()
    counts = import_module(kind).run(count, seed)
    wrong = {name: number for name, number in counts.items() if number and name not in FINE}
    said = ", ".join(f"{number} {name}" for name, number in counts.items())
    seconds = round(time.monotonic() - began)
    print(f"{'WRONG' if wrong else 'ok':5} {kind}, {count} cases of seed {seed} in {seconds} s: {said}", flush=True)
    with output.open("a", encoding="utf-8") as file:
        run = {"kind": kind, "count": count, "seed": seed, "seconds": seconds, "outcomes": counts}
        file.write(json.dumps({"time": time.strftime("%FT%T"), **run}) + "\n")
    return wrong


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent.parent))
    sys.exit(main())
