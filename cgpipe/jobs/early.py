"""Guesses whether an output that is older than all journals is a translation."""

from __future__ import annotations

import filecmp
from pathlib import Path

from cgpipe.media.pictures.formats import picture_format


def picture_looks_made(source: Path, output: Path) -> bool:
    """Whether a picture may be a translation of another: the right format and size, and not a copy."""
    from PIL import Image

    try:
        with Image.open(source) as read, Image.open(output) as written:
            alike = sorted(read.size) == sorted(written.size)  # upright, or as it was
            known = {"MPO": "JPEG"}.get(str(written.format), written.format) == picture_format(output)
        return alike and known and not filecmp.cmp(source, output, shallow=False)
    except Exception:  # a damaged file makes decoders raise nearly anything
        return False


def video_looks_made(source: Path, output: Path, *, side_by_side: bool) -> bool:
    """Whether a video may be a translation of another: the right size, and not a copy."""
    from cgpipe.media.video.opening import open_source

    try:
        with open_source(source) as read, open_source(output) as written:
            width, height = read.info.width * (2 if side_by_side else 1), read.info.height
            alike = (written.info.width, written.info.height) == (width, height)
            return alike and not filecmp.cmp(source, output, shallow=False)
    except Exception:  # whatever a damaged file makes libav raise
        return False
