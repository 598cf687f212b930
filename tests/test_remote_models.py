"""Models by address: from a server with TLS turned off, and from a hub that stands in for the real one."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cgpipe.errors import MissingDependencyError, ModelError, ModelNotFoundError, UsageError
from cgpipe.models import find_model, remote
from cgpipe.web import opened

FileModel = Callable[..., Path]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_model: FileModel) -> Iterator[SimpleNamespace]:
    """A model file behind an address, which begins with https here and is http to the server."""
    content = file_model(tmp_path / "there").read_bytes()
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path.endswith("horse2zebra.safetensors") else 404)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(remote, "opened", lambda url, **_: opened(url.replace("https", "http", 1)))
    monkeypatch.setattr(remote, "cache_folder", lambda *names: tmp_path.joinpath("cache", *names))
    address = f"https://127.0.0.1:{server.server_port}/horse2zebra.safetensors"
    yield SimpleNamespace(address=address, sum=hashlib.sha256(content).hexdigest(), asked=asked)
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_is_fetched_once_and_read_as_any_other(served: SimpleNamespace) -> None:
    for _ in range(2):
        found = find_model(file=f"{served.address}#sha256={served.sum}")
        assert found.card is not None and found.card.pair == "horse to zebra"
    assert len(served.asked) == 1


def test_another_checksum_keeps_nothing(served: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"has the SHA-256 {served.sum}"):
        find_model(file=f"{served.address}#sha256={'0' * 64}")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_of_the_cache_that_was_changed_is_fetched_again(served: SimpleNamespace) -> None:
    address = f"{served.address}#sha256={served.sum}"
    path = find_model(file=address).path
    path.write_bytes(b"other")
    assert find_model(file=address).card is not None
    assert len(served.asked) == 2


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("https://host/net.onnx", "append the SHA-256"),
        ("https://u:secret@host/net.onnx#md5=00", r"^https://host/net\.onnx"),
        ("http://host/net.onnx#sha256=" + "0" * 64, r"hf://OWNER/NAME"),
        ("ftp://host/net.onnx", r"hf://OWNER/NAME"),
        ("https://host/net.onnx?X-Amz-Signature=secret#md5=00", r"^https://host/net\.onnx\?…"),
        ("https://host/#sha256=" + "0" * 64, "does not name a file"),
        ("hf://owner", r"hf://OWNER/NAME/FILE"),
        ("hf://owner/name/../x", r"hf://OWNER/NAME/FILE"),
    ],
)
def test_other_addresses_are_wrong_usage(address: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        find_model(file=address)


def test_without_a_connection_or_a_file_the_word_is_clear(served: SimpleNamespace) -> None:
    missing = served.address.replace("horse2zebra", "gone")
    with pytest.raises(ModelNotFoundError, match=r"gone\.safetensors cannot be downloaded, and is not in the cache"):
        find_model(file=f"{missing}#sha256={'0' * 64}")
    with pytest.raises(ModelNotFoundError, match="cannot be downloaded"):
        find_model(file=f"https://127.0.0.1:1/x.safetensors#sha256={'0' * 64}")


def hub(files: list[str], path: Path) -> SimpleNamespace:
    """In place of huggingface_hub: one repository, owner/name."""

    def download(repository: str, file: str) -> str:
        if repository != "owner/name" or file not in files:
            raise RuntimeError("404: no such file\nand much more")
        return str(path)

    return SimpleNamespace(hf_hub_download=download, list_repo_files=lambda repository: files)


def test_the_hub(tmp_path: Path, file_model: FileModel, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file_model(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub(["README.md", "x.safetensors"], path))
    for address in ("hf://owner/name", "hf://owner/name/x.safetensors"):
        assert find_model(file=address).path == path
    with pytest.raises(ModelNotFoundError, match=r"gone\.pth cannot be downloaded, .*: 404: no such file\.$"):
        find_model(file="hf://owner/name/gone.pth")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub(["a.onnx", "b.pth"], path))
    with pytest.raises(UsageError, match=r"2 model files\. Append one of them: a\.onnx, b\.pth"):
        find_model(file="hf://owner/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"cgpipe\[hub\]"):
        find_model(file="hf://owner/name")
