"""The benchmarks make figures, compare outputs and write results. What the figures are, is no test."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).parent / "bench"


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # threads that wait for one another are slow on a busy machine
    return subprocess.run([sys.executable, BENCH, *arguments], capture_output=True, text=True, env=one_thread)


@pytest.fixture
def bench_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``bench_here(*arguments)``: in this process, which has imported torch already."""

    def run(*arguments: object) -> None:
        monkeypatch.syspath_prepend(BENCH)
        monkeypatch.setattr(sys, "argv", [str(BENCH), *map(str, arguments)])
        runpy.run_path(str(BENCH / "__main__.py"), run_name="__main__")

    return run


@pytest.mark.slow
def test_the_generators_table(
    bench_here: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="0"):
        bench_here("generator-fast", "--tiny", "-o", tmp_path)
    results = json.loads((tmp_path / "generator-fast.json").read_text())
    assert results["command"] == "bin/bench generator-fast --tiny"
    assert {"date", "processor", "memory", "libraries"} <= set(results["machine"])
    (table,) = results["tables"]
    rows = {row["way"]: row for row in table["rows"]}
    reference, ours = rows["reference: eager, fp32, batch 1"], rows["cgpipe"]
    assert reference["mean difference"] == 0
    assert 0 < ours["mean difference"] < 2  # rounding, and perhaps bf16
    for row in (reference, ours):
        assert 0 < row["lowest"] <= row["frames a second"] <= row["highest"]
        assert row["of the limit"] > 0
    report = (tmp_path / "speed.md").read_text()
    assert table["markdown"] in report and table["markdown"] in capsys.readouterr().out
    assert "`bin/bench generator-fast --tiny`" in report


@pytest.mark.slow
def test_the_table_of_layers_compares_the_same_results(tmp_path: Path) -> None:
    ran = bench("tiles", "--tiny", "-o", tmp_path)
    assert ran.returncode == 0, ran.stderr
    (table,) = json.loads((tmp_path / "tiles.json").read_text())["tables"]
    assert {(row["network"], row["what"]) for row in table["rows"]} == {
        (network, what)
        for network in ("ResNet-9", "compact", "compact-xs", "PatchGAN")
        for what in ("translating", "with gradients")
    }
    assert all(row["times the faster one"] > 0 and row["largest difference"] < 0.1 for row in table["rows"])


def test_the_quick_page_names_the_machine_the_date_and_what_is_left_out(
    bench_here: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="0"):
        bench_here("generator-fast", "--quick", "--tiny", "-o", tmp_path)
    page = (tmp_path / "quick.md").read_text()
    heading = "### Generator alone: shipped horse2zebra-fast (compact-xs), 64x64"
    for word in ("- date: 20", "- processor: ", "torch ", heading, "| cgpipe | ", "Left out: torch.compile"):
        assert word in page, word
    assert str(Path.home()) not in page and str(tmp_path) not in page


def test_the_tables_are_listed(bench_here: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    bench_here("--list")
    assert {"folder", "generator-resnet", "int8-shipped", "memory", "train-compact", "video-256"} <= set(
        capsys.readouterr().out.split()
    )


def test_an_unknown_table_is_named_with_those_there_are(
    bench_here: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench_here("nothing")
    said = capsys.readouterr().err
    assert "'nothing'" in said and "generator-resnet" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_that_is_said(
    bench_here: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench_here("--cuda", "-o", tmp_path)
    assert "finds no GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
