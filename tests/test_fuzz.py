"""A few cases of every kind of bin/fuzz, always the same ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"


def kinds() -> list[str]:
    return [path.stem for path in sorted(FUZZ.glob("*.py")) if not path.stem.startswith("_")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind in ("pictures", "clips", "models", "kills")])
def test_a_few_cases_of_every_kind_do_no_harm(tmp_path: Path, kind: str) -> None:
    count = 1 if kind == "kills" else 5
    command = [sys.executable, str(FUZZ), kind, "--count", str(count), "--seed", "1", "-o", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads((tmp_path / "runs").read_text())
    assert (kept["kind"], kept["count"], kept["seed"]) == (kind, count, 1)


def test_a_kind_that_is_none_is_said(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(FUZZ), "music"], capture_output=True, text=True, check=False)
    assert (done.returncode, "there is no kind music" in done.stderr) == (2, True)
