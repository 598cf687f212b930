"""Fetching from servers on this machine that mean harm: nothing else than http, never for ever, no password shown."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from shell import invoke

from cgpipe.data import download as downloads
from cgpipe.data.download import download, fetch
from cgpipe.errors import DataError, UsageError

OK = b"HTTP/1.1 200 OK\r\n"


@dataclass
class Raw:
    """A server that says whatever ``answer`` writes, to each connection."""

    answer: Callable[[socket.socket, bytes], None]
    port: int = 0
    asked: list[bytes] = field(default_factory=list)

    def url(self, user: str = "", path: str = "set.zip") -> str:
        return f"http://{user}127.0.0.1:{self.port}/{path}"


@contextmanager
def serving(answer: Callable[[socket.socket, bytes], None] | bytes) -> Iterator[Raw]:
    server = Raw((lambda connection, _: connection.sendall(answer)) if isinstance(answer, bytes) else answer)

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            server.asked.append(connection.recv(65536))
            server.answer(connection, server.asked[-1])

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)


def redirect(target: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "time", type("Time", (), {"sleep": staticmethod(lambda seconds: None)}))


@pytest.mark.parametrize(
    "target", ["ftp://127.0.0.1/set.zip", "file:///etc/passwd", "data:text/plain,hello", "gopher://h/x", "javascript:1"]
)
def test_a_redirection_to_another_protocol_is_refused(tmp_path: Path, target: str) -> None:
    with serving(redirect(target)) as server, pytest.raises(DataError, match="which is not http or https"):
        fetch("mine", tmp_path, url=server.url())
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_redirection_for_ever_ends(tmp_path: Path) -> None:
    with serving(redirect("/again")) as server, pytest.raises(DataError, match="302"):
        fetch("mine", tmp_path, url=server.url())
    assert len(server.asked) < 20


@pytest.mark.parametrize(
    "url", ["ftp://h/x.zip", "file:///etc/passwd", "x.zip", "http://", "http://[h/", "http://h:x/"]
)
def test_other_addresses_are_wrong_usage(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError):
        fetch("mine", tmp_path, url=url)


def drip_body(connection: socket.socket, request: bytes) -> None:
    connection.sendall(OK + b"Content-Length: 1000000\r\n\r\n")
    drip(connection, b"x")


def drip_headers(connection: socket.socket, request: bytes) -> None:
    connection.sendall(OK)
    drip(connection, b"X-Y: z\r\n")


def drip(connection: socket.socket, part: bytes) -> None:
    for _ in range(400):
        connection.sendall(part)
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [drip_body, drip_headers, lambda connection, request: drip(connection, b"")])
def test_a_server_that_drips_or_says_nothing_is_not_listened_to_for_ever(
    tmp_path: Path, answer: Callable[[socket.socket, bytes], None]
) -> None:
    began = time.monotonic()
    with serving(answer) as server, pytest.raises(DataError, match=r"less than 1 kB per second|timed out"):
        download(server.url(), tmp_path / "file", tries=2, patience=0.5)
    assert time.monotonic() - began < 15
    assert len(server.asked) == 2


@pytest.mark.parametrize("length", [b"Content-Length: 3000000\r\n", b""])
def test_an_archive_that_is_too_large_is_refused_and_removed(tmp_path: Path, length: bytes) -> None:
    answer, message = OK + length + b"\r\n" + b"x" * 3_000_000, r"larger than 0\.002 GB"
    with serving(answer) as server, pytest.raises(DataError, match=message):
        fetch("mine", tmp_path, url=server.url(), max_size=2_000_000)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_nobody_asked_for_does_not_grow_for_ever(tmp_path: Path) -> None:
    part = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 7-9/10\r\nContent-Length: 3\r\n\r\nabc"
    with serving(part) as server, pytest.raises(DataError, match="a different part of the file"):
        download(server.url(), tmp_path / "file")
    assert len(server.asked) == downloads.TRIES
    assert list(tmp_path.iterdir()) == []


def test_one_byte_a_try_comes_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MOST_TRIES", 20)

    def one_byte(connection: socket.socket, request: bytes) -> None:
        first = int(request.partition(b"bytes=")[2].partition(b"-")[0] or 0)
        kind = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-99/100\r\n".encode() if first else OK
        connection.sendall(kind + b"Content-Length: %d\r\n\r\nx" % (100 - first))

    with serving(one_byte) as server, pytest.raises(DataError, match="is kept"):
        download(server.url(), tmp_path / "file")
    assert len(server.asked) == 20


def test_a_password_is_used_and_never_shown(tmp_path: Path) -> None:
    with serving(b"HTTP/1.1 404 No\x1b[31m\r\n\r\n") as server:
        address = server.url("us%65r:secret@", "set.zip?token=hidden")
        result = invoke("data", "fetch", "mine", "--url", address, "-o", tmp_path)
    assert result.exit_code == 1
    assert base64.b64encode(b"user:secret") in server.asked[0]
    assert f"http://127.0.0.1:{server.port}/set.zip?…: " in result.output
    for hidden in ("secret", "hidden", "us%65r", "\x1b"):
        assert hidden not in result.output, result.output


def test_a_password_does_not_go_to_another_server_and_one_in_a_redirection_is_not_shown(tmp_path: Path) -> None:
    with (
        serving(b"HTTP/1.1 404 Not Found\r\n\r\n") as other,
        serving(redirect(f"http://me:secret2@127.0.0.1:{other.port}/x")) as server,
        pytest.raises(DataError) as error,
    ):
        fetch("mine", tmp_path, url=server.url("user:secret@"))
    assert b"Authorization" in server.asked[0] and b"Authorization" not in other.asked[0]
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["http://user:secret@h:x/", "ftp://user:secret@h/x", "http://user:secret@/x"])
def test_a_wrong_address_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError) as error:
        fetch("mine", tmp_path, url=url)
    assert "secret" not in str(error.value)


def test_a_full_disk_is_said_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("/dev/full")
    with serving(OK + b"Content-Length: 3\r\n\r\nabc") as server, pytest.raises(DataError, match="No space left"):
        download(server.url(), tmp_path / "file")
    assert len(server.asked) == 1
