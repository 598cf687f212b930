"""The parts of a service, for its request handlers."""

from __future__ import annotations

import mimetypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from cgpipe.models.zoo import SHIPPED_FOLDER, user_models_folder
from cgpipe.options import Hardware
from cgpipe.service.limits import Limits
from cgpipe.service.pictures import PictureQueue
from cgpipe.service.spool import Spool
from cgpipe.service.videos import VideoQueue


@dataclass(frozen=True, kw_only=True)
class Service:
    """The parts of a service.

    Args:
        spool: the folder of uploads and results.
        limits: its limits.
        hardware: the hardware for all jobs.
        pictures, videos: the queues.
    """

    spool: Spool
    limits: Limits
    hardware: Hardware
    pictures: PictureQueue
    videos: VideoQueue

    def without_paths(self, text: str) -> str:
        """An error message without paths of this machine."""
        folders = [self.spool.folder, SHIPPED_FOLDER, user_models_folder(), Path.cwd(), Path.home()]
        for folder in sorted(map(str, folders), key=len, reverse=True):
            if folder != os.sep:
                text = text.replace(folder + os.sep, "").replace(folder, "")
        return text


async def _service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service_of)]
"""A handler's parameter: the service."""


_MEDIA_TYPES = {
    **{f".{kind}": f"image/{kind}" for kind in ("webp", "avif", "heic", "jp2")},
    ".mkv": "video/x-matroska",
}
"""Media types that Python may not know on every system."""


def media_type(path: Path) -> str:
    """The media type of a file, by its name."""
    return _MEDIA_TYPES.get(path.suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
