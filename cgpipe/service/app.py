"""The service as an application: what can be asked for, and what is answered."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from cgpipe import __version__
from cgpipe.errors import (
    CgpipeError,
    MediaError,
    MissingDependencyError,
    ModelNotFoundError,
    UnsupportedFormatError,
    UsageError,
)
from cgpipe.models import list_models
from cgpipe.models.choose import choose_model
from cgpipe.models.zoo import SHIPPED_FOLDER, user_models_folder
from cgpipe.options import Encoding, Hardware, ModelChoice, Options, Work
from cgpipe.service.forms import AskedPicture, AskedVideo, ModelAnswer, VideoAnswer, may_fail
from cgpipe.service.guard import Guard, Places
from cgpipe.service.limits import Limits
from cgpipe.service.pictures import ClosedError, PictureQueue, Translated
from cgpipe.service.spool import Spool
from cgpipe.service.uploads import keep_picture, keep_video
from cgpipe.service.videos import VideoQueue, VideoTask

STATUS: tuple[tuple[type[CgpipeError], int], ...] = (
    (ModelNotFoundError, 404),
    (UnsupportedFormatError, 415),
    (MediaError, 422),
    (UsageError, 422),
    (MissingDependencyError, 501),
    (ClosedError, 503),
)
"""The status that says what kind of error it was; 500 for all others."""

LOOK_AROUND_SECONDS = 0.5
"""Between two looks whether a client that waits is still there."""


class _Fleeting(FileResponse):
    """A file that is gone once it was sent, or could not be."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            Path(self.path).unlink(missing_ok=True)


@contextmanager
def open_app(
    spool: Spool, limits: Limits, *, token: str | None = None, hardware: Hardware | None = None
) -> Iterator[FastAPI]:
    """The service; at the end what is left is canceled, and nothing is at work any more.

    Args:
        spool: where uploads and results lie; the caller removes it.
        limits: what it takes on.
        token: that clients must know; None: only this machine may ask.
        hardware: what computes.
    """
    pictures, videos = PictureQueue(spool), VideoQueue(limits)
    try:
        yield _app(spool, limits, token, hardware or Hardware(), pictures, videos)
    finally:
        videos.close()
        pictures.close()


