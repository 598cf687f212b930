"""Whole files, temporaries, locks, and what tells a file from another."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cgpipe import storage
from cgpipe.storage import Stamp, atomic_write, digest_of, is_own, partial_of, remove_stale, take_over


def test_atomic_write_appears_at_once_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sub" / "Ähre 1.jpg"
    for durable, text in ((False, "first"), (True, "second")):
        with atomic_write(path, durable=durable) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent
            assert temporary.suffix == ".jpg"
            assert path.exists() == durable
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["Ähre 1.jpg"]


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_failed_atomic_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            write_half(path, error)
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_long_names_leave_room_for_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".jpg")
    with atomic_write(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


def test_permissions_are_those_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a") as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


WRITER = """
import sys, time
from cgpipe.storage import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


def writer_of(path: Path, *before: str) -> subprocess.Popen[str]:
    """A process, started by the command ``before``, that has begun to write ``path`` and does not end by itself."""
    search = os.pathsep.join(filter(None, sys.path))
    command = [*before, sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": search})
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    return process


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "old.jpg").touch()
    (tmp_path / ".cgpipe-other.jpg").touch()
    with writer_of(tmp_path / "b.jpg") as writer, atomic_write(tmp_path / "mine.jpg") as mine:
        mine.write_text("half")
        assert remove_stale(tmp_path) == 0  # both are still being written
        left = next(path for path in tmp_path.glob(".cgpipe-*-*") if path != mine)
        writer.kill()
        writer.wait()
        foreign = left.with_name(left.name.replace(storage.HOST, "00000000"))
        foreign.write_text("of a process on another machine")
        assert remove_stale(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == [foreign.name, ".cgpipe-other.jpg", "mine.jpg", "old.jpg"]
    assert remove_stale(tmp_path / "nowhere") == 0


CONTAINER = ("unshare", "--pid", "--fork", "--kill-child")


@pytest.mark.skipif(
    subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode != 0
    if sys.platform == "linux"
    else True,
    reason="needs the right to make a PID namespace",
)
def test_containers_that_share_a_host_name_leave_each_other_alone(tmp_path: Path) -> None:
    """A process of a container has an id, mostly 1, that is another process's here, or nobody's."""
    with writer_of(tmp_path / "a.jpg", *CONTAINER) as inside:
        assert remove_stale(tmp_path) == 0
        inside.kill()
        inside.wait()
        deadline = time.monotonic() + 10
        while remove_stale(tmp_path) == 0:
            assert time.monotonic() < deadline, "what pid 1 of a container that is gone left is removed"
            time.sleep(0.02)
    assert os.listdir(tmp_path) == []


def test_without_locks_only_what_is_a_day_old_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(storage.fcntl, "flock", refuse)
    with atomic_write(tmp_path / "a.jpg") as temporary:
        temporary.write_text("half")
        assert remove_stale(tmp_path) == 0
        long_ago = time.time() - storage.STALE_SECONDS - 60
        os.utime(temporary, (long_ago, long_ago))
        copy = temporary.rename(tmp_path / f".cgpipe-{storage.HOST}-00000000")
        assert remove_stale(tmp_path) == 1
        copy.write_text("again")
        copy.rename(temporary)
    assert os.listdir(tmp_path) == ["a.jpg"]


def test_many_temporaries_are_made_and_swept_at_once(tmp_path: Path) -> None:
    """A sweep that meets a temporary before it is locked takes it away unused; its writer takes another."""
    done = threading.Event()

    def sweep() -> None:
        while not done.is_set():
            remove_stale(tmp_path)

    def write(number: int) -> None:
        for turn in range(50):
            with atomic_write(tmp_path / f"{number}-{turn}") as temporary:
                temporary.write_text("whole")

    with ThreadPoolExecutor(6) as pool:
        sweeps = [pool.submit(sweep) for _ in range(2)]
        writers = [pool.submit(write, number) for number in range(4)]
        for writer in writers:
            writer.result()
        done.set()
        for swept in sweeps:
            swept.result()
    assert len(os.listdir(tmp_path)) == 200
    assert {path.read_text() for path in tmp_path.iterdir()} == {"whole"}


def test_only_a_file_that_nobody_holds_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / f".cgpipe-journal-{storage.HOST}-00000000"
    assert take_over(path) is None
    path.touch()
    file = take_over(path)
    assert file is not None
    assert take_over(path) is None
    os.close(file)
    again = take_over(path)
    assert again is not None
    os.close(again)


def test_names_of_our_own(tmp_path: Path) -> None:
    assert partial_of(tmp_path / "horse2zebra.zip") == tmp_path / ".cgpipe-partial-horse2zebra.zip"
    assert is_own(partial_of("a").name)
    assert not is_own("a.jpg") and not is_own(".hidden.jpg")
    partial_of(tmp_path / "x").touch()
    assert remove_stale(tmp_path) == 0


def test_a_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("the same")
    two.write_text("the same")
    os.utime(two, ns=(0, 7))
    assert digest_of(one) == digest_of(two)
    two.write_text("the samE")
    assert digest_of(one) != digest_of(two)
    assert Stamp.of(one) == (8, one.stat().st_mtime_ns)
    before = digest_of(tmp_path)
    (tmp_path / ".hidden").touch()
    assert digest_of(tmp_path) == before
    one.touch()
    assert digest_of(tmp_path) != before
