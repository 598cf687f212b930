"""``train/shipped`` from one end to the other, with stand-ins for the commands that take hours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from cgpipe.cli.distill import command as distill_command
from cgpipe.cli.evaluate import command as evaluate_command
from cgpipe.cli.train import command as train_command
from cgpipe.models.zoo import SHIPPED_FOLDER
from cgpipe.training.config import TrainConfig, load_config

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a script of bash")

SCRIPT = Path(__file__).parents[1] / "train" / "shipped"
SETTINGS = {field.name for field in fields(TrainConfig)}
COMMANDS = {"train": train_command, "distill": distill_command, "evaluate": evaluate_command}

STAND_IN = """
import json, os, sys, tomllib
from pathlib import Path

called, words = Path(sys.argv[0]).name, sys.argv[1:]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([called, *words]) + "\\n")
given = dict(zip(words, words[1:]))
if called == "cgpipe" and words[0] in ("train", "distill"):
    run = Path(given["--checkpoint-dir"])
    made = {run, Path(given["--results-dir"])}
    recipe = tomllib.loads(Path(given["--config"]).read_text())
    names = ["{source}2{target}", "{target}2{source}"] if words[0] == "train" else [given["--name"]]
    names += [f"{name}-best" for name in names if recipe.get("watch_every")]
    files = [run / "state.pt", *(run / f"{name.format(**recipe)}.safetensors" for name in names)]
elif called == "cgpipe":
    made, files = {Path(given["-o"])}, [Path(given["-o"]) / "figures.md"]
elif "-o" in given:  # average.py, curves.py
    made, files = {Path(given["-o"])}, [Path(given["-o"])]
else:  # scripts that make pictures, into folders of these names
    paths = {Path(word) for word in words if os.sep in word}
    made = {path for path in paths if not path.exists()}
    for path in made:
        for name in ("pictures", "masks", "day", "sunset", "summer", "autumn"):
            (path / name).mkdir(parents=True)
    files = []
missing = [word for word in words if os.sep in word and not Path(word).exists() and Path(word) not in made]
if missing:
    sys.exit(f"{words}: there is no {missing[0]}")
for file in files:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
"""


def calls_of(folder: Path) -> list[list[str]]:
    """Runs the script in a folder; the commands that it called."""
    stand_ins, calls = folder / "bin", folder / "calls"
    calls.write_text("")
    stand_ins.mkdir(exist_ok=True)
    for name in ("cgpipe", "python", "rembg"):
        (stand_ins / name).write_text(f"#!{sys.executable} -S\n{STAND_IN}")
        (stand_ins / name).chmod(0o755)
    environment = {"PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls)}
    done = subprocess.run(
        ["bash", SCRIPT, folder / "datasets", folder / "made"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in calls.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("horse2zebra", "monet2photo"):
        for part in ("trainA", "trainB", "testA", "testB"):
            (tmp_path / "datasets" / name / part).mkdir(parents=True)
    return tmp_path


def test_every_pair_is_made_of_what_was_made_before(folder: Path) -> None:
    calls = calls_of(folder)
    made = {path.name for path in (folder / "made").glob("*.safetensors")} - {"compact-xs.safetensors"}
    looks = {path.name for path in SHIPPED_FOLDER.glob("photo2*.safetensors")} - {"photo2monet.safetensors"}
    assert made == {path.name for path in SHIPPED_FOLDER.glob("*.safetensors")} - looks
    for _, name, *words in (call for call in calls if call[0] == "cgpipe"):
        context = COMMANDS[name].make_context(name, words)  # every option is known
        if name == "train":  # and fits the recipe
            settings = {field: value for field, value in context.params.items() if value is not None}
            load_config(settings.pop("recipe"), {name: settings[name] for name in settings.keys() & SETTINGS})


def test_what_was_made_is_not_made_again(folder: Path) -> None:
    calls_of(folder)
    again = [words for called, *words in calls_of(folder) if called == "cgpipe"]
    assert {words[0] for words in again} == {"train", "distill"}
    assert all("--resume" in words for words in again)
