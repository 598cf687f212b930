"""The service as a FastAPI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import APIRouter, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

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
from cgpipe.options import Hardware, ModelChoice
from cgpipe.service import picture_answers, video_answers
from cgpipe.service.forms import ModelAnswer, may_fail
from cgpipe.service.guard import Guard, Places
from cgpipe.service.limits import Limits
from cgpipe.service.pictures import ClosedError, PictureQueue
from cgpipe.service.service import Service
from cgpipe.service.spool import Spool
from cgpipe.service.videos import VideoQueue

STATUS: tuple[tuple[type[CgpipeError], int], ...] = (
    (ModelNotFoundError, 404),
    (UnsupportedFormatError, 415),
    (MediaError, 422),
    (UsageError, 422),
    (MissingDependencyError, 501),
    (ClosedError, 503),
)
"""HTTP status by kind of error; 500 for all others."""


@contextmanager
def open_app(
    spool: Spool, limits: Limits, *, token: str | None = None, hardware: Hardware | None = None
) -> Iterator[FastAPI]:
    """Opens the service; at the end pending work is cancelled and all workers have stopped.

    Args:
        spool: the folder of uploads and results; the caller removes it.
        limits: the limits of the service.
        token: the token that clients must send; None: only this machine has access.
        hardware: the hardware for all jobs.
    """
    pictures, videos = PictureQueue(spool), VideoQueue(limits)
    service = Service(spool=spool, limits=limits, hardware=hardware or Hardware(), pictures=pictures, videos=videos)
    try:
        yield _app(service, token)
    finally:
        videos.close()
        pictures.close()


def _app(service: Service, token: str | None) -> FastAPI:
    # FastAPI's documentation pages load scripts from the network.
    app = FastAPI(title="cgpipe", version=__version__, lifespan=_lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Guard, token=token, uploads=_uploads(service))
    app.add_exception_handler(CgpipeError, _explain)
    for router in (_router, picture_answers.router, video_answers.router):
        app.include_router(router)
    return app


def _uploads(service: Service) -> dict[str, Places]:
    """Limits of number and size of uploads, by path."""
    limits, pictures, videos = service.limits, service.pictures, service.videos
    return {
        "/translate": Places(limits.pictures, limits.picture_bytes, seconds_left=lambda: pictures.seconds_left),
        "/video": Places(limits.waiting_videos, limits.video_bytes, taken=lambda: videos.open),
    }


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    sweep = asyncio.create_task(_forget_old(app.state.service.videos))
    yield
    sweep.cancel()


async def _forget_old(videos: VideoQueue) -> None:
    while True:
        await asyncio.sleep(10)
        await run_in_threadpool(videos.forget_old)


async def _explain(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
    service: Service = request.app.state.service
    return JSONResponse({"detail": service.without_paths(str(error))}, status)


_router = APIRouter(tags=["service"])


@_router.get("/health")
def health() -> dict[str, str]:
    """Health check."""
    return {"status": "ok", "version": __version__}


@_router.get("/models", responses=may_fail())
def models() -> list[ModelAnswer]:
    """The available models."""
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
