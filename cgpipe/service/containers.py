"""Which uploads are videos, by their first bytes.

Of all that libav reads, playlists and descriptions of sessions name other files and addresses: a client could have
the service read those. What is let through here holds all that it shows.
"""

from __future__ import annotations

import re

HEAD = 16
"""Bytes at the beginning of a file by which it is recognised."""

_CONTAINERS = re.compile(
    rb".{4}(ftyp|moov|mdat|wide|free|skip)"  # MP4, MOV, 3GP
    rb"|\x1aE\xdf\xa3"  # Matroska, WebM
    rb"|RIFF.{4}(AVI |WEBP)"
    rb"|GIF8[79]a"
    rb"|\x89PNG\r\n\x1a\n"
    rb"|(.{4})?G[@\x00-\x5f]"  # MPEG transport streams, with or without a time before every packet
    rb"|\x00\x00\x01[\xb3\xba]"  # MPEG
    rb"|FLV\x01"
    rb"|OggS"
    rb"|\x30\x26\xb2\x75",  # WMV
    re.DOTALL,
)


def is_container(head: bytes) -> bool:
    """Whether a file of these first :data:`HEAD` bytes is a video of a kind that refers to nothing outside it."""
    return _CONTAINERS.match(head) is not None
