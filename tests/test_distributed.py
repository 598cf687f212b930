"""Training runs of several processes: started by torchrun, on the CPU, and compared with one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from runs import config_of, logged, make_dataset, make_recipe, wait_for_a_save, weights_of
from shell import invoke, wait_until

from cgpipe.errors import UsageError
from cgpipe.training.state import load_state
from cgpipe.training.trainer import train

SETTINGS: dict[str, Any] = {
    **{"epochs": 3, "decay_epoch": 1, "stages": [], "save_every": 2, "gpu_ids": "-1", "publish": False},
    "gen_settings": {"channels": 16, "blocks": 1},
}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def recipe_in(folder: Path) -> Path:
    """A run of nine steps on six reddish and four bluish pictures."""
    dataset = make_dataset(folder / "dataset", {"trainA": 6, "trainB": 4})
    return make_recipe(folder / "recipe.toml", dataset, **SETTINGS)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return recipe_in(tmp_path)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LAUNCH = "import sys; from cgpipe.parallel import launch; sys.exit(launch(sys.argv[1:], processes=2))"
AS_GPU_IDS_DO = [sys.executable, "-c", LAUNCH]
"""What ``--gpu-ids 0,1`` does, but on the CPU."""


@contextmanager
def started(by: list[str], recipe: Path, run: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Two processes that train, in a process group of their own, as a terminal makes one."""
    command = [*by, "-m", "cgpipe", "train", "--config", str(recipe)]
    command += ["--checkpoint-dir", str(run), "--results-dir", str(run / "results"), *options]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


METHODS: dict[str, dict[str, Any]] = {
    # Without a norm: before one, biases have no effect, and Adam makes steps of their gradients' rounding.
    "plateau": {"gan_loss": "wgan-gp", "norm": "none", "lr_policy": "plateau", "lr_step": 1},
    "batch norm": {"diffaugment": "color,translation,cutout", "norm": "batch", "sync_batchnorm": True},
    "one direction": {"method": "fastcut", "norm": "none"},
    "moments": {"moment_weight": 2.0, "norm": "none"},
    "motion": {"motion_weight": 2.0, "alias_weight": 1.0, "norm": "none"},
    "parts": {"accumulate": 2, "batch_size": 4, "norm": "none"},
}
"""What two processes train with; one process takes each batch whole."""
REFUSED = (
    "Error: A batch of 3 cannot be shared out equally among 2 processes: make --batch-size a multiple of their number, "
    "or start fewer."
)
ONE_AFTER_THE_OTHER = """
import json, sys, torch
from cgpipe.cli import cli, main
from cgpipe.parallel import process_group

@cli.command()
def several():
    with process_group(torch.device("cpu")):
        for words in json.loads(commands):
            cli(words, standalone_mode=False)

commands, sys.argv[1:] = sys.argv[1], ["several"]
main()
"""


class Two(NamedTuple):
    """What the same two processes did: a run by each of :data:`METHODS`, and then one that is refused."""

    recipe: Path
    folder: Path
    done: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    folder = tmp_path_factory.mktemp("two")
    (folder / "program.py").write_text(ONE_AFTER_THE_OTHER)
    recipe = recipe_in(folder)
    commands = []
    for name, settings in [*METHODS.items(), ("refused", {"batch-size": 3})]:
        options = [f"--{name}" if value is True else f"--{name}={value}" for name, value in settings.items()]
        folders = ["--checkpoint-dir", str(folder / name), "--results-dir", str(folder / name / "results")]
        commands.append(["train", "--config", str(recipe), *folders, *options])
    command = [*AS_GPU_IDS_DO, str(folder / "program.py"), json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return Two(recipe, folder, done)


@pytest.mark.slow
def test_each_line_is_said_once_and_a_batch_that_cannot_be_shared_out_ends_both(two: Two) -> None:
    assert two.done.returncode == 2, two.done.stderr
    assert two.done.stdout.count("Finished at step ") == len(METHODS)
    assert two.done.stderr.count(", 3 epochs: learning rate") == len(METHODS) + 1
    assert [line for line in two.done.stderr.splitlines() if line][-2:] == [
        "red and blue, 3 epochs: learning rate 0.0002, from epoch 1 on falling linearly to 0",
        REFUSED,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_learn_what_one_does(two: Two, tmp_path: Path, name: str) -> None:
    one, other = tmp_path / "one", two.folder / name
    train(config_of(two.recipe, one, **METHODS[name] | {"accumulate": 1}))
    single, shared = weights_of(one), weights_of(other)
    assert single.keys() == shared.keys()
    for name, weight in single.items():
        # Adam takes a whole step by a gradient that is hardly more than rounding: so do a few weights in a thousand,
        # and the means of what they make are off by as little.
        same = torch.isclose(weight, shared[name], rtol=1e-3, atol=2e-5)
        assert "running_" in name or same.float().mean() > 0.99, name
        torch.testing.assert_close(weight, shared[name], rtol=1e-3, atol=5e-4)
    assert torch.equal(load_state(one / "state.pt")["random"], load_state(other / "state.pt")["random"])
    for first, second in zip(logged(one), logged(other), strict=True):
        assert second == pytest.approx(first, rel=1e-3, abs=1e-4)
    assert sorted(p.name for p in other.rglob("*")) == sorted(p.name for p in one.rglob("*"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the processes in /proc")
def test_a_lost_process_ends_the_run_and_one_goes_on_with_it(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(TORCHRUN, recipe, run, "--epochs", "1000") as process:
        wait_for_a_save(process, run)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGKILL)  # the first one, which writes
        errors = process.communicate(timeout=120)[1]
        assert process.returncode != 0
        assert errors.count("Error: Another process of the run has ended") == 1
        assert "--resume, with any number of processes" in errors
        assert not any(Path(f"/proc/{child}").exists() for child in children)
    state = load_state(run / "state.pt")
    report = train(config_of(recipe, run, epochs=state["epoch"] + 2), resume=True)
    assert report.finished
    steps = [line["step"] for line in logged(run)]
    assert steps == list(range(1, report.step + 1))


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_with_the_state_saved(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    endless = ["--epochs", "1000", "--save-every", "100000", "--log-every", "3"]
    with started(AS_GPU_IDS_DO, recipe, run, *endless) as process:
        lines = run / "metrics.jsonl"
        wait_until(lambda: lines.exists() and lines.stat().st_size, process)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.count("Error")) == (130, 0), errors
    assert output.count("Stopped; continue with --resume") == 1
    assert load_state(run / "state.pt")["step"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_several_gpus_are_refused_where_there_are_none(recipe: Path) -> None:
    result = invoke("train", "--config", recipe, "--gpu-ids", "0,1")
    assert result.exit_code == 2
    assert "this machine has 0 usable GPUs" in result.output


def test_shared_statistics_need_a_batch_norm(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="norm instance has no batch statistics"):
        config_of(recipe, tmp_path, sync_batchnorm=True)
