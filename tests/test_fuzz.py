"""A few cases of every kind of bin/fuzz, always the same ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz"


@pytest.mark.slow
@pytest.mark.parametrize(("kinds", "count"), [(["pictures", "clips", "models"], 5), (["kills"], 1)])
def test_a_few_cases_of_every_kind_do_no_harm(tmp_path: Path, kinds: list[str], count: int) -> None:
    command = [sys.executable, str(FUZZ), *kinds, "--count", str(count), "--seed", "1", "-o", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = [json.loads(line) for line in (tmp_path / "runs").read_text().splitlines()]
    assert [(run["kind"], run["count"], run["seed"]) for run in kept] == [(kind, count, 1) for kind in kinds]


def test_a_kind_that_is_none_is_said(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(FUZZ), "music"], capture_output=True, text=True, check=False)
    assert (done.returncode, "there is no kind music" in done.stderr) == (2, True)
