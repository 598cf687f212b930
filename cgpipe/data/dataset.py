"""Where a run's pictures are: in the folders of a dataset, or in folders and lists by any name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgpipe.data.pictures import find_pictures
from cgpipe.data.settings import DataSettings, Way
from cgpipe.errors import DataError, DataNotFoundError, MediaError
from cgpipe.media.pictures.masks import PictureMasks
from cgpipe.models import ModelCard
from cgpipe.models.card import plain_name


def find_training_pictures(config: DataSettings) -> tuple[list[Path], list[Path]]:
    """The training pictures of both domains.

    Raises:
        DataError: a set is missing or empty, or both are the same; the message says how to get that of the shipped
            models.
    """
    root = config.dataset_dir
    if config.domain_a is None and not root.is_dir():
        raise DataNotFoundError(
            f"There is no dataset {root}. Name yours with --dataset-dir: a folder with trainA and trainB. The one of "
            "the shipped models comes with `cgpipe data fetch horse2zebra`."
        )
    first, second = (_training_set(config, domain) for domain in "ab")
    if first.resolve() == second.resolve():
        raise DataError(f"Both domains are {first}: there is nothing to learn between a set and itself.")
    return find_pictures(first), find_pictures(second)


def find_training_masks(config: DataSettings, domain: str, pictures: Sequence[Path]) -> list[Path]:
    """The mask of each training picture of ``a`` or ``b``; none where the recipe names no masks.

    Raises:
        DataError: a picture has no mask.
        UsageError: there is nothing where the masks should be.
        MediaError: the one mask for all cannot be read.
    """
    named: Path | None = getattr(config, f"masks_{domain}")
    if named is None:
        return []
    masks, folder = PictureMasks(named), _training_set(config, domain)
    try:
        return [masks.path_of(_place(path, folder)) for path in pictures]
    except MediaError as error:
        raise DataError(f"--masks-{domain}: {error}. Each picture of {folder} needs one.") from error


def _place(path: Path, folder: Path) -> Path:
    """Where a picture lies in its folder; one that a list names is known by its name alone."""
    return path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)


def find_sample_pictures(config: DataSettings, domain: str, training: list[Path]) -> list[Path]:
    """Pictures of ``a`` or ``b`` to show a run by: those of the test set, or where there is none those to train on.

    Raises:
        DataError: the test set that the recipe names is missing or empty.
    """
    place = _test_set(config, domain)
    named = place is not None and place == getattr(config, f"test_{domain}")
    return find_pictures(place) if place is not None and (named or place.is_dir()) else training


def sets_to_test_on(config: DataSettings, source: str) -> tuple[Path, Path]:
    """Of a model that takes pictures of ``source``: those to test it on, and real ones of what it makes.

    Raises:
        DataError: the training pictures come from elsewhere than a dataset, and no test sets are named.
    """
    first, second = _test_set(config, "a"), _test_set(config, "b")
    if first is None or second is None:
        raise DataError("There are no pictures to test on: name folders or lists of them with --test-a and --test-b.")
    return (first, second) if source == config.source else (second, first)


def _training_set(config: DataSettings, domain: str) -> Path:
    named: Path | None = getattr(config, f"domain_{domain}")
    return named or config.dataset_dir / f"train{domain.upper()}"


def _test_set(config: DataSettings, domain: str) -> Path | None:
    named: Path | None = getattr(config, f"test_{domain}")
    # Those of the dataset do not belong to training pictures that come from elsewhere.
    in_dataset = config.dataset_dir / f"test{domain.upper()}" if config.domain_a is None else None
    return named or in_dataset


def sides_of(card: ModelCard, dataset: Path, direction: Way = "auto") -> tuple[str, str]:
    """``A`` and ``B``: of the pictures that go in, and of those that the result should look like; or the reverse.

    As asked for, as the model's own recipe says, or as the dataset's name says: ``horse2zebra`` has horses in ``A``.
    """
    if direction == "auto":
        trained = _recipe(card.made_by).get("source") == card.target
        named = dataset.resolve().name == plain_name(card.target, card.source)
        direction = "BtoA" if trained or named else "AtoB"
    return ("A", "B") if direction == "AtoB" else ("B", "A")


def _recipe(made_by: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe of the training; for a distilled model, that of its teacher."""
    teacher = made_by.get("teacher")
    if isinstance(teacher, Mapping):
        return _recipe(teacher.get("made_by", {}))
    recipe = made_by.get("recipe")
    return recipe if isinstance(recipe, Mapping) else {}
