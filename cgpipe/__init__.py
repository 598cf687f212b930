"""cgpipe translates folders of pictures and videos with CycleGAN generators.

Names are imported on first use: ``import cgpipe`` alone does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgpipe.engine.translator import Translator
    from cgpipe.errors import (
        CgpipeError,
        CgpipeWarning,
        DataError,
        MediaError,
        MissingDependencyError,
        ModelError,
        ModelNotFoundError,
        TrainingError,
        UsageError,
    )
    from cgpipe.evaluation.evaluate import evaluate
    from cgpipe.jobs.folder import translate_folder
    from cgpipe.jobs.report import FileResult, FolderReport, VideoReport
    from cgpipe.jobs.video import translate_video
    from cgpipe.jobs.videos import VideosReport, translate_videos
    from cgpipe.media.frames import Batch, Failed, Frame
    from cgpipe.media.video import VideoSink, VideoSource
    from cgpipe.models import Model, ModelCard, find_model, list_models, load_any, load_model, save_model
    from cgpipe.options import Cut, Encoding, Hardware, Look, ModelChoice, Work
    from cgpipe.training.distill import distill
    from cgpipe.training.trainer import train

__version__ = "0.1.0"

_HOMES = {
    "engine.translator": ("Translator",),
    "errors": (
        "CgpipeError",
        "CgpipeWarning",
        "DataError",
        "MediaError",
        "MissingDependencyError",
        "ModelError",
        "ModelNotFoundError",
        "TrainingError",
        "UsageError",
    ),
    "evaluation.evaluate": ("evaluate",),
    "jobs.folder": ("translate_folder",),
    "jobs.report": ("FileResult", "FolderReport", "VideoReport"),
    "jobs.video": ("translate_video",),
    "jobs.videos": ("VideosReport", "translate_videos"),
    "media.frames": ("Batch", "Failed", "Frame"),
    "media.video": ("VideoSink", "VideoSource"),
    "models": ("Model", "ModelCard", "find_model", "list_models", "load_any", "load_model", "save_model"),
    "options": ("Cut", "Encoding", "Hardware", "Look", "ModelChoice", "Work"),
    "training.distill": ("distill",),
    "training.trainer": ("train",),
}

__all__ = [
    "Batch",
    "CgpipeError",
    "CgpipeWarning",
    "Cut",
    "DataError",
    "Encoding",
    "Failed",
    "FileResult",
    "FolderReport",
    "Frame",
    "Hardware",
    "Look",
    "MediaError",
    "MissingDependencyError",
    "Model",
    "ModelCard",
    "ModelChoice",
    "ModelError",
    "ModelNotFoundError",
    "TrainingError",
    "Translator",
    "UsageError",
    "VideoReport",
    "VideoSink",
    "VideoSource",
    "VideosReport",
    "Work",
    "__version__",
    "distill",
    "evaluate",
    "find_model",
    "list_models",
    "load_any",
    "load_model",
    "save_model",
    "train",
    "translate_folder",
    "translate_video",
    "translate_videos",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
