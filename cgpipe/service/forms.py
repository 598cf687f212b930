"""Requests and answers, as in the service's OpenAPI description."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from cgpipe.errors import ModelNotFoundError
from cgpipe.models import list_models
from cgpipe.options import Look, ModelChoice
from cgpipe.service.videos import State


def _usual(format: object) -> object:
    """The usual spelling of a format: ``jpg`` for ``.JPEG``."""
    plain = str(format).lower().removeprefix(".")
    return {"jpeg": "jpg", "tif": "tiff", "heif": "heic"}.get(plain, plain)


class Asked(BaseModel):
    """Options of pictures and videos."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)

    to: str | None = Field(None, description="Target domain, such as zebra.", max_length=100)
    source: str | None = Field(
        None, alias="from", description="Source domain, if `to` alone is ambiguous.", max_length=100
    )
    model: str | None = Field(None, description="Name of a model in /models.", max_length=100)
    size: Literal["auto", "full", "output"] | PositiveInt = Field(
        "auto", description="Short side at which the network runs; output for an upscaler."
    )
    strength: float = Field(1.0, ge=0, le=2, description="Blend strength: 0 = original, 1 = full translation.")

    def choice(self) -> ModelChoice:
        """The requested model, which must be installed.

        Raises:
            ModelNotFoundError: there is no model of this name.
        """
        if self.model is not None and self.model not in {entry.name for entry in list_models()}:
            raise ModelNotFoundError(f"There is no model named {self.model!r}: see /models.")
        return ModelChoice(to=self.to, source=self.source, model=self.model)

    def look(self, mask: Path | None) -> Look:
        """The look of the result."""
        return Look(size=self.size, strength=self.strength, mask=mask)


class AskedPicture(Asked):
    """The options of ``cgpipe translate``."""

    format: (
        Annotated[Literal["jpg", "png", "webp", "tiff", "bmp", "avif", "gif", "jp2", "heic"], BeforeValidator(_usual)]
        | None
    ) = Field(None, description="Output format; by default that of the picture.")
    quality: int | None = Field(None, ge=1, le=100, description="Quality of lossy formats; by default 95.")


class AskedVideo(Asked):
    """The options of ``cgpipe video``."""

    format: (
        Annotated[Literal["mp4", "m4v", "mov", "mkv", "webm", "gif", "webp", "apng"], BeforeValidator(_usual)] | None
    ) = Field(None, description="Output container; by default that of the video, or mp4.")
    codec: str | None = Field(None, pattern="^[a-z0-9_]{1,40}$", description="Encoder; by default the container's.")
    crf: float | None = Field(None, ge=0, le=63, description="Constant rate factor: lower is better.")
    preset: str | None = Field(None, pattern="^[a-zA-Z0-9_-]{1,40}$", description="Speed/size preset of the encoder.")
    pix_fmt: str | None = Field(None, pattern="^[a-z0-9_]{1,40}$", description="Pixel format.")
    start: float | None = Field(None, ge=0, le=1e6, description="Start time in seconds.")
    end: float | None = Field(None, ge=0, le=1e6, description="End time in seconds.")
    fps: float | None = Field(None, gt=0, le=1000, description="Constant frame rate; by default that of the video.")
    side_by_side: bool = Field(False, description="Show original and translation side by side.")
    deinterlace: bool = Field(True, description="Deinterlace interlaced frames.")
    audio: bool = Field(True, description="Keep sound.")

    @model_validator(mode="after")
    def _part_is_not_empty(self) -> Self:
        if self.end is not None and self.end <= (self.start or 0):
            raise ValueError("end must be after start")
        return self

    def encoding_and_cut(self) -> dict[str, object]:
        """Keywords of :func:`cgpipe.translate_video` beside the model and the look."""
        names = ("codec", "crf", "preset", "pix_fmt", "start", "end", "fps", "side_by_side", "deinterlace", "audio")
        return {name: getattr(self, name) for name in names}


class ModelAnswer(BaseModel):
    """An available model."""

    name: str
    source: str = Field(serialization_alias="from")
    to: str
    description: str
    licence: str
    default: bool


class VideoAnswer(BaseModel):
    """The state of a video."""

    id: str
    state: State
    frames: int = Field(description="Frames written.")
    total: int | None = Field(description="Expected number of frames, if the video states it.")
    reason: str = Field(description="Why it failed.")
    report: dict[str, object] = Field(description="At the end: the report of the job, including damage in the video.")


class Problem(BaseModel):
    """An error: what was wrong, and what to do."""

    detail: str | list[Any]


def may_fail(*statuses: int) -> dict[int | str, dict[str, object]]:
    words = {
        400: "Invalid form.",
        401: "A token is needed.",
        403: "Only this machine has access.",
        404: "There is no such model or video.",
        405: "Method not allowed.",
        408: "The upload was too slow.",
        409: "The video is not done yet.",
        413: "The upload, or its picture, is too large.",
        415: "Unsupported format.",
        422: "The upload is damaged, or an option is invalid.",
        429: "The queue is full; Retry-After says when to try again.",
        500: "Internal error.",
        501: "An extra that is not installed is needed.",
        503: "Timeout, or the service is shutting down.",
    }
    return {status: {"model": Problem, "description": words[status]} for status in (401, 403, *statuses)}
