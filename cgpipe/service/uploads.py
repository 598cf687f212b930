"""Uploads as files of the spool, looked at before there is work to do."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

from fastapi import UploadFile

from cgpipe.errors import UnsupportedFormatError
from cgpipe.jobs.video_plan import WRITTEN_SUFFIXES
from cgpipe.media.pictures.read import check_picture
from cgpipe.options import Hardware
from cgpipe.service.containers import HEAD, is_container
from cgpipe.service.forms import AskedVideo
from cgpipe.service.limits import Limits
from cgpipe.service.spool import Spool
from cgpipe.service.videos import VideoTask

_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")


def keep_picture(upload: UploadFile, spool: Spool, pixels: int, files: list[Path]) -> Path:
    """An uploaded picture as a file of the spool, once its header shows that it can be read.

    Args:
        pixels: it may have at most.
        files: to which its path is added as soon as there is something to remove.

    Raises:
        MediaError: it cannot.
    """
    path = spool.new(_suffix(upload))
    files.append(path)
    _copy(upload.file, path)
    check_picture(path, pixel_limit=pixels)
    return path


def keep_video(
    spool: Spool, asked: AskedVideo, video: UploadFile, mask: UploadFile | None, hardware: Hardware, limits: Limits
) -> VideoTask:
    """A video's files in a folder of their own.

    Raises:
        MediaError: it is no video, or the mask no picture.
    """
    folder = spool.new_folder()
    try:
        suffix = _suffix(video)
        input = folder / f"input{suffix}"
        _copy(video.file, input)
        with input.open("rb") as file:
            if not is_container(file.read(HEAD)):
                raise UnsupportedFormatError("It is no video, or of a container that is not read here.")
        confined = None
        if mask is not None:
            confined = folder / f"mask{_suffix(mask)}"
            _copy(mask.file, confined)
            check_picture(confined, pixel_limit=limits.pixels)
        options: dict[str, object] = {"to": asked.to, "source": asked.source, "model": asked.model}
        options |= {"size": asked.size, "strength": asked.strength, "mask": confined and os.fspath(confined)}
        options |= {name: getattr(hardware, name) for name in ("device", "precision", "engine", "batch_size")}
        options |= asked.encoding_and_cut()
        output = folder / "out" / f"result{_written(suffix, asked.format)}"
        output.parent.mkdir()
        return VideoTask(id=secrets.token_urlsafe(16), folder=folder, input=input, output=output, options=options)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _written(suffix: str, format: str | None) -> str:
    return f".{format}" if format else suffix if suffix in WRITTEN_SUFFIXES else ".mp4"


def _copy(file: BinaryIO, path: Path) -> None:
    with path.open("xb") as target:
        shutil.copyfileobj(file, target, 1 << 20)


def _suffix(upload: UploadFile) -> str:
    """Of the name that a client gave, which is used for nothing else."""
    suffix = os.path.splitext(upload.filename or "")[1].lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""
