"""Bytecode is kept for libraries that were installed without; here a small one."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from cgpipe.bytecode import keep_bytecode

NAME = "a_library_without_bytecode"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "__init__.py").write_text("value = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    sys.modules.pop(NAME, None)


def kept() -> list[Path]:
    return list((user_cache_path("cgpipe") / "bytecode").rglob(f"{NAME}/__init__*.pyc"))


def test_it_is_kept_where_python_would_keep_none(library: Path) -> None:
    keep_bytecode(NAME)
    importlib.import_module(NAME)
    assert len(kept()) == 1
    assert not (library / "__pycache__").exists()


def test_bytecode_that_is_there_is_used(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    importlib.import_module(NAME)
    assert list(library.glob("__pycache__/*.pyc"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    keep_bytecode(NAME)
    assert (sys.pycache_prefix, sys.dont_write_bytecode) == (None, True)


def test_python_keeps_it_itself_beside_a_library_that_can_be_written(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    keep_bytecode(NAME)
    assert sys.pycache_prefix is None


def test_a_folder_that_the_user_named_stays(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "named"))
    keep_bytecode(NAME)
    assert sys.pycache_prefix == str(tmp_path / "named")


def test_a_disk_that_is_nearly_full_keeps_none(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that was written in part, some versions of Python say that its data is too short, at every start."""
    monkeypatch.setattr("cgpipe.bytecode.ROOM", shutil.disk_usage("/").total * 2)
    keep_bytecode(NAME)
    assert (sys.pycache_prefix, sys.dont_write_bytecode) == (None, True)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_limit_of_files_keeps_none(library: Path) -> None:
    code = f"import sys; from cgpipe.bytecode import keep_bytecode; keep_bytecode({NAME!r}); print(sys.pycache_prefix)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPYCACHEPREFIX", None)
    for limit, expected in (("ulimit -f 20", "None"), ("true", str(user_cache_path("cgpipe") / "bytecode"))):
        command = ["bash", "-c", f'{limit}; exec "$@"', "bash", sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_without_the_library_nothing_changes(library: Path) -> None:
    keep_bytecode(NAME + "_missing")
    assert sys.pycache_prefix is None
