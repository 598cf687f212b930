"""What differs on macOS and Windows, by stand-ins: no fork, names and paths, files that another program holds."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
from clips import picture
from PIL import Image

import cgpipe
from cgpipe import storage
from cgpipe.jobs import pictures


def photos(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.fromarray(picture(number)).save(folder / name)
    return folder


def test_without_fork_no_process_is_started_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for method, workers in (("fork", 16), ("spawn", 0), ("forkserver", 0)):
        monkeypatch.setattr(multiprocessing, "get_start_method", lambda method=method: method)
        assert pictures._workers(None, "cpu", 100) == workers


def test_a_gpus_few_pictures_wait_for_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "fork")
    assert [pictures._workers(None, "cuda", count) for count in (4, 5, 100)] == [0, 5, 32]
    assert [pictures._workers(asked, "cuda", 3) for asked in (0, 2, 8)] == [0, 2, 3]


@pytest.mark.slow
def test_workers_spawn(tmp_path: Path) -> None:
    """As on macOS and Windows: a script that guards its main module, with a worker process that starts afresh."""
    photos(tmp_path / "photos", "a.png", "b.png")
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, cgpipe\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    print(cgpipe.translate_folder('photos', to='zebra', size=32, workers=1).translated)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stderr


def test_names_that_windows_keeps_for_itself_fail_alone_or_pass(tmp_path: Path) -> None:
    """``aux.png`` cannot be there on Windows, and on other systems is a picture like any other."""
    folder = photos(tmp_path / "photos", "aux.png", "con.jpg", "plain.png", "back\\slash.png", "colon:.png")
    report = cgpipe.translate_folder(folder, to="zebra", size=32)
    assert report.translated == 5 and not report.failures
    assert {path.name for path in folder.iterdir()} == {
        path.name for path in (tmp_path / "photos-zebra").iterdir() if not path.name.startswith(".")
    }


def ignoring_case(self: Path) -> bool:
    """``Path.exists`` on a disk that tells no capitals from small letters, as those of macOS and Windows."""
    siblings = os.listdir(self.parent) if os.path.isdir(self.parent) else []
    return self.name.casefold() in (name.casefold() for name in siblings)


def test_names_that_differ_in_case_alone_would_be_one_file_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is written; on a disk that tells them apart both are made."""
    first, second = photos(tmp_path / "one", "Tower.png"), photos(tmp_path / "two", "tower.png")
    inputs = [first / "Tower.png", second / "tower.png"]
    assert cgpipe.translate_folder(inputs, tmp_path / "plain", to="zebra", size=32).translated == 2
    monkeypatch.setattr(Path, "exists", ignoring_case)
    monkeypatch.setattr(Path, "samefile", lambda self, other: str(self).casefold() == str(other).casefold())
    with pytest.raises(cgpipe.UsageError, match=r"ower\.png"):
        cgpipe.translate_folder(inputs, tmp_path / "out", to="zebra", size=32)
    assert not os.path.exists(tmp_path / "out")


@pytest.mark.parametrize("path", [r"C:\clips\in.mp4", r"\\server\share\in.mp4", "C:/clips/in.mp4"])
def test_paths_of_windows_are_no_addresses(path: str) -> None:
    assert not storage.is_address(path)


def test_long_paths(tmp_path: Path) -> None:
    """Beyond the 260 letters that Windows allows by default; each name as long as may be."""
    folder = photos(tmp_path / ("d" * 120) / ("e" * 120), "x" * 200 + ".png")
    report = cgpipe.translate_folder(folder, tmp_path / "out", to="zebra", size=32)
    assert report.translated == 1 and (tmp_path / "out" / ("x" * 200 + ".png")).is_file()


def test_a_file_that_another_program_holds_stays_as_it_is(tmp_path: Path) -> None:
    """On Windows a file that is open elsewhere cannot be replaced: an error with its name, and nothing beside it."""
    target = tmp_path / "held.txt"
    target.write_text("theirs")

    def held(temporary: object, path: object) -> None:
        raise PermissionError(13, "The process cannot access the file", str(path))

    with pytest.raises(PermissionError, match=r"held\.txt"), storage.atomic_write(target, publish=held) as temporary:
        temporary.write_text("ours")
    assert target.read_text() == "theirs" and os.listdir(tmp_path) == ["held.txt"]


def test_a_job_without_the_locks_of_unix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no ``fcntl``, and an open file cannot be renamed there."""
    monkeypatch.setattr(storage, "fcntl", None)
    folder = photos(tmp_path / "photos", "a.png")
    assert cgpipe.translate_folder(folder, to="zebra", size=32).translated == 1
    assert cgpipe.translate_folder(folder, to="zebra", size=32).skipped == 1
