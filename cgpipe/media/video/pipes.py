"""Standard input and output, named pipes and devices, which are read once and cannot be seeked."""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import tempfile
from typing import IO

from cgpipe.errors import MediaError
from cgpipe.media.video.libav import Readable

MOST_BUFFERED = 8 << 30
"""Bytes of a pipe that are buffered in a temporary file because the index comes last."""

_BLOCK = 1 << 20
_FIRST_BOXES = frozenset((b"ftyp", b"wide", b"free", b"skip", b"pnot", b"mdat"))
_SMALL_BOXES = frozenset((b"ftyp", b"wide", b"free", b"skip", b"pnot", b"uuid"))


def is_pipe(name: str) -> bool:
    """Whether a path is a named pipe, a socket or a device."""
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def standard_input() -> IO[bytes]:
    """Standard input.

    Raises:
        MediaError: it is closed.
    """
    if sys.stdin is None:
        raise MediaError("Standard input is closed: name a file, or redirect one with < or |.")
    return sys.stdin.buffer


def standard_output() -> IO[bytes]:
    """Standard output.

    Raises:
        MediaError: it is closed.
    """
    if sys.stdout is None:
        raise MediaError("Standard output is closed: name a file, or redirect it with > or |.")
    return sys.stdout.buffer


def readable(pipe: IO[bytes]) -> Readable:
    """A pipe that libav can read: an mp4 with its index at the end is buffered in a temporary file first.

    Raises:
        MediaError: such an mp4 is too large to buffer.
    """
    if pipe.seekable():
        return pipe
    head = bytearray()
    while (box := _box(pipe, head)) in _SMALL_BOXES:
        pass
    return _buffered(bytes(head), pipe) if box == b"mdat" else Rejoined(bytes(head), pipe)


def _box(pipe: IO[bytes], head: bytearray) -> bytes:
    """The kind of the next box of an mp4, read whole if it is small; empty if there is none."""
    header = pipe.read(8)
    head += header
    kind, size = bytes(header[4:8]), int.from_bytes(header[:4], "big")
    if len(head) == len(header) and kind not in _FIRST_BOXES:
        return b""
    if kind in _SMALL_BOXES:
        if not 8 <= size <= _BLOCK:
            return b""
        head += pipe.read(size - 8)
    return kind


def _buffered(head: bytes, pipe: IO[bytes]) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when its reader is gone
    room = min(MOST_BUFFERED, shutil.disk_usage(tempfile.gettempdir()).free // 2)
    file.write(head)
    while block := pipe.read(_BLOCK):
        if file.tell() + len(block) > room:
            file.close()
            raise MediaError(
                f"Standard input is an MP4 with its index at the end, too large to buffer ({room >> 20} MiB). A pipe "
                "cannot be seeked: save it to a file first."
            )
        file.write(block)
    if pipe is not getattr(sys.stdin, "buffer", None):
        pipe.close()
    file.seek(0)
    return file


class Rejoined(io.RawIOBase):
    """A pipe, preceded by the bytes already read from it."""

    def __init__(self, head: bytes, pipe: IO[bytes]) -> None:
        self._head = head
        self._pipe = pipe

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed and self._pipe is not getattr(sys.stdin, "buffer", None):
            self._pipe.close()
        super().close()

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._pipe.read(size)
        part, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
        return part + self._pipe.read() if size < 0 else part
