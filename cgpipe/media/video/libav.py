"""Shared by all uses of PyAV: quiet libraries, and errors in plain words."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from typing import Protocol, TypeAlias, TypedDict

import av
import av.container
import av.error
import av.logging
from av.video.stream import VideoStream

from cgpipe.errors import MediaError, MediaNotFoundError
from cgpipe.media.pictures.formats import kind_of_file
from cgpipe.media.pictures.read import is_animation

# libav's log callback acquires the interpreter lock in the codecs' threads, which can deadlock at exit.
av.logging.set_level(None)
# SVT-AV1's own logger prints settings to stderr for every encoder opened.
os.environ.setdefault("SVT_LOG", "1")


Packet: TypeAlias = "av.Packet[av.stream.Stream]"
"""Compressed bytes of any stream."""


class Readable(Protocol):
    """A file object that libav can read."""

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class _TagOptions(TypedDict, total=False):
    metadata_errors: str


# PyAV 18 raises on tags that are not UTF-8 unless told otherwise; 19 keeps their bytes and has no such option.
LENIENT_TAGS: _TagOptions = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Arguments of ``av.open`` for reading."""


def address(path: str | os.PathLike[str]) -> str:
    """libav's name of a file or a stream: ``12:30.mp4`` is a file, not a URL of a protocol named 12."""
    name = os.fspath(path)
    return name if "://" in name else f"file:{name}"


def format_of(file: str | os.PathLike[str] | Readable) -> str | None:
    """libav's name of a format that it may take for another: a colour profile hides from it that a PNG is animated."""
    if not isinstance(file, (str, os.PathLike)):
        return None
    kind = kind_of_file(file)
    return "apng" if kind is not None and kind.format == "PNG" and is_animation(file) else None


_LONGEST_NAME = 255
_READ_REASONS = {
    errno.ENOENT: "there is no such file",
    errno.EISDIR: "it is a folder. A folder of frames needs --fps",
    errno.EACCES: "its permissions do not allow reading",
    errno.ECONNREFUSED: "the connection was refused. Check the address and that the stream is running",
    errno.ETIMEDOUT: "the connection timed out. Check the address and the network",
}
_WRITE_REASONS = {
    errno.ENOENT: "its folder does not exist. Create it first",
    errno.ENOTDIR: "its parent is a file, not a folder",
    errno.EACCES: "the permissions of its folder do not allow writing",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full. Free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up. Free some space and run the same command again",
    errno.EFBIG: "the file would be larger than this system allows. Shorten the clip or raise --crf",
    errno.EPIPE: "the reader of the pipe has exited",
}


def hidden_beside(target: Path, ending: str) -> Path:
    """A hidden name beside a file, from its own name, or from a checksum if that would be too long."""
    name = f".{target.name}{ending}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{blake2b(os.fsencode(target.name), digest_size=16).hexdigest()}{ending}"
    return target.with_name(name)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Converts libav's errors while reading ``name`` to :class:`~cgpipe.errors.MediaError`."""
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        reason = _READ_REASONS.get(error.errno or 0)
        if isinstance(error, (av.error.InvalidDataError, av.error.EOFError)):
            reason = "it is not a video, or its index is missing or damaged. Try to play it, or re-create it"
        kind = MediaNotFoundError if error.errno == errno.ENOENT else MediaError
        raise kind(f"{name} cannot be read: {reason or explain(error)}.") from error


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Converts libav's errors while writing ``name`` to :class:`~cgpipe.errors.MediaError`."""
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        reason = _WRITE_REASONS.get(error.errno or 0)
        if error.errno == errno.ENOENT and os.path.isdir(os.path.dirname(name) or "."):
            reason = "no files can be created in its folder. Choose another one"
        raise MediaError(f"{name} cannot be written: {reason or explain(error)}.") from error


def is_about_the_place(error: BaseException | None) -> bool:
    """Whether an error is about the disk, the folder or the pipe, not about the data."""
    return isinstance(error, OSError) and (error.errno or 0) in _WRITE_REASONS


def explain(error: BaseException) -> str:
    """The shortest description that an error has."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def demuxed(container: av.container.InputContainer) -> Generator[Packet, None, None]:
    """All packets; close this generator before the container."""
    packets = container.demux()
    assert isinstance(packets, Generator)
    return packets


def packet_time(packet: Packet | av.Packet[VideoStream]) -> Fraction:
    """When a packet is due, in seconds; streams are interleaved by it."""
    time = packet.dts if packet.dts is not None else packet.pts
    return Fraction(0) if time is None else time * packet.time_base
