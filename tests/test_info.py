"""What helps at the prompt: cgpipe info, and completion by the shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from shell import invoke

from cgpipe import __version__

FileModel = Callable[..., Path]


def test_info_says_the_same_as_text_and_as_json() -> None:
    found = json.loads(invoke("info", "--json").stdout)
    assert (found["versions"]["cgpipe"], found["versions"]["torch"]) == (__version__, torch.__version__.split("+")[0])
    assert found["devices"]["cpu"].startswith("fp32")
    assert {"eager", "torchscript"} <= {*found["engines"]}
    assert "libx264" in found["video"]["encoders"] and ".png" in found["pictures"]["suffixes"]
    text = invoke("info").stdout
    for part in (f"  cgpipe: {__version__}", "devices:", "  cpu: fp32", "extras:", "libx264"):
        assert part in text
    assert str(Path.home()) not in text, "it is to be pasted"


def completed(*words: str) -> list[str]:
    """What a shell would offer for the last word."""
    line = {"_CGPIPE_COMPLETE": "zsh_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    result = invoke(env=line)
    return result.output.split("\n")[1::3]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cgpipe", "tr"], ["translate", "train"]),
        (["cgpipe", "translate", "--to", "z"], ["zebra"]),
        (["cgpipe", "video", "--from", "h"], ["horse"]),
        (["cgpipe", "translate", "--model", "photo2m"], ["photo2monet"]),
        (["cgpipe", "models", "show", "monet2"], ["monet2photo"]),
        (["cgpipe", "data", "fetch", "ae"], ["ae_photos"]),
        (["cgpipe", "translate", "--precision", "f"], ["fp32", "fp16"]),
        (["cgpipe", "translate", "--over"], ["--overwrite"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_names_are_completed(models_folder: Path, words: list[str], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_own_models_and_recipes_are_completed(
    models_folder: Path, file_model: FileModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_model(models_folder, "cow", "donkey")
    assert completed("cgpipe", "translate", "--to", "do") == ["donkey"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").mkdir()
    for name in ("train/fast.toml", "fine.toml", "fine.txt"):
        (tmp_path / name).write_text("")
    assert completed("cgpipe", "train", "--config", "f") == ["fine.toml"]
    assert completed("cgpipe", "train", "--config", "tr") == ["train/fast.toml"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_of_a_shell_is_printed(shell: str) -> None:
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert f"_CGPIPE_COMPLETE={shell}_complete" in result.output


def test_bash_itself_completes(tmp_path: Path) -> None:
    program = tmp_path / "cgpipe"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cgpipe "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(cgpipe completion bash)"
        COMP_WORDS=(cgpipe translate --to ze) COMP_CWORD=3
        _cgpipe_completion cgpipe ze --to
        echo "offered: ${COMPREPLY[*]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.endswith("offered: zebra\n"), done.stderr


@pytest.mark.parametrize("command", ["train", "distill"])
def test_help_of_many_options_is_grouped(command: str) -> None:
    shown = invoke(command, "--help", terminal_width=118).output
    headings = [line for line in shown.splitlines() if line.endswith("ptions:") and not line.startswith(" ")]
    assert headings[0] == "Options:" and "Run options:" in headings and len(headings) == len({*headings})
    parts = dict(zip(headings, re.split(r"^\S*\s?[Oo]ptions:$", shown, flags=re.MULTILINE)[1:], strict=True))
    assert "--resume" in parts["Options:"] and "--help" in parts["Options:"]
    assert "--checkpoint-dir DIR" in parts["Run options:"] and "--checkpoint-dir DIR" not in parts["Options:"]
