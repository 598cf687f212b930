"""Middleware: access, and limits of size, rate and number of requests."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import time
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cgpipe.service.limits import GRACE_SECONDS, SLOWEST_BYTES

OPEN_PATHS = frozenset(("/health",))
"""Paths that need no token."""

FORM_BYTES = 1 << 16
"""Bytes allowed for a form beside its file."""


class Places:
    """The limits of one kind of request.

    Args:
        most: most concurrent requests and pending jobs.
        bytes: most bytes of an upload.
        taken: returns the number of pending jobs.
        seconds_left: estimates the seconds until these are done, for ``Retry-After``.
    """

    def __init__(
        self,
        most: int,
        bytes: int,
        *,
        taken: Callable[[], int] = lambda: 0,
        seconds_left: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.most = most
        self.bytes = bytes + FORM_BYTES
        self.taken = taken
        self.seconds_left = seconds_left
        self.requests = 0

    @property
    def full(self) -> bool:
        """Whether no further request is accepted."""
        return self.requests + self.taken() >= self.most


class Guard:
    """Passes a request on to ``app``, or refuses it before its body is read.

    Args:
        token: the token that clients must send; None: only this machine's own pages and programs have access.
        uploads: limits by path, for requests with a body.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, uploads: Mapping[str, Places]) -> None:
        self._app = app
        self._token = token
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["path"], headers)
        places = self._uploads.get(scope["path"]) if scope["method"] == "POST" else None
        if refusal is None and places is not None:
            refusal = _no_room(places, headers)
        if refusal is not None:
            await refusal(scope, receive, send)
        elif places is None:
            await self._app(scope, _Paced(receive, FORM_BYTES), send)
        else:
            places.requests += 1
            try:
                await self._app(scope, _Paced(receive, places.bytes), send)
            finally:
                places.requests -= 1

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        if path in OPEN_PATHS:
            return None
        if self._token is None:
            return None if _is_own(headers) else _only_here()
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode("latin-1"), self._token.encode()):
            return None
        return _refused(401, "A token is needed: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"})


class OwnOnly:
    """Passes requests of this machine's own programs and pages on to ``app``, and refuses all others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_own(Headers(scope=scope)):
            await _only_here()(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class _Paced:
    """Passes a body on while it is fast enough and not too large.

    Raises:
        HTTPException: 413 or 408.
    """

    def __init__(self, receive: Receive, bytes: int) -> None:
        self._receive = receive
        self._bytes = bytes
        self._got = 0
        self._began = time.monotonic()
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        left = self._began + GRACE_SECONDS + self._got / SLOWEST_BYTES - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0, left))
        except TimeoutError:
            raise HTTPException(408, "The upload was too slow.", {"Connection": "close"}) from None
        self._got += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._got > self._bytes:
            raise HTTPException(413, _too_large(self._bytes), {"Connection": "close"})
        return message


def _no_room(places: Places, headers: Headers) -> Response | None:
    told = headers.get("content-length", "")
    if told.isdecimal() and int(told) > places.bytes:
        return _refused(413, _too_large(places.bytes))
    if places.full:
        wait = max(1, math.ceil(places.seconds_left()))
        return _refused(429, "The queue is full: try again later.", {"Retry-After": str(wait)})
    return None


def _too_large(bytes: int) -> str:
    return f"The upload is larger than {(bytes - FORM_BYTES) / 2**20:g} MiB."


def _only_here() -> Response:
    return _refused(403, "Only this machine has access: start the service with --token for others.")


def _refused(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"detail": reason}, status, dict(headers or {}))


def _is_own(headers: Headers) -> bool:
    """Whether a request comes from this machine's programs and pages.

    A page of another site, in a browser on this machine, could ask in its user's name, and the site's host name could
    resolve to this machine (DNS rebinding).
    """
    origin = headers.get("origin")
    return _is_local(headers.get("host", "")) and (origin is None or _is_local(origin.partition("://")[2]))


def _is_local(host: str) -> bool:
    """Whether a ``Host``, with or without port, names this machine."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return name == "localhost" or is_loopback(name)


def is_loopback(address: str) -> bool:
    """Whether a numeric address is a loopback address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
