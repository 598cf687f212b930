"""Stores uploads as files of the spool, and checks them before the work."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fastapi import Request, UploadFile
from starlette.exceptions import HTTPException

from cgpipe.errors import MediaError, UnsupportedFormatError
from cgpipe.jobs.video_plan import WRITTEN_SUFFIXES
from cgpipe.media.pictures.formats import PICTURE_SUFFIXES
from cgpipe.media.pictures.read import check_picture
from cgpipe.media.video.encoding import ANIMATIONS, CONTAINERS, codec_name, suffix_of
from cgpipe.options import Hardware
from cgpipe.service.containers import HEAD, is_container
from cgpipe.service.forms import AskedVideo
from cgpipe.service.limits import Limits
from cgpipe.service.spool import Spool
from cgpipe.service.videos import VideoTask

_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")


async def refuse_ignored(request: Request, *files: str) -> None:
    """Refuses a request of which a part would be ignored: a form field beside ``files``, or what is sent twice."""
    fields = Counter(name for name, _ in (await request.form()).multi_items())
    for name in fields:
        if name not in files:
            known = " and ".join(files)
            raise HTTPException(
                422, f"The form has a field {name[:40]!r}, and takes {known}. Options go into the address: ?to=zebra."
            )
    for name, count in (fields + Counter(name for name, _ in request.query_params.multi_items())).items():
        if count > 1:
            raise HTTPException(422, f"{name[:40]} was sent {count} times: send it once.")


@contextmanager
def of_the_mask() -> Iterator[None]:
    """Says of an error that it is one of the mask."""
    try:
        yield
    except MediaError as error:
        raise type(error)(f"The mask: {error}") from error


def keep_picture(upload: UploadFile, spool: Spool, pixels: int, files: list[Path]) -> Path:
    """Stores an uploaded picture in the spool, and checks its header.

    Args:
        pixels: most pixels that it may have.
        files: receives its path as soon as the file exists.

    Raises:
        MediaError: it cannot be read, is too large, or is an animation.
    """
    path = spool.new(_picture_suffix(upload))
    files.append(path)
    _copy(upload.file, path)
    check_picture(path, pixel_limit=pixels)
    return path


def keep_video(
    spool: Spool, asked: AskedVideo, video: UploadFile, mask: UploadFile | None, hardware: Hardware, limits: Limits
) -> VideoTask:
    """Stores a video's files in a folder of their own.

    Raises:
        MediaError: it is not a video, or the mask is not a picture.
        UsageError: the container cannot hold the codec.
    """
    folder = spool.new_folder()
    try:
        suffix = _suffix(video)
        input, output = folder / f"input{suffix}", folder / "out" / f"result{_written(suffix, asked.format)}"
        codec_name(asked.codec, {**CONTAINERS, **ANIMATIONS}[suffix_of(output)])
        _copy(video.file, input)
        with input.open("rb") as file:
            if not is_container(file.read(HEAD)):
                raise UnsupportedFormatError("It is not a video, or its container is not supported.")
        confined = None
        if mask is not None:
            confined = folder / f"mask{_picture_suffix(mask)}"
            _copy(mask.file, confined)
            with of_the_mask():
                check_picture(confined, pixel_limit=limits.pixels)
        options: dict[str, object] = {"to": asked.to, "source": asked.source, "model": asked.model}
        options |= {"size": asked.size, "strength": asked.strength, "mask": confined and os.fspath(confined)}
        options |= {name: getattr(hardware, name) for name in ("device", "precision", "engine", "batch_size")}
        options |= asked.encoding_and_cut()
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
    """The suffix of the client's file name, of which nothing else is used."""
    suffix = os.path.splitext(upload.filename or "")[1].lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def _picture_suffix(upload: UploadFile) -> str:
    """The same of a picture: no other suffix, such as that of an archive, which would be unpacked."""
    suffix = _suffix(upload)
    return suffix if suffix in PICTURE_SUFFIXES else ""
