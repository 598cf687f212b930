"""Recognises uploaded videos by their first bytes.

Some formats that libav reads, such as playlists and session descriptions, refer to other files and addresses, which a
client could make the service read. Only self-contained formats are accepted here.
"""

from __future__ import annotations

import re

HEAD = 16
"""Leading bytes by which a file is recognised."""

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
    """Whether a file with these first :data:`HEAD` bytes is a self-contained video."""
    return _CONTAINERS.match(head) is not None
