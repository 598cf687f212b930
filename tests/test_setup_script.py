"""bin/setup gives each checkout an environment of its own. A stand-in takes the place of python, venv and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "bin" / "setup"

STAND_IN = f"""#!/bin/sh
case "$1" in
-m) mkdir -p "$4/bin"; touch "$4/pyvenv.cfg"
    cp "$0.pip" "$4/bin/pip"
    printf '#!/bin/sh\\necho cgpipe of %s: "$@"\\n' "$4" >"$4/bin/cgpipe"; chmod +x "$4/bin/cgpipe" ;;
*) exec {sys.executable} "$@" ;;
esac
"""

PIP = """#!/bin/sh
case "$*" in
"config list") printf "%s\\n" "$PIP_SETTINGS" ;;
*uv) [ -n "$UV_EXIT" ] || exit 1
    printf '#!/bin/sh\\necho uv "$@" >>"$PIP_LOG"; env | grep ^UV_ >"$PIP_LOG.env"; exit $UV_EXIT\\n' >"${0%pip}uv"
    chmod +x "${0%pip}uv" ;;
*) echo pip "$@" >>"$PIP_LOG" ;;
esac
"""
"""There is no uv for this machine where $UV_EXIT is empty; else that is how it ends."""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two checkouts, called one and two, each in a folder called cgpipe."""
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    (tmp_path / "python.pip").write_text(PIP)
    (tmp_path / "python.pip").chmod(0o755)
    for name in ("one", "two"):
        (tmp_path / name / "cgpipe" / "bin").mkdir(parents=True)
        shutil.copy(SCRIPT, tmp_path / name / "cgpipe" / "bin" / "setup")
        (tmp_path / name / "cgpipe" / "setup.py").write_text("requirements")
    monkeypatch.setenv("PYTHON", str(stand_in))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_LOG", str(tmp_path / "pip.log"))
    monkeypatch.setenv("UV_EXIT", "0")
    for name in ("CGPIPE_VENV", "CGPIPE_EXTRAS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def set_up(machine: Path, name: str, *arguments: str) -> str:
    command = [str(machine / name / "cgpipe" / "bin" / "setup"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def installs(machine: Path) -> list[str]:
    return (machine / "pip.log").read_text().splitlines()


def test_each_checkout_has_an_environment_and_nothing_is_done_twice(machine: Path) -> None:
    one, two = (set_up(machine, name) for name in ("one", "two"))
    assert one != two and Path(one).is_dir() and Path(two).is_dir()
    assert [set_up(machine, name) for name in ("one", "two", "one")] == [one, two, one]
    assert len(installs(machine)) == 2
    for name, line in zip(("one", "two"), installs(machine), strict=True):
        assert line.endswith(f"--editable {machine / name / 'cgpipe'}[test]")
    assert set_up(machine, "two", "translate", "photos") == f"cgpipe of {two}: translate photos"


def test_uv_is_told_what_pip_is_set_to(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [
        ":env:.find-links='/own /more'",
        "global.constraint='limits.txt'",
        r"global.extra-index-url='\nfile:///one\nhttps://two'",
        "global.find-links='/wheels'",
    ]
    monkeypatch.setenv("PIP_SETTINGS", "\n".join(settings))
    venv = set_up(machine, "one")
    (line,) = installs(machine)
    assert line.startswith("uv pip install") and f"--python {venv}/bin/python" in line
    told = dict(line.split("=", 1) for line in (machine / "pip.log.env").read_text().splitlines())
    assert told["UV_FIND_LINKS"] == "/own,/more" and told["UV_CONSTRAINT"] == "limits.txt"
    assert told["UV_INDEX"].split() == ["file:///one", "https://two"] and told["UV_DEFAULT_INDEX"] == ""
    assert not Path(told["UV_CACHE_DIR"]).exists()


@pytest.mark.parametrize("status", ["", "2"])
def test_pip_installs_where_uv_cannot(machine: Path, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    monkeypatch.setenv("UV_EXIT", status)
    set_up(machine, "one")
    assert [line.split()[0] for line in installs(machine)] == ["uv", "pip"][not status :]
    assert installs(machine)[-1].endswith("[test]")


def test_it_is_rebuilt_when_the_requirements_change(machine: Path) -> None:
    set_up(machine, "one")
    (machine / "one" / "cgpipe" / "setup.py").write_text("other requirements")
    set_up(machine, "one")
    assert len(installs(machine)) == 2


def test_it_is_rebuilt_for_other_extras(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(machine, "one")
    monkeypatch.setenv("CGPIPE_EXTRAS", "serve,ui")
    assert set_up(machine, "one") == set_up(machine, "one")
    plain, extras = installs(machine)
    assert plain.endswith("[test]") and extras.endswith("[serve,ui]")


def test_one_that_is_gone_takes_nothing_from_the_other(machine: Path) -> None:
    one, two = (set_up(machine, name) for name in ("one", "two"))
    shutil.rmtree(machine / "one")
    assert set_up(machine, "two") == two and Path(two).is_dir()
    assert Path(one).is_dir(), "removed only when another is set up"
    shutil.copytree(machine / "two", machine / "three")
    three = set_up(machine, "three")
    assert [Path(venv).is_dir() for venv in (one, two, three)] == [False, True, True]


def test_a_place_of_ones_own_and_what_is_no_environment(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGPIPE_VENV", str(machine / "mine"))
    assert set_up(machine, "one") == str(machine / "mine")
    (machine / "full").mkdir()
    monkeypatch.setenv("CGPIPE_VENV", str(machine / "full"))
    with pytest.raises(subprocess.CalledProcessError):
        set_up(machine, "one")
    assert os.listdir(machine / "full") == []
