"""Serves an application until a signal stops it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import uvicorn

from cgpipe.errors import UsageError
from cgpipe.service.guard import is_loopback

END_SECONDS = 15
"""Seconds to finish pending requests on shutdown."""

TOKEN_LENGTH = 16
"""Minimum length of a token."""


def require_token(host: str, token: str | None) -> None:
    """Raises UsageError if a public address has no token, or a short one."""
    if token is not None and len(token) < TOKEN_LENGTH:
        raise UsageError(f"A token needs at least {TOKEN_LENGTH} characters, such as {secrets.token_urlsafe(24)}")
    if token is None and not all(is_loopback(address) for address in _addresses(host)):
        raise UsageError(
            f"At {host} others can reach this machine: give a token that they must know (--token), "
            "or serve on 127.0.0.1, which is the default."
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for clients; port 0 takes one that is free.

    Raises:
        UsageError: there is no such address here, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in _addresses(host)[0] else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another --port, or 0 for a free one."
        ) from error
    # Inherited by clients' sockets. Without it an answer's body waits 40 ms for the acknowledgement of its header.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address_of(listening: socket.socket) -> str:
    """The URL of a service."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    app: Callable[..., object], listening: socket.socket, *, loud: bool = False, end_seconds: int = END_SECONDS
) -> None:
    """Serves until SIGINT or SIGTERM, then finishes pending requests and closes the socket.

    Args:
        loud: log every request.
        end_seconds: seconds to finish pending requests.
    """
    config = uvicorn.Config(
        app,
        log_level="info" if loud else "warning",
        access_log=loud,
        server_header=False,
        timeout_graceful_shutdown=end_seconds,
        lifespan="on",
    )
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _addresses(host: str) -> list[str]:
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise UsageError(f"{host} is not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all.") from error
