"""Copies a run's finished models to the user's models folder, where ``--to`` finds them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cgpipe.models import user_models_folder
from cgpipe.storage import atomic_write


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a model.

    Args:
        file: the model in the run's folder.
        place: its path in the models folder.
        refused: whether another model of that name exists and was left alone.
        failure: why it could not be written; "" if it could.
    """

    file: Path
    place: Path
    refused: bool = False
    failure: str = ""

    def __str__(self) -> str:
        if self.failure:
            return f"{self.place} cannot be written: {self.failure}. Once it can: cgpipe models import {self.file}"
        if not self.refused:
            return f"Published {self.place}"
        return (
            f"{self.place} was not made by this run and is left alone. To replace it: "
            f"cgpipe models import {self.file} --overwrite"
        )


def publish(file: Path, made: dict[str, str]) -> Published:
    """Copies a model file to the models folder, unless a file of that name exists that this run did not make.

    Args:
        file: the model in the run's folder.
        made: checksums of the run's published models by name; updated.
    """
    place = user_models_folder() / file.name
    try:
        return _copied(file, place, made)
    except OSError as error:
        return Published(file, place, failure=error.strerror or str(error))


def _copied(file: Path, place: Path, made: dict[str, str]) -> Published:
    content = file.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    if place.exists() and hashlib.sha256(place.read_bytes()).hexdigest() not in (checksum, made.get(file.name)):
        return Published(file, place, refused=True)
    with atomic_write(place) as temporary:
        temporary.write_bytes(content)
    made[file.name] = checksum
    return Published(file, place)