def _app(
    spool: Spool,
    limits: Limits,
    token: str | None,
    hardware: Hardware,
    pictures: PictureQueue,
    videos: VideoQueue,
) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweep = asyncio.create_task(_forget_old(videos))
        yield
        sweep.cancel()

    # The pages that FastAPI has for its description load scripts from the network.
    app = FastAPI(title="cgpipe", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    uploads = {
        "/translate": Places(limits.pictures, limits.picture_bytes, seconds_left=lambda: pictures.seconds_left),
        "/video": Places(limits.waiting_videos, limits.video_bytes, taken=lambda: videos.open),
    }
    app.add_middleware(Guard, token=token, uploads=uploads)

    @app.exception_handler(CgpipeError)
    async def explain(_: Request, error: CgpipeError) -> Response:
        status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
        return JSONResponse({"detail": _without_paths(str(error), spool)}, status)

    @app.get("/health", tags=["service"])
    def health() -> dict[str, str]:
        """Whether the service is there."""
        return {"status": "ok", "version": __version__}

    @app.get("/models", tags=["service"], responses=may_fail())
    def models() -> list[ModelAnswer]:
        """The models that can be asked for."""
        return _models()

    @app.post(
        "/translate",
        tags=["pictures"],
        response_class=Response,
        responses=may_fail(400, 404, 408, 413, 415, 422, 429, 500, 501, 503)
        | {200: {"content": {"image/*": {}}, "description": "The translated picture."}},
    )
    async def translate(
        request: Request, asked: Annotated[AskedPicture, Query()], picture: UploadFile, mask: UploadFile | None = None
    ) -> Response:
        """Translates a picture; the answer is the file that `cgpipe translate` would write.

        A mask is a grey picture: white is translated, black is kept.
        """
        choice = asked.choice()
        files: list[Path] = []
        try:
            keep = partial(keep_picture, spool=spool, pixels=limits.pixels, files=files)
            path = await run_in_threadpool(keep, picture)
            confined = None if mask is None else await run_in_threadpool(keep, mask)
            options = Options(
                choice=choice,
                look=asked.look(confined),
                encoding=Encoding(format=asked.format, quality=asked.quality),
                hardware=hardware,
                work=Work(workers=0),
            )
            result = await _answer(request, pictures.submit(options, path), limits.picture_seconds)
        finally:
            for file in files:
                file.unlink(missing_ok=True)
        return _Fleeting(result.path, media_type=_media_type(result.path), headers={"Server-Timing": _timing(result)})

    @app.post(
        "/video", tags=["videos"], status_code=202, responses=may_fail(400, 404, 408, 413, 415, 422, 429, 501, 503)
    )
    async def take_video(
        asked: Annotated[AskedVideo, Query()], video: UploadFile, response: Response, mask: UploadFile | None = None
    ) -> VideoAnswer:
        """Takes a video; its translation is made while you ask how far it is."""
        choose_model(asked.choice())
        job = await run_in_threadpool(keep_video, spool, asked, video, mask, hardware, limits)
        videos.submit(job)
        response.headers["Location"] = f"/video/{job.id}"
        return _told(job, spool)

    @app.get("/video/{id}", tags=["videos"], responses=may_fail(404))
    def video(id: str) -> VideoAnswer:
        """How far a video is."""
        return _told(_job(videos, id), spool)

    @app.get(
        "/video/{id}/result",
        tags=["videos"],
        response_class=FileResponse,
        responses=may_fail(404, 409) | {200: {"content": {"video/*": {}}, "description": "The translated video."}},
    )
    def result(id: str) -> Response:
        """The translated video: the file that `cgpipe video` would write."""
        job = _job(videos, id)
        if job.state != "done":
            raise HTTPException(409, f"It is {job.state}.")
        return FileResponse(job.output, media_type=_media_type(job.output))

    @app.delete("/video/{id}", tags=["videos"], status_code=204, responses=may_fail(404))
    def delete(id: str) -> None:
        """Cancels a video, and removes it and its result."""
        if not videos.remove(id):
            raise HTTPException(404, "There is no such video.")

    return app


async def _forget_old(videos: VideoQueue) -> None:
    while True:
        await asyncio.sleep(10)
        await run_in_threadpool(videos.forget_old)


async def _answer(request: Request, answer: Future[Translated], seconds: float) -> Translated:
    """Waits for a picture, as long as its client does and the limit allows."""
    until = time.monotonic() + seconds
    waiting = asyncio.wrap_future(answer)
    try:
        while not (await asyncio.wait([waiting], timeout=LOOK_AROUND_SECONDS))[0]:
            if await request.is_disconnected():
                raise HTTPException(400, "The client is gone.")
            if time.monotonic() > until:
                raise HTTPException(503, "It took too long: try again later, or a smaller picture.")
        return waiting.result()
    except BaseException:
        waiting.cancel()
        answer.cancel()
        answer.add_done_callback(_forget)  # of a batch that has begun the result comes all the same
        raise


def _forget(answer: Future[Translated]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        answer.result().path.unlink(missing_ok=True)


def _job(videos: VideoQueue, id: str) -> VideoTask:
    job = videos.get(id)
    if job is None:
        raise HTTPException(404, "There is no such video.")
    return job


def _told(job: VideoTask, spool: Spool) -> VideoAnswer:
    report = {name: job.report[name] for name in _REPORTED if name in job.report}
    report["notices"] = [_without_paths(notice, spool) for notice in job.report.get("notices", [])]
    reason = _without_paths(job.reason, spool)
    return VideoAnswer(
        id=job.id,
        state=job.state,
        frames=job.frames,
        total=job.total,
        reason=reason,
        report=report if job.report else {},
    )


_REPORTED = ("model", "frames", "filled", "bad_packets", "missing", "failed", "bad_sound", "streams", "seconds")


def _models() -> list[ModelAnswer]:
    default = choose_model(ModelChoice()).found.entry
    return [
        ModelAnswer(
            name=entry.name,
            source=entry.card.source,
            to=entry.card.target,
            description=entry.card.description,
            licence=entry.card.licence,
            default=entry == default,
        )
        for entry in list_models()
        if entry.card and not entry.shadowed
    ]


def _without_paths(text: str, spool: Spool) -> str:
    """What went wrong, in words that name no folder of this machine."""
    folders = [spool.folder, SHIPPED_FOLDER, user_models_folder(), Path.cwd(), Path.home()]
    for folder in sorted(map(str, folders), key=len, reverse=True):
        if folder != os.sep:
            text = text.replace(folder + os.sep, "").replace(folder, "")
    return text


_MEDIA_TYPES = {
    **{f".{kind}": f"image/{kind}" for kind in ("webp", "avif", "heic", "jp2", "apng")},
    ".mkv": "video/x-matroska",
    ".m4v": "video/mp4",
}
"""Those that Python may not know, on every system."""


def _media_type(path: Path) -> str:
    own = {
        ".webp": "image/webp",
        ".avif": "image/avif",
        ".heic": "image/heic",
        ".jp2": "image/jp2",
        ".mkv": "video/x-matroska",
    }
    return own.get(path.suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"


def _timing(result: Translated) -> str:
    """Milliseconds by stage, as browsers and tools show them."""
    times = [f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in result.seconds.items()]
    return ", ".join([*times, f'batch;desc="{result.together}"'])
