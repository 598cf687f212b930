"""Fetching datasets: against a server on this machine that breaks off, lies, is away, and serves hostile archives."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from shell import invoke

from cgpipe.data import download as datasets
from cgpipe.data.download import KnownDataset, digest_of, download, fetch
from cgpipe.errors import DataError, UsageError


@dataclass
class Served:
    """What the server gives out, how it misbehaves, and what it was asked."""

    contents: bytes = b""
    etag: str = '"one"'
    break_after: int | None = None
    """Bytes of each answer after which the connection ends."""
    claims: int | None = None
    """The length that it speaks of, in place of the true one."""
    status: int = 200
    ranges: bool = True
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def served() -> Iterator[Served]:
    state = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.status != 200:
                self.send_error(state.status)
                return
            first = 0
            if wanted and state.ranges and self.headers.get("If-Range", state.etag) == state.etag:
                first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
                if first >= len(state.contents):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(state.contents)}")
                    self.end_headers()
                    return
                self.send_response(206)
                last, size = len(state.contents) - 1, len(state.contents)
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            else:
                self.send_response(200)
            self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(state.claims or len(state.contents) - first))
            self.end_headers()
            self.wfile.write(state.contents[first:][: state.break_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/set.zip"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        server.shutdown()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.time, "sleep", lambda seconds: None)


def archive_of(*names: str, symlink: str | None = None, top: str = "set/") -> bytes:
    """A zip archive with a small picture of noise under every name."""
    buffer, noise = io.BytesIO(), np.random.default_rng(0)
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            picture = cv2.imencode(".png", noise.integers(0, 255, (16, 16, 3), np.uint8))[1].tobytes()
            archive.writestr(top + name, picture)
        if symlink:
            member = zipfile.ZipInfo(top + symlink)
            member.external_attr = 0o120777 << 16
            archive.writestr(member, "/etc/passwd")
    return buffer.getvalue()


WHOLE = ("trainA/1.png", "trainA/2.png", "trainB/1.png", "testA/1.png")


def test_a_dataset_is_there_after_one_command(served: Served, tmp_path: Path) -> None:
    served.contents = archive_of(*WHOLE)
    told: list[tuple[int, int | None]] = []
    report = fetch("mine", tmp_path, url=served.url, on_bytes=lambda there, total: told.append((there, total)))
    assert report.downloaded and not report.verified
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == sorted(f"mine/{name}" for name in WHOLE)  # and no archive, no partial file, no folder "set"
    assert told[-1] == (len(served.contents), len(served.contents))
    again = fetch("mine", tmp_path, url=served.url)
    assert not again.downloaded and again.digest == report.digest
    assert len(served.asked) == 1


def test_the_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/2.png", "a/10.png", "b.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    lines = "".join(f"{hashlib.sha256(n.encode()).hexdigest()}  {n}\n" for n in ("a/10.png", "a/2.png", "b.jpg"))
    assert digest_of(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()


def test_a_connection_that_breaks_off_again_and_again_is_taken_up(served: Served, tmp_path: Path) -> None:
    served.contents = archive_of(*WHOLE)
    served.break_after = len(served.contents) // 9
    fetch("mine", tmp_path, url=served.url)
    assert len(served.asked) >= 9
    assert served.asked[0] is None and served.asked[1] == f"bytes={served.break_after}-"


def test_the_next_call_goes_on_where_one_gave_up(served: Served, tmp_path: Path) -> None:
    served.contents = bytes(range(256)) * 40
    served.break_after = 1000
    path = tmp_path / "file"
    download(served.url, path, tries=1)
    assert path.read_bytes() == served.contents
    path.write_bytes(served.contents[:4000])
    served.asked.clear()
    download(served.url, path)
    assert path.read_bytes() == served.contents
    assert served.asked[0] == "bytes=4000-"


def test_what_has_changed_on_the_server_is_downloaded_from_its_beginning(served: Served, tmp_path: Path) -> None:
    served.contents, served.break_after = b"old" * 1000, 500
    path = tmp_path / "file"
    with pytest.raises(OSError, match=r"IncompleteRead|broke off"):
        datasets._download_rest(served.url, path, None, 10**9, 30)
    assert path.stat().st_size == 500
    served.contents, served.etag, served.break_after = b"newer" * 1000, '"two"', None
    download(served.url, path)
    assert path.read_bytes() == served.contents


def test_a_server_without_ranges_starts_again(served: Served, tmp_path: Path) -> None:
    served.contents, served.ranges = b"x" * 3000, False
    path = tmp_path / "file"
    path.write_bytes(b"y" * 1000)
    download(served.url, path)
    assert path.read_bytes() == served.contents


def test_a_server_that_lies_about_the_length_is_not_believed(served: Served, tmp_path: Path) -> None:
    served.contents = archive_of(*WHOLE)
    served.claims, served.ranges = len(served.contents) + 1000, False
    with pytest.raises(DataError, match=r"broke off|IncompleteRead|more expected"):
        fetch("mine", tmp_path, url=served.url)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (503, datasets.TRIES)])
def test_a_server_that_refuses_is_named_with_its_words(
    served: Served, tmp_path: Path, status: int, requests: int
) -> None:
    served.status = status
    with pytest.raises(DataError, match=f"the server says {status}"):
        fetch("mine", tmp_path, url=served.url)
    assert len(served.asked) == requests
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_an_error_in_words(tmp_path: Path) -> None:
    result = invoke("data", "fetch", "mine", "--url", "http://127.0.0.1:9/x.zip", "-o", tmp_path)
    assert result.exit_code == 1
    assert "cannot be downloaded" in result.output and "refused" in result.output


@pytest.mark.parametrize("name", ["../../evil.png", "/tmp/evil.png", "..\\evil.png", "C:/evil.png"])
def test_an_archive_that_leads_out_of_its_folder_is_refused(served: Served, tmp_path: Path, name: str) -> None:
    served.contents = archive_of(*(f"set/{n}" for n in WHOLE), name, top="")
    with pytest.raises(DataError, match="points outside of its folder"):
        fetch("mine", tmp_path / "datasets", url=served.url)
    assert {p.name for p in tmp_path.rglob("*.png")} == set()


def test_an_archive_with_a_link_is_refused(served: Served, tmp_path: Path) -> None:
    served.contents = archive_of(*WHOLE, symlink="trainA/3.png")
    with pytest.raises(DataError, match="points outside of its folder"):
        fetch("mine", tmp_path, url=served.url)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_larger_than_the_disk_is_refused_before_it_is_unpacked(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.contents = archive_of(*WHOLE)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(DataError, match="only 100 are free"):
        fetch("mine", tmp_path, url=served.url)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "not a zip"])
def test_a_damaged_archive_is_removed_and_nothing_is_unpacked(served: Served, tmp_path: Path, damage: str) -> None:
    whole = archive_of(*WHOLE)
    middle = len(whole) // 3
    served.contents = {
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes(255 - b for b in whole[middle : middle + 40]) + whole[middle + 40 :],
        "not a zip": b"<html>moved</html>",
    }[damage]
    with pytest.raises(DataError, match="damaged"):
        fetch("mine", tmp_path, url=served.url)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_without_the_two_halves_is_no_dataset(served: Served, tmp_path: Path) -> None:
    served.contents = archive_of("trainA/1.png")
    with pytest.raises(DataError, match="no dataset with trainA and trainB"):
        fetch("mine", tmp_path, url=served.url)
    assert list(tmp_path.iterdir()) == []


def test_sums_decide(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served.contents = archive_of(*WHOLE)
    right = hashlib.sha256(served.contents).hexdigest()
    assert fetch("one", tmp_path, url=served.url, sha256=right.upper()).verified
    with pytest.raises(DataError, match=f"has the SHA-256 {right}"):
        fetch("two", tmp_path, url=served.url, sha256="0" * 64)
    assert not (tmp_path / "two").exists()
    digest = digest_of(tmp_path / "one")
    monkeypatch.setattr(datasets, "SERVER", served.url.removesuffix("/set.zip"))
    for name, sum_ in (("good", digest), ("bad", "0" * 64)):
        monkeypatch.setattr(datasets, "DATASETS", {name: KnownDataset(domains=("a", "b"), digest=sum_)})
        if name == "good":
            assert fetch(name, tmp_path).verified
        else:
            with pytest.raises(DataError, match="another archive"):
                fetch(name, tmp_path)
            assert not (tmp_path / "bad").exists()


def test_a_checksum_of_an_archive_that_was_not_fetched_is_not_passed_over(served: Served, tmp_path: Path) -> None:
    served.contents = archive_of(*WHOLE)
    fetch("mine", tmp_path, url=served.url)
    result = invoke("data", "fetch", "mine", "--url", served.url, "-o", tmp_path, "--sha256", "0" * 64)
    assert "already exists" in result.output and "nothing was downloaded: remove the folder" in result.output


def test_names_that_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="horse2zebra"):
        fetch("horse2zebr", tmp_path)
    with pytest.raises(UsageError, match="is not a valid folder name"):
        fetch("../x", tmp_path, url="http://127.0.0.1/x.zip")
    with pytest.raises(UsageError, match="use http:// or https://"):
        fetch("mine", tmp_path, url="file:///etc/passwd")


def test_the_commands_say_what_there_is_and_how_to_go_on(served: Served, tmp_path: Path) -> None:
    listed = invoke("data", "list")
    assert "summer2winter_yosemite  summer and winter" in listed.output
    served.contents = archive_of(*WHOLE)
    script = Path(__file__).parent.parent / "bin" / "download-dataset"
    assert "data fetch" in script.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    command = ["data", "fetch", "horse2zebra", "--url", served.url, "-o", str(tmp_path)]
    fetched = invoke(*command)
    assert fetched.exit_code == 0, fetched.output
    assert "--source horse --target zebra" in fetched.output and "No known checksum" in fetched.output
