"""Requests to untrusted servers: http and https only, never without a timeout, no password in a message."""

from __future__ import annotations

import base64
import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from email.message import Message
from functools import partial
from types import MappingProxyType
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from cgpipe.errors import UsageError
from cgpipe.storage import shown

SCHEMES = ("http", "https")
PATIENCE = 30.0
"""Seconds after which a slow connection is closed."""
SLOWEST = 1000
"""Minimum rate of a server in bytes per second."""
_LONGEST_REASON = 200


def check_address(url: str) -> None:
    """Raises UsageError unless ``url`` is a valid http or https address."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in SCHEMES and parts.hostname and (parts.port or True) and " " not in url
    except ValueError as error:
        raise UsageError(f"The address cannot be read: {error}.") from error
    if not (whole and url.isprintable()):
        raise UsageError(f"{shown(url)} is not a valid address: use http:// or https:// and a server.")


@contextmanager
def opened(
    url: str,
    headers: Mapping[str, str] = MappingProxyType({}),
    *,
    patience: float = PATIENCE,
    schemes: Sequence[str] = SCHEMES,
) -> Iterator[Response]:
    """Requests ``url`` and yields the answer; a slow connection is closed.

    Args:
        headers: further headers of the request.
        patience: seconds after which a slow connection is closed.
        schemes: the protocols to which the server may redirect.

    Raises:
        RedirectError: the server redirects to another protocol.
        OSError, http.client.HTTPException: there is no answer, or ``urllib.error.HTTPError``, which has a status.
    """
    request = urllib.request.Request(_without_user(url), headers={"User-Agent": "cgpipe", **headers})
    user = _user(urlsplit(url))
    if user:
        request.add_unredirected_header("Authorization", user)
    with _Watch(patience) as watch:
        try:
            with _opener(watch, schemes).open(request, timeout=patience) as answer:
                yield Response(answer, watch)
        except urllib.error.HTTPError as error:
            error.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            if watch.gave_up and not isinstance(error, TooSlowError):
                raise TooSlowError from error
            raise


def reason_of(error: Exception) -> str:
    """A short reason; messages of a server are truncated."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server says {error.code} {str(error.reason)[:_LONGEST_REASON]}"
    inner = getattr(error, "reason", None) or error
    return str(getattr(inner, "strerror", None) or inner or type(inner).__name__)[:_LONGEST_REASON]


class TooSlowError(OSError):
    """The server is too slow."""

    def __init__(self) -> None:
        super().__init__(f"the server sends less than {SLOWEST / 1000:.0f} kB per second")


class RedirectError(OSError):
    """The server redirects to a protocol that is not allowed."""

    def __init__(self, target: str, schemes: Sequence[str]) -> None:
        super().__init__(f"it redirects to {shown(target)}, which is not {' or '.join(schemes)}")


class Response:
    """An answer, read as it comes."""

    def __init__(self, answer: http.client.HTTPResponse, watch: _Watch) -> None:
        self.status: int = answer.status
        self.headers: Message = answer.headers
        self._answer = answer
        self._watch = watch

    def chunks(self, size: int) -> Iterator[bytes]:
        """The body in parts of at most ``size`` bytes.

        Raises:
            TooSlowError: too little came.
        """
        while chunk := self._answer.read1(size):
            self._watch.received += len(chunk)
            yield chunk
        if self._watch.gave_up:
            raise TooSlowError


class _Watch:
    """Shuts a connection down after some slow seconds, which ends reading."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.socket: socket.socket | None = None
        self.received = 0
        self.gave_up = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cgpipe-watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()

    def _run(self) -> None:
        before = 0
        while not self._done.wait(self.patience):
            if self.received - before < SLOWEST * self.patience:
                self.gave_up = True
                self._shut_down()
                return
            before = self.received

    def _shut_down(self) -> None:
        if self.socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)  # of the socket itself, below TLS


def _opener(watch: _Watch, schemes: Sequence[str]) -> urllib.request.OpenerDirector:
    """An opener that knows http and https, and nothing else: no ftp, no files, no data in the address."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Http(watch),
        _Https(watch),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(schemes),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_connection, self.watch, http.client.HTTPConnection), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_connection, self.watch, http.client.HTTPSConnection), req)


def _connection(watch: _Watch, kind: type[http.client.HTTPConnection], *args: Any, **options: Any) -> Any:
    """A connection whose socket the watch knows; urllib itself lets go of it when the answer begins."""
    connection = kind(*args, **options)
    connect = connection.connect

    def watched() -> None:
        connect()
        watch.socket = connection.sock

    connection.connect = watched  # type: ignore[method-assign]
    return connection


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to the named protocols, without reading their body."""

    def __init__(self, schemes: Sequence[str]) -> None:
        self._schemes = schemes

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage
    ) -> IO[bytes] | None:
        fp.close()
        target = urljoin(req.full_url, headers.get("Location", ""))
        if urlsplit(target).scheme not in self._schemes:
            raise RedirectError(target, self._schemes)
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        return super().redirect_request(req, fp, code, msg, headers, _without_user(newurl))


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=_host(parts)))


def _user(parts: SplitResult) -> str:
    """The header of the user and the password that an address holds, or nothing."""
    if parts.username is None:
        return ""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
