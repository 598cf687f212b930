"""Where a run's pictures are: in the folders of a dataset, or in folders and lists by any name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cgpipe.data.direction import A_TO_B, B_TO_A, DOMAINS, Direction, Domain
from cgpipe.data.loading import ValueRange, find_range
from cgpipe.data.pairs import Pairs, find_pairs
from cgpipe.data.pictures import Half, Place, path_of, pictures_at
from cgpipe.data.settings import DataSettings, Way
from cgpipe.data.unpaired import TrainingPictures
from cgpipe.errors import DataError, DataNotFoundError, MediaError
from cgpipe.media.pictures.masks import PictureMasks
from cgpipe.models import ModelCard
from cgpipe.models.card import plain_name
from cgpipe.parallel import place_on_machine


def training_folder(dataset: Path, domain: Domain) -> Path:
    """Training pictures of a domain, in a dataset."""
    return dataset / f"train{domain.upper()}"


def test_folder(dataset: Path, domain: Domain) -> Path:
    """Test pictures of a domain, likewise."""
    return dataset / f"test{domain.upper()}"


def _halves(dataset: Path, domain: Domain, names: Sequence[str]) -> Half | None:
    """That half of the pictures side by side in the first of these folders that a dataset has."""
    found = (dataset / name for name in names if (dataset / name).is_dir())
    folder = next(found, None)
    return None if folder is None else Half(folder, right=domain == "b")


def test_place(dataset: Path, domain: Domain) -> Place:
    """Test pictures of a domain in a dataset of either layout."""
    folder = test_folder(dataset, domain)
    return folder if folder.is_dir() else _halves(dataset, domain, ("test", "val")) or folder


def open_training_sets(
    settings: DataSettings, *, seed: int, multiple: int = 1, least: int = 1, paired: bool = False
) -> TrainingPictures:
    """The training pictures of both domains with their masks, and the range of values that they use.

    Args:
        settings: where they are.
        seed: decides their order, crops and flips.
        multiple, least: of which the sides of pictures that are not cropped shall be, and their smallest.
        paired: the pictures are pairs. Those without a partner are left out, and noted as unreadable.

    Raises:
        DataError: a set is missing or empty, both are the same, nothing is a pair, or a picture has no mask.
        UsageError, MediaError: there is nothing where masks should be, or the one for all cannot be read.
    """
    pairs = find_training_pairs(settings) if paired else Pairs(*find_training_pictures(settings), {})
    files: dict[Domain, list[Place]] = {"a": pairs.a, "b": pairs.b}
    masks = {domain: find_training_masks(settings, domain, files[domain]) for domain in DOMAINS}
    pictures = TrainingPictures(
        files["a"],
        files["b"],
        masks={domain: found for domain, found in masks.items() if found},
        ranges=find_ranges(files, settings.named_range(), settings.channels),
        channels=settings.channels,
        seed=seed,
        multiple=multiple,
        least=least,
        cache=settings.cache_mb * 1_000_000 // place_on_machine()[1],
        paired=paired,
        recolour=settings.recolour,
    )
    pictures.unreadable |= pairs.alone
    return pictures


def find_ranges(
    files: Mapping[Domain, Sequence[Place]],
    named: tuple[int, int] | None = None,
    channels: Mapping[Domain, int] | None = None,
) -> dict[Domain, ValueRange]:
    """By domain, the values of 16-bit pictures that are black and white: as named, or the bits that a set uses."""
    if named is not None:
        return {domain: ValueRange(*named) for domain in files}
    found = {
        domain: find_range(pictures, (channels or {}).get(domain, 3)) for domain, pictures in files.items() if pictures
    }
    return {domain: values for domain, values in found.items() if values is not None}


def find_training_pairs(settings: DataSettings) -> Pairs:
    """The training pictures as pairs.

    Raises:
        DataError: as :func:`find_training_pictures`, or nothing is a pair.
    """
    return find_pairs(*_training_sets(settings))


def find_training_pictures(settings: DataSettings) -> tuple[list[Place], list[Place]]:
    """The training pictures of both domains.

    Raises:
        DataError: a set is missing or empty, or both are the same; the message says how to get that of the shipped
            models.
    """
    if settings.photos is not None:
        return pictures_at(settings.photos), []
    first, second = _training_sets(settings)
    return pictures_at(first), pictures_at(second)


def _training_sets(settings: DataSettings) -> tuple[Place, Place]:
    root = settings.dataset_dir
    if settings.domain_a is None and settings.pairs is None and not root.is_dir():
        raise DataNotFoundError(
            f"There is no dataset {root}. Name yours with --dataset-dir: a folder with trainA and trainB. The one of "
            "the shipped models comes with `cgpipe data fetch horse2zebra`."
        )
    first, second = (_training_set(settings, domain) for domain in DOMAINS)
    if not isinstance(first, Half) and first.resolve() == path_of(second).resolve():
        raise DataError(f"Both domains are {first}: name two different sets.")
    return first, second


def find_training_masks(settings: DataSettings, domain: Domain, pictures: Sequence[Place]) -> list[Path]:
    """The mask of each training picture of a domain; none where the recipe names no masks.

    Raises:
        DataError: a picture has no mask.
        UsageError: there is nothing where the masks should be.
        MediaError: the one mask for all cannot be read.
    """
    named = settings.masks[domain]
    if named is None:
        return []
    masks, folder = PictureMasks(named), path_of(_training_set(settings, domain))
    try:
        return [masks.path_of(_inside(path_of(picture), folder)) for picture in pictures]
    except MediaError as error:
        raise DataError(f"--masks-{domain}: {error} Each picture of {folder} needs one.") from error


def _inside(path: Path, folder: Path) -> Path:
    """Where a picture lies in its folder; one that a list names is known by its name alone."""
    return path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)


def find_sample_pictures(settings: DataSettings, domain: Domain, training: Sequence[Place]) -> Sequence[Place]:
    """Pictures of a domain to show a run by: those of the test set, or where there is none those to train on.

    Raises:
        DataError: the test set that the recipe names is missing or empty.
    """
    place = _test_set(settings, domain)
    named = place is not None and (settings.test_sets[domain] or settings.test_pairs) is not None
    return pictures_at(place) if place is not None and (named or path_of(place).is_dir()) else training


def find_sample_pairs(settings: DataSettings, training: Mapping[Domain, Sequence[Place]]) -> Pairs:
    """Pairs to show a run by, likewise.

    Raises:
        DataError: the test set that the recipe names is missing or empty, or nothing in it is a pair.
    """
    places = [_test_set(settings, domain) for domain in DOMAINS]
    found = [place for place in places if place is not None and path_of(place).exists()]
    return find_pairs(*found) if len(found) == len(DOMAINS) else Pairs([*training["a"]], [*training["b"]], {})


def sets_to_test_on(settings: DataSettings, source: str) -> tuple[Place, Place]:
    """Of a model that takes pictures of ``source``: those to test it on, and real ones of what it makes.

    Raises:
        DataError: the training pictures come from elsewhere than a dataset, and no test sets are named.
    """
    first, second = (_test_set(settings, domain) for domain in DOMAINS)
    if first is None or second is None:
        raise DataError("There are no test pictures: give folders or lists with --test-a and --test-b.")
    return (first, second) if source == settings.source else (second, first)


def _training_set(settings: DataSettings, domain: Domain) -> Place:
    if (named := settings.domains[domain]) is not None:
        return named
    if settings.pairs is not None:
        return Half(settings.pairs, right=domain == "b")
    folder = training_folder(settings.dataset_dir, domain)
    return folder if folder.is_dir() else _halves(settings.dataset_dir, domain, ("train",)) or folder


def _test_set(settings: DataSettings, domain: Domain) -> Place | None:
    if (named := settings.test_sets[domain]) is not None:
        return named
    if settings.test_pairs is not None:
        return Half(settings.test_pairs, right=domain == "b")
    # Those of the dataset do not belong to training pictures that come from elsewhere.
    elsewhere = settings.domains["a"] is not None or settings.pairs is not None
    return None if elsewhere else test_place(settings.dataset_dir, domain)


def direction_of(card: ModelCard, dataset: Path, way: Way = "auto") -> Direction:
    """Which domain of a dataset a model takes, and which it makes.

    As asked for, as the model's own recipe says, or as the dataset's name says: ``horse2zebra`` has horses in ``A``.
    """
    if way == "auto":
        trained = _recipe(card.made_by).get("source") == card.target
        named = dataset.resolve().name == plain_name(card.target, card.source)
        return B_TO_A if trained or named else A_TO_B
    return A_TO_B if way == "AtoB" else B_TO_A


def test_folders_of(card: ModelCard, dataset: Path, way: Way = "auto") -> tuple[Place, Place]:
    """Of a dataset: pictures for a model to translate, and real ones of what the result should look like."""
    direction = direction_of(card, dataset, way)
    return test_place(dataset, direction.source), test_place(dataset, direction.target)


def _recipe(made_by: Mapping[str, object]) -> Mapping[str, object]:
    """The recipe of the training; for a distilled model, that of its teacher."""
    teacher = made_by.get("teacher")
    if isinstance(teacher, Mapping):
        return _recipe(teacher.get("made_by", {}))
    recipe = made_by.get("recipe")
    return recipe if isinstance(recipe, Mapping) else {}
