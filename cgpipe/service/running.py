"""An application behind an address, until a signal ends it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import uvicorn

from cgpipe.errors import UsageError
from cgpipe.service.guard import is_loopback

END_SECONDS = 15
"""For requests that are being answered when the service ends."""

TOKEN_LENGTH = 16
"""Characters of a token, at least."""


def require_token(host: str, token: str | None) -> None:
    """Raises UsageError where others could reach an address and need no token, or one that is soon guessed."""
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
            f"{host}, port {port}, cannot be listened on: {error.strerror}. Choose another --port, or 0 for a free one."
        ) from error
    # Clients' sockets inherit it. Else an answer's body waits for its header to be acknowledged: 40 ms of each request.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address_of(listening: socket.socket) -> str:
    """Where clients find a service."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    app: Callable[..., object], listening: socket.socket, *, loud: bool = False, end_seconds: int = END_SECONDS
) -> None:
    """Answers until SIGINT or SIGTERM, then lets go of the socket; what is being answered is finished first.

    Args:
        loud: log every request.
        end_seconds: for requests that are being answered at the end.
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
        raise UsageError(f"{host} is no address of this machine: use 127.0.0.1, or 0.0.0.0 for all.") from error
