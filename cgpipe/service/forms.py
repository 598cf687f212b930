"""What clients ask for and are told, as the service's description shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from cgpipe.errors import ModelNotFoundError
from cgpipe.models import list_models
from cgpipe.options import Look, ModelChoice
from cgpipe.service.videos import State


class Asked(BaseModel):
    """Which model, and how the result looks; the same for pictures and videos."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), populate_by_name=True)

    to: str | None = Field(None, description="What the result shows, such as zebra.", max_length=100)
    source: str | None = Field(
        None, alias="from", description="What the input shows, where `to` alone is not clear.", max_length=100
    )
    model: str | None = Field(None, description="A model's name, as /models lists it.", max_length=100)
    size: Literal["auto", "full", "output"] | PositiveInt = Field(
        "auto", description="Short side at which the network works; output for one that enlarges pictures."
    )
    strength: float = Field(1.0, ge=0, le=2, description="Multiplies the change; 0 leaves the picture.")

    def choice(self) -> ModelChoice:
        """The model that was asked for; only those that are installed can be.

        Raises:
            ModelNotFoundError: there is none of this name.
        """
        if self.model is not None and self.model not in {entry.name for entry in list_models()}:
            raise ModelNotFoundError(f"There is no model called {self.model!r}: /models lists those that there are.")
        return ModelChoice(to=self.to, source=self.source, model=self.model)

    def look(self, mask: Path | None) -> Look:
        """How the result looks."""
        return Look(size=self.size, strength=self.strength, mask=mask)


class AskedPicture(Asked):
    """The options of ``cgpipe translate``."""

    format: Literal["jpg", "png", "webp", "tiff", "bmp", "avif", "gif", "jp2", "heic"] | None = Field(
        None, description="Format of the result; else the picture's own."
    )
    quality: int | None = Field(None, ge=1, le=100, description="Quality of lossy formats; else 95.")


class AskedVideo(Asked):
    """The options of ``cgpipe video``."""

    format: Literal["mp4", "m4v", "mov", "mkv", "webm", "gif", "webp", "apng"] | None = Field(
        None, description="Container of the result; else the video's own, or mp4."
    )
    codec: str | None = Field(None, pattern="^[a-z0-9_]{1,40}$", description="Encoder; else the container's.")
    crf: float | None = Field(None, ge=0, le=63, description="Constant quality; smaller is better.")
    preset: str | None = Field(None, pattern="^[a-zA-Z0-9_-]{1,40}$", description="Speed of the encoder.")
    pix_fmt: str | None = Field(None, pattern="^[a-z0-9_]{1,40}$", description="Pixel format.")
    start: float | None = Field(None, ge=0, le=1e6, description="Seconds into the video at which to begin.")
    end: float | None = Field(None, ge=0, le=1e6, description="Seconds into the video at which to end.")
    fps: float | None = Field(None, gt=0, le=1000, description="A constant rate; else every frame's own time.")
    side_by_side: bool = Field(False, description="Original and translation in one picture.")
    deinterlace: bool = Field(True, description="Make whole pictures of interlaced frames.")
    audio: bool = Field(True, description="Keep sound.")

    def encoding_and_cut(self) -> dict[str, object]:
        """Keywords of :func:`cgpipe.translate_video` beside the model and the look."""
        names = ("codec", "crf", "preset", "pix_fmt", "start", "end", "fps", "side_by_side", "deinterlace", "audio")
        return {name: getattr(self, name) for name in names}


class ModelAnswer(BaseModel):
    """A model that can be asked for."""

    name: str
    source: str = Field(serialization_alias="from")
    to: str
    description: str
    licence: str
    default: bool


class VideoAnswer(BaseModel):
    """How far a video is."""

    id: str
    state: State
    frames: int = Field(description="Frames written.")
    total: int | None = Field(description="Frames there will be, where the video says it.")
    reason: str = Field(description="Why it failed.")
    report: dict[str, object] = Field(
        description="At the end: what was done, and what the video held that was damaged."
    )


class Problem(BaseModel):
    """What was wrong, and what to do."""

    detail: str | list[Any]


def may_fail(*statuses: int) -> dict[int | str, dict[str, object]]:
    words = {
        400: "The form cannot be read.",
        401: "A token is needed.",
        403: "Only this machine may ask.",
        404: "There is no such model or video.",
        405: "Another method is needed.",
        408: "The upload came too slowly.",
        409: "It is not done yet.",
        413: "The upload, or its picture, is too large.",
        415: "It is nothing that can be read here.",
        422: "It is damaged, or an option cannot be used.",
        429: "The queue is full; Retry-After says when to try again.",
        500: "Something went wrong in the service.",
        501: "It needs an extra that is not installed.",
        503: "It took too long, or the service is ending.",
    }
    return {status: {"model": Problem, "description": words[status]} for status in (401, 403, *statuses)}
