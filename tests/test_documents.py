"""Every command and every Python example of the documents runs, on tiny inputs; the site builds without a warning.

A block is run when it is fenced as ``sh`` or ``python``, or indented and begins with ``cgpipe``. One that is not run
says why in a comment above it: ``<!-- not run: needs a camera -->``. Blocks of a page run in order, in one folder,
which has what pages take for granted: ``photos/``, ``in.mp4``, ``mask.png``, ``latest_net_G_A.pth``.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from clips import Sound, make_clip, picture
from PIL import Image
from reference_networks import junyanz_resnet, randomise

import cgpipe
from cgpipe.cli import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

FRAME = ("README", "docs/index", "docs/start", "docs/video", "docs/checkpoints", "docs/onnx", "docs/models")
"""Pages whose every block runs or says why not; the others are searched for what is written wrong."""

NOT_OURS = ("pip ", "pipx ", "uvx ", "bin/", "python ", "#")
"""Lines that install or build (tests/test_package.py and CI do that), and comments."""

ELSEWHERE = {
    "train": "a run of minutes: tests/test_training_scripts.py",
    "--like": "learns for minutes: tests/test_like.py",
    "--shard": "folders of a cluster: tests/test_shards.py",
    "s3:": "needs a bucket: tests/test_remote.py",
}
"""Words of the README's commands that are not run here: why, and what runs such ones."""

BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+?) -->\n)?```(?P<language>\w+)\n(?P<fenced>.*?)^```$"
    r"|(?P<indented>(?:^ {4}cgpipe [^\n]*\n)(?:^ {4}[^\n]*\n)*)",
    re.MULTILINE | re.DOTALL,
)
UNKNOWN_MARK = re.compile(r"<!-- not run(?!: [^>]{5,} -->\n```)")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    why_not: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        language = match["language"] or "sh"
        yield Block(
            language, match["fenced"] or match["indented"], text[: match.start()].count("\n") + 1, match["why"] or ""
        )


def commands(text: str) -> Iterator[list[str]]:
    """Each command of a block of shell, its words apart, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.strip().startswith(NOT_OURS):
            yield shlex.split(line, comments=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models_folder: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(("tower.jpg", "lake.png")):
        Image.fromarray(picture(number, 48, 32)).save(tmp_path / "photos" / name)
    Image.fromarray(np.full((32, 48), 255, np.uint8)).save(tmp_path / "mask.png")
    make_clip(tmp_path / "in.mp4", count=24, size=(48, 32), sounds=[Sound()])
    torch.save(randomise(junyanz_resnet()).state_dict(), tmp_path / "latest_net_G_A.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CGPIPE_TRANSLATE_WORKERS", "0")
    return tmp_path


def run_command(words: list[str], where: str) -> None:
    assert words[0] == "cgpipe", f"{where}: {words[0]} cannot be run here: say why above the block"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cgpipe.CgpipeWarning)  # that a GIF has no sound, say
        result = CliRunner().invoke(cli, words[1:])
    assert result.exit_code == 0, f"{where}: {shlex.join(words)}\n{result.output}"


def run(page: Path, folder: Path) -> int:
    """Runs a page's blocks, and says how many."""
    names = {"pixels": picture(0)}
    ran = 0
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.why_not or block.language not in ("sh", "python"):
            continue
        if block.language == "python":
            exec(compile(block.text, where, "exec"), names)
        for words in commands(block.text) if block.language == "sh" else ():
            if page.name != "README.md" or not any(word.startswith(tuple(ELSEWHERE)) for word in words):
                run_command(words, where)
        ran += 1
    return ran


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAME)
def test_what_a_page_shows_runs(name: str, folder: Path) -> None:
    assert run(ROOT / f"{name}.md", folder)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_commands_name_options_that_there_are(page: Path) -> None:
    """What is not run is read: commands and options of every page are those of the program."""
    assert not UNKNOWN_MARK.search(page.read_text(encoding="utf-8")), "a mark names its reason, right above its block"
    for block in blocks(page):
        for words in commands(block.text) if block.language == "sh" else ():
            if words and words[0] == "cgpipe" and page.stem != "commands":
                check_words(words, f"{page.name}:{block.line}")


def check_words(words: list[str], where: str) -> None:
    command: click.Command = cli
    rest = words[1:]
    prefix = "CGPIPE"  # of the variables, which a command's options get once
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command, auto_envvar_prefix=prefix), rest[0])
        assert found is not None, f"{where}: no command {rest[0]}"
        command, prefix, rest = found, f"{prefix}_{rest[0].upper()}", rest[1:]
    known = {spelling for parameter in command.params for spelling in (*parameter.opts, *parameter.secondary_opts)}
    asked = {word.split("=")[0] for word in rest if word.startswith("--")}
    assert asked <= known | {"--help", "--version"}, f"{where}: {shlex.join(words)}: {sorted(asked - known)}"


def test_the_reference_has_every_public_name() -> None:
    shown = set(
        re.findall(r"^\.\. auto\w+:: cgpipe\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert shown == set(cgpipe.__all__) - {"__version__"}


def test_pictures_and_pages_that_are_linked_are_there() -> None:
    for page in [ROOT / "README.md", *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'cgpipe[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "translate_folder" in (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
