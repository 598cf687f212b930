"""POST /translate: answers an uploaded picture with its translation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from cgpipe.options import Encoding, Options, Work
from cgpipe.service.forms import AskedPicture, may_fail
from cgpipe.service.pictures import Translated
from cgpipe.service.service import Here, Service, media_type
from cgpipe.service.uploads import keep_picture, of_the_mask, refuse_ignored

LOOK_AROUND_SECONDS = 0.5
"""Seconds between checks whether a waiting client is still connected."""

router = APIRouter(tags=["pictures"])


@router.post(
    "/translate",
    response_class=Response,
    responses=may_fail(400, 404, 408, 413, 415, 422, 429, 500, 501, 503)
    | {200: {"content": {"image/*": {}}, "description": "The translated picture."}},
)
async def translate(
    service: Here,
    request: Request,
    asked: Annotated[AskedPicture, Query()],
    picture: UploadFile,
    mask: UploadFile | None = None,
) -> Response:
    """Translates a picture; the answer is the file that `cgpipe translate` would write.

    A mask is a grey picture: white is translated, black is kept.
    """
    await refuse_ignored(request, "picture", "mask")
    async with _kept(service, asked, picture, mask) as (options, path):
        result = await _answer(request, service.pictures.submit(options, path), service.limits.picture_seconds)
    return _Fleeting(result.path, media_type=media_type(result.path), headers={"Server-Timing": _timing(result)})


@asynccontextmanager
async def _kept(
    service: Service, asked: AskedPicture, picture: UploadFile, mask: UploadFile | None
) -> AsyncIterator[tuple[Options, Path]]:
    """The options, and the picture as a file, while the body runs."""
    choice = asked.choice()
    files: list[Path] = []
    try:
        keep = partial(keep_picture, spool=service.spool, pixels=service.limits.pixels, files=files)
        path = await run_in_threadpool(keep, picture)
        with of_the_mask():
            confined = None if mask is None else await run_in_threadpool(keep, mask)
        options = Options(
            choice=choice,
            look=asked.look(confined),
            encoding=Encoding(format=asked.format, quality=asked.quality),
            hardware=service.hardware,
            work=Work(workers=0),
        )
        yield options, path
    finally:
        for file in files:
            file.unlink(missing_ok=True)


async def _answer(request: Request, answer: Future[Translated], seconds: float) -> Translated:
    """Waits for a picture, until the client disconnects or the time limit is reached."""
    until = time.monotonic() + seconds
    waiting = asyncio.wrap_future(answer)
    try:
        while not (await asyncio.wait([waiting], timeout=LOOK_AROUND_SECONDS))[0]:
            if await request.is_disconnected():
                raise HTTPException(400, "The client disconnected.")
            if time.monotonic() > until:
                raise HTTPException(503, "It took too long: try again later, or a smaller picture.")
        return waiting.result()
    except BaseException:
        waiting.cancel()
        answer.cancel()
        answer.add_done_callback(_forget)  # a batch that has started is finished anyway
        raise


def _forget(answer: Future[Translated]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        answer.result().path.unlink(missing_ok=True)


class _Fleeting(FileResponse):
    """A response whose file is removed once it was sent, or could not be."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            Path(self.path).unlink(missing_ok=True)


def _timing(result: Translated) -> str:
    """The ``Server-Timing`` header: milliseconds by stage."""
    times = [f"{stage};dur={1000 * seconds:.1f}" for stage, seconds in result.seconds.items()]
    return ", ".join([*times, f'batch;desc="{result.together}"'])
