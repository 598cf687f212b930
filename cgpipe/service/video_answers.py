"""/video: uploads, progress and results of videos."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from cgpipe.models.choose import choose_model
from cgpipe.service.forms import AskedVideo, VideoAnswer, may_fail
from cgpipe.service.service import Here, Service, media_type
from cgpipe.service.uploads import keep_video, refuse_ignored
from cgpipe.service.videos import VideoTask

REPORTED = ("model", "frames", "filled", "bad_packets", "missing", "failed", "bad_sound", "streams", "seconds")
"""The fields of a job's report that clients get."""

router = APIRouter(prefix="/video", tags=["videos"])


@router.post("", status_code=202, responses=may_fail(400, 404, 408, 413, 415, 422, 429, 501, 503))
async def take_video(
    service: Here,
    request: Request,
    asked: Annotated[AskedVideo, Query()],
    video: UploadFile,
    response: Response,
    mask: UploadFile | None = None,
) -> VideoAnswer:
    """Queues a video; poll its progress with GET /video/ID."""
    await refuse_ignored(request, "video", "mask")
    choose_model(asked.choice())
    job = await run_in_threadpool(keep_video, service.spool, asked, video, mask, service.hardware, service.limits)
    service.videos.submit(job)
    response.headers["Location"] = f"/video/{job.id}"
    return _told(service, job)


@router.get("/{id}", responses=may_fail(404))
def video(service: Here, id: str) -> VideoAnswer:
    """The state of a video."""
    return _told(service, _job(service, id))


@router.get(
    "/{id}/result",
    response_class=FileResponse,
    responses=may_fail(404, 409) | {200: {"content": {"video/*": {}}, "description": "The translated video."}},
)
def result(service: Here, id: str) -> Response:
    """The translated video: the file that `cgpipe video` would write."""
    job = _job(service, id)
    if job.state != "done":
        raise HTTPException(409, f"It is {job.state}. {service.without_paths(job.reason)}".rstrip())
    return FileResponse(job.output, media_type=media_type(job.output))


@router.delete("/{id}", status_code=204, responses=may_fail(404))
def delete(service: Here, id: str) -> None:
    """Cancels a video, and removes it and its result."""
    if not service.videos.remove(id):
        raise HTTPException(404, "There is no such video.")


def _job(service: Service, id: str) -> VideoTask:
    job = service.videos.get(id)
    if job is None:
        raise HTTPException(404, "There is no such video.")
    return job


def _told(service: Service, job: VideoTask) -> VideoAnswer:
    report = {name: job.report[name] for name in REPORTED if name in job.report}
    report["notices"] = [service.without_paths(notice) for notice in job.report.get("notices", [])]
    return VideoAnswer(
        id=job.id,
        state=job.state,
        frames=job.frames,
        total=job.total,
        reason=service.without_paths(job.reason),
        report=report if job.report else {},
    )
