"""A real S3 server on loopback, and a proxy before it that answers 503, breaks connections off and counts."""

from __future__ import annotations

import http.client
import logging
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REGION = "us-east-1"


@dataclass
class Faults:
    """What goes wrong on the way to the server, as shares of all requests.

    Args:
        busy: answered with 503.
        broken: the connection ends before the answer, half of the times after the server has done what was asked.
        seed: of the chances.

    Attributes:
        counts: of ``busy``, ``broken``, and of the methods that reached the server.
        puts: how often each object was put.
    """

    busy: float = 0.0
    broken: float = 0.0
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    puts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.lock = threading.Lock()

    def draw(self) -> float:
        with self.lock:
            return self.chance.random()


@contextmanager
def s3_server() -> Iterator[tuple[str, int]]:
    """Host and port of a server."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()
    finally:
        server.stop()


@contextmanager
def bucket_behind(faults: Faults, host: str, port: int) -> Iterator[str]:
    """The address of the empty bucket ``photos`` on a server, behind faults."""
    connection = http.client.HTTPConnection(host, port)
    connection.request("POST", "/moto-api/reset")
    connection.getresponse().read()
    connection.request("PUT", "/photos", headers={"Authorization": _anybody()})
    connection.getresponse().read()
    connection.close()
    with _proxy(host, port, faults) as address:
        yield address


def _anybody() -> str:
    scope = f"AKIA/20260101/{REGION}/s3/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"


@contextmanager
def _proxy(host: str, port: int, faults: Faults) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self._body()
            fate = faults.draw()
            if fate < faults.busy:
                faults.counts["busy"] += 1
                return self._answer(503, [("Retry-After", "0")], b"<Error><Code>SlowDown</Code></Error>")
            if fate < faults.busy + faults.broken / 2:
                faults.counts["broken"] += 1
                return self._break()
            status, headers, content = self._passed_on(body)
            with faults.lock:
                faults.counts[self.command] += 1
                if self.command == "PUT" and status == 200:
                    faults.puts[self.path.partition("?")[0]] += 1
            if fate < faults.busy + faults.broken:
                faults.counts["broken"] += 1
                with suppress(OSError):
                    self._answer(status, headers, content[: len(content) // 2])
                return self._break()
            return self._answer(status, headers, content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815  # what http.server calls

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline().strip() or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(host, port, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name != "Transfer-Encoding"}
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            dropped = ("transfer-encoding", "connection", "content-length")
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in dropped]
            size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            return answer.status, [*kept, ("Content-Length", size or "0")], content

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if not any(name == "Content-Length" for name, _ in headers):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _break(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
