"""Trains the look of a painting on the pictures of a job, and keeps it in the user's models folder."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cgpipe.data.loading import resize
from cgpipe.errors import DataError, ModelError
from cgpipe.media.frames import Pixels, in_8_bits
from cgpipe.models.looks import Look
from cgpipe.storage import atomic_write
from cgpipe.training.config import TrainConfig, load_config
from cgpipe.training.run import Progress
from cgpipe.training.state import STATE_NAME
from cgpipe.training.style import load_painting
from cgpipe.training.trainer import train

SIDE = 360
"""Short side, in pixels, at which training pictures are kept."""
MOST = 120
"""Number of training pictures."""
SAVE_EVERY = 50
"""Steps between saves, which is what a kill may cost."""


def learn_look(
    look: Look,
    pictures: Callable[[int], Iterable[Pixels]],
    *,
    gpu_ids: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
) -> None:
    """Trains a look and moves its model to the models folder; an interrupted run resumes.

    Args:
        look: the look to learn.
        pictures: returns up to the given number of training pictures, (H, W, 3) uint8 or uint16; not called if an
            interrupted run has kept some.
        gpu_ids: same as for a training run.
        on_progress: called after every step.

    Raises:
        UsageError: a painting cannot be used.
        DataError: there is no training picture.
        ModelError: the models folder cannot be written.
        TrainingError: another job is learning the same look.
        MissingDependencyError: the feature network (extra ``metrics``) is not installed.
        KeyboardInterrupt: a signal asked to stop; progress is kept.
    """
    for painting in look.paintings:  # before any picture of the user's is kept
        load_painting(painting, SIDE)
    _keep(pictures, look.work / "photos")
    config = recipe_of(look, gpu_ids)
    with torch.random.fork_rng(devices=[]):  # leaves the caller's random state alone
        report = train(config, resume=(look.work / STATE_NAME).is_file(), on_progress=on_progress)
    if not report.finished:
        signal.raise_signal(report.stopped_by or signal.SIGINT)
        raise KeyboardInterrupt
    _file(look, report.model_files[0])


def recipe_of(look: Look, gpu_ids: str = "auto") -> TrainConfig:
    """The recipe of a look: the defaults of ``--method style``."""
    return load_config(
        None,
        {
            "method": "style",
            "like": look.paintings,
            "photos": look.work / "photos",
            "target": look.name,
            "steps": look.steps,
            "style_weight": look.strength * TrainConfig.style_weight,
            "checkpoint_dir": look.work,
            "results_dir": look.work / "results",
            "gpu_ids": gpu_ids,
            "publish": False,
            "save_every": SAVE_EVERY,
            "sample_every": 1_000_000,
        },
    )


def _keep(pictures: Callable[[int], Iterable[Pixels]], folder: Path) -> None:
    """Saves reduced training pictures, so that a resumed run uses the same ones."""
    if folder.is_dir():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Of its own, since another job may be keeping pictures for the same look: the first one's are taken.
        with tempfile.TemporaryDirectory(prefix="photos-partial-", dir=folder.parent) as partial:
            count = 0
            for count, pixels in enumerate(pictures(MOST), 1):
                Image.fromarray(_reduced(pixels)).save(Path(partial) / f"{count:04}.png", compress_level=1)
            if not count:
                raise DataError("There is no picture that could be read to learn the look on.")
            _claim(Path(partial), folder)
    except OSError as error:
        raise ModelError(f"{folder} cannot be written: {error.strerror}.") from error


def _claim(made: Path, folder: Path) -> None:
    """Gives a folder its name, unless there is one of that name by now."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _reduced(pixels: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The picture in 8 bits, its short side reduced to at most :data:`SIDE` pixels."""
    eight = in_8_bits(pixels)
    scale = min(1.0, SIDE / min(eight.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in eight.shape[:2])
    return np.ascontiguousarray(resize(eight, height, width), np.uint8)


def _file(look: Look, model: Path) -> None:
    try:
        content = model.read_bytes()
        with atomic_write(look.path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ModelError(f"{look.path} cannot be written: {error.strerror}.") from error
    shutil.rmtree(look.work, ignore_errors=True)
