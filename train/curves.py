"""Draws what a run wrote into its metrics.jsonl: losses, and figures of --watch-every.

pip install matplotlib
python train/curves.py checkpoints/horse2zebra -o curves.png
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

try:
    import matplotlib
except ImportError:
    raise SystemExit("curves.py draws with matplotlib, which is not installed: pip install matplotlib") from None

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot

Curves = dict[str, dict[str, list[tuple[int, float]]]]
NOT_DRAWN = ("step", "epoch", "warning", "learning_rate", "time", "seconds_a_step")


def read_curves(run: Path) -> Curves:
    """By panel (what stands before the last underscore) and name: step and value."""
    curves: Curves = defaultdict(lambda: defaultdict(list))
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        for name, value in values.items():
            if name not in NOT_DRAWN and value is not None:  # null is no number: it exploded there
                curves[name.rpartition("_")[0] or name][name].append((values["step"], value))
    return curves


def draw(curves: Curves, target: Path) -> None:
    """One panel beside the other; each value faint, their running means strong."""
    figure, panels = pyplot.subplots(1, len(curves), figsize=(3.2 * len(curves), 2.6), squeeze=False)
    for panel, (title, lines) in zip(panels[0], sorted(curves.items()), strict=True):
        for name, points in sorted(lines.items()):
            steps, values = zip(*points, strict=True)
            (drawn,) = panel.plot(steps, values, alpha=0.25)
            panel.plot(steps, running_mean(values), color=drawn.get_color(), label=name)
        panel.set_title(title)
        panel.set_xlabel("step")
        panel.legend(fontsize="small", frameon=False)
    figure.tight_layout()
    figure.savefig(target, dpi=100)


def running_mean(values: tuple[float, ...], keep: float = 0.7) -> list[float]:
    """An exponential mean that does not lag behind the first values."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="the run's --checkpoint-dir")
    parser.add_argument("-o", "--output", type=Path, default=Path("curves.png"), help="[default: %(default)s]")
    asked = parser.parse_args()
    if not (asked.run / "metrics.jsonl").exists():
        parser.error(f"{asked.run} holds no metrics.jsonl: name the --checkpoint-dir of a run")
    draw(read_curves(asked.run), asked.output)


if __name__ == "__main__":
    main()
