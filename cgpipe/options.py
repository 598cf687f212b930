"""Options in small frozen groups that validate themselves, and the fingerprint of those that determine a result.

A new option is one field in one of these groups. It enters the fingerprint unless its :class:`Counts` says otherwise,
so that outputs made without it are made again with it. A field at its default never enters, so that adding a field
changes nothing for those who do not use it.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypedDict, TypeVar

from cgpipe.errors import UsageError
from cgpipe.storage import PathLike, digest_of, is_address

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Size = int | Literal["auto", "full", "output"]
"""Short side at which a network works: pixels, the picture's own, one of the model's scales, or as an upscaler does."""

Tile = int | Literal["auto", "off"]
"""Side in pixels of the tiles by which a network runs over a picture, where memory asks for them, or never."""

TileMode = Literal["exact", "fast"]
"""Whether norms have the statistics of all tiles, or those of a reduced picture."""

Precision = Literal["auto", "fp32", "fp16", "bf16"]
"""Numeric precision of a network."""

InitKind = Literal["normal", "xavier", "kaiming", "orthogonal"]
"""Distribution of a network's initial weights."""

Engine = Literal["auto", "eager", "compile", "torchscript", "onnx", "openvino", "ncnn"]
"""What runs a network."""

Direction = Literal["AtoB", "BtoA"]
"""Which of two generators, by the order of the domains."""

Counts = Literal["pictures", "file", "never"]
"""What a field affects: the pixels of a result, only the file around them (such as its audio), or nothing."""

Kind = Literal["pictures", "video"]

SMALLEST_TILE = 64
"""Smallest tile in pixels: around a smaller one a network would compute more margin than tile."""

PIXELS_VERSION = 1
"""Incremented when pixels change for the same options, so that earlier outputs are made again."""

Result = TypeVar("Result")
Value = TypeVar("Value")


def option(default: Value, *, counts: Counts = "pictures", kinds: tuple[Kind, ...] = ("pictures", "video")) -> Value:
    """A field of a group.

    Args:
        counts: what it affects.
        kinds: the kinds of job that have it.
    """
    return field(default=default, metadata={"counts": counts, "kinds": kinds})


def _content(value: object) -> object:
    """An option as a JSON value; for an existing path, a checksum of its content."""
    if isinstance(value, os.PathLike):
        try:
            return digest_of(value)
        except OSError:
            return os.fsencode(value).decode("utf-8", "backslashreplace")
    return value


def _check_one_of(name: str, value: object, known: tuple[object, ...], more: str = "") -> None:
    if value not in known:
        words = ", ".join(map(str, filter(None, (*known, more))))
        raise UsageError(f"{name} {value!r} is not a valid value: use one of {words}.")


def _check_range(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        raise UsageError(f"The {name} must be between {least} and {most}, not {value}.")


def _check_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{name} must be at least {least}, not {value}.")


def _check_tile(tile: Tile) -> None:
    if isinstance(tile, int):
        _check_least("tile", tile, SMALLEST_TILE)
    else:
        _check_one_of("tile", tile, ("auto", "off"), "a number of pixels")


_PICTURES: tuple[Kind, ...] = ("pictures",)
_VIDEO: tuple[Kind, ...] = ("video",)


class Group:
    """The base class of the groups."""

    @classmethod
    def options(cls, kind: Kind | None = None) -> tuple[Field[object], ...]:
        """The fields, or those of a kind of job."""
        return tuple(f for f in fields(cls) if kind in (None, *f.metadata["kinds"]))  # type: ignore[arg-type]

    def deciding(self, *, pictures_only: bool = False) -> dict[str, object]:
        """The options that determine a result: JSON values by field, without those at their default.

        Args:
            pictures_only: omit options that change the file but not its pictures.
        """
        counting = ("pictures",) if pictures_only else ("pictures", "file")
        asked = {f.name: getattr(self, f.name) for f in self.options() if f.metadata["counts"] in counting}
        defaults = {f.name: f.default for f in self.options()}
        return {name: _content(value) for name, value in asked.items() if value != defaults[name]}


def named_value(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``. Where there are more of them, the first ``=`` divides.

    Raises:
        UsageError: there is no name or no value.
    """
    name, _, value = text.partition("=")
    if not name or not value:
        raise UsageError(f"--input takes NAME=VALUE, not {text!r}.")
    return name, value


@dataclass(frozen=True, kw_only=True)
class ModelChoice(Group):
    """The model, and how it is read; by default, the default model.

    None of it enters the fingerprint; the chosen model does (see :class:`cgpipe.models.choose.Chosen`).

    Args:
        to: the target domain, such as ``zebra``.
        source: the source domain, if ``to`` alone is ambiguous.
        model: a model file of any known project, an address, or a model's name.
        direction: which generator to take from another project's file that holds both.
        generator: the generator's name in another project's file with several.
        batch_statistics: let batch norm of another project's network use each picture's own statistics.
        model_inputs: values of a program's inputs besides the picture, ``NAME=VALUE`` each.
        like: one or several paintings, whose look is learned on the job's own pictures, once, and kept.
        like_steps: training steps of the look.
        like_strength: weight of style against content in training, 0.1 to 10; 1 is the recipe's default.
        like_now: use a network that takes a painting beside the picture, instead of training.
    """

    to: str | None = option(None, counts="never")
    source: str | None = option(None, counts="never")
    model: PathLike | None = option(None, counts="never")
    direction: Direction | None = option(None, counts="never")
    generator: str | None = option(None, counts="never")
    batch_statistics: bool = option(False, counts="never")
    model_inputs: tuple[str, ...] = option((), counts="never")
    like: PathLike | tuple[PathLike, ...] = option((), counts="never")
    like_steps: int = option(600, counts="never")
    like_strength: float = option(1.0, counts="never")
    like_now: bool = option(False, counts="never")

    def __post_init__(self) -> None:
        _check_one_of("direction", self.direction, (None, "AtoB", "BtoA"))
        _check_least("like_steps", self.like_steps, 1)
        _check_range("like_strength", self.like_strength, 0.1, 10)
        others = ("to", "source", "model", "direction", "generator", "batch_statistics", "model_inputs")
        if self.like and (other := next((name for name in others if getattr(self, name)), None)):
            raise UsageError(f"like makes a model of its own: omit {other}.")

    @property
    def paintings(self) -> tuple[Path, ...]:
        """The paintings of ``like``."""
        paths = (self.like,) if isinstance(self.like, str | os.PathLike) else self.like
        return tuple(Path(path).expanduser() for path in paths)


@dataclass(frozen=True, kw_only=True)
class Look(Group):
    """The look of the result, for any model.

    Args:
        size: short side at which the generator works: pixels, ``full`` for the picture's own, or ``auto`` for one of
            the model's scales. ``output``, for a network that enlarges pictures, writes them at the size that it gives.
        strength: blend strength, 0 to 2: 0 is the original, 1 the full translation.
        mask: grayscale pictures that confine the change: white is translated, black is kept. For pictures a folder
            with one of the same name for each, or one for all; for a video another one, pictures, or one picture.
        tile: side in pixels of the tiles in which the network processes larger pictures; ``auto``: if the whole does
            not fit in memory; ``off``: never.
        tile_mode: ``exact`` equals the result of the whole picture, and needs one pass per norm of the network;
            ``fast`` needs one pass, with statistics from a reduced picture.
        side_by_side: show original and translation side by side.
        steady: temporal smoothing of a video, 0 to 1: how much of each frame's change comes from earlier frames.
        deinterlace: deinterlace a video's interlaced frames.
    """

    size: Size = option("auto")
    strength: float = option(1.0)
    mask: PathLike | None = option(None)
    tile: Tile = option("auto")
    tile_mode: TileMode = option("exact")
    side_by_side: bool = option(False, kinds=_VIDEO)
    deinterlace: bool = option(True, kinds=_VIDEO)
    steady: float = option(0.0, kinds=_VIDEO)

    def __post_init__(self) -> None:
        if isinstance(self.size, int):
            if self.size < 1:
                raise UsageError(f"The size must be at least 1 pixel, not {self.size}.")
        else:
            _check_one_of("size", self.size, ("auto", "full", "output"), "a number of pixels")
        _check_range("strength", self.strength, 0, 2)
        _check_range("steadiness (steady)", self.steady, 0, 1)
        _check_tile(self.tile)
        _check_one_of("tile_mode", self.tile_mode, ("exact", "fast"))
        if self.mask is not None and not is_address(self.mask):
            object.__setattr__(self, "mask", Path(self.mask))  # what it holds counts, and not its name

    def deciding(self, *, pictures_only: bool = False) -> dict[str, object]:
        """Same as for any group, but exact tiles do not enter, since they equal the result of the whole picture."""
        told = super().deciding(pictures_only=pictures_only)
        return told if self.tile_mode == "fast" else {name: value for name, value in told.items() if name != "tile"}


@dataclass(frozen=True, kw_only=True)
class Hardware(Group):
    """The hardware, and how it is used; does not enter the fingerprint.

    Args:
        device: ``auto`` (CUDA if available), ``cpu``, ``cuda``, ``cuda:N``, ``mps``, ``xpu`` or ``vulkan`` (any GPU
            by ncnn's Vulkan); several, separated by commas, share the work.
        precision: numeric precision (dtype) of the network; ``auto`` tries.
        engine: the engine that runs the network.
        batch_size: pictures per batch; None: the fastest.
        hwaccel: libav's name of a hardware decoder for video, such as ``cuda``; ``off``: none; None: that of a CUDA GPU
            that translates, for clips of which it gives the same frames sooner.
    """

    device: str = option("auto", counts="never")
    precision: Precision = option("auto", counts="never")
    engine: Engine = option("auto", counts="never")
    batch_size: int | None = option(None, counts="never")
    hwaccel: str | None = option(None, counts="never", kinds=_VIDEO)

    def __post_init__(self) -> None:
        _check_least("batch_size", self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class Encoding(Group):
    """The format of the result.

    Args:
        format: of pictures: ``jpg``, ``png``, ``webp``, ``avif`` and so on, by any of their suffixes; None: that of
            each input. The output's name shows it, so it does not enter the fingerprint.
        quality: of lossy picture formats, 1 to 100.
        codec: libav's name of a video encoder, or a short one such as ``hevc``; None: the container's default.
        crf: constant rate factor of a video encoder, 0 to 63; lower is better.
        preset: its speed/size preset, by its own names.
        pix_fmt: libav's name of a pixel format, such as ``yuv420p10le``.
        audio: keep a video's audio.
    """

    format: str | None = option(None, counts="never", kinds=_PICTURES)
    quality: int | None = option(None, kinds=_PICTURES)
    codec: str | None = option(None, kinds=_VIDEO)
    crf: float | None = option(None, kinds=_VIDEO)
    preset: str | None = option(None, kinds=_VIDEO)
    pix_fmt: str | None = option(None, kinds=_VIDEO)
    audio: bool = option(True, counts="file", kinds=_VIDEO)

    def __post_init__(self) -> None:
        _check_range("quality", self.quality, 1, 100)


class EncodingFields(TypedDict, total=False):
    """Fields of :class:`Encoding` for videos, as keywords."""

    codec: str | None
    crf: float | None
    preset: str | None
    pix_fmt: str | None
    audio: bool


@dataclass(frozen=True, kw_only=True)
class Cut(Group):
    """The part of a video that is read.

    Args:
        start: seconds into the clip.
        end: seconds into the clip.
        fps: constant frame rate; None: the input's own times.
        duration: seconds from the start, after which a camera or a stream ends; an alternative to ``end``.
    """

    start: float | None = option(None, kinds=_VIDEO)
    end: float | None = option(None, kinds=_VIDEO)
    fps: float | None = option(None, kinds=_VIDEO)
    duration: float | None = option(None, kinds=_VIDEO)


class Shard(NamedTuple):
    """One part of a job that several processes or machines share, such as ``2/8``.

    Args:
        number: number of the part, from 1.
        of: number of parts.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses ``I/N``.

        Raises:
            UsageError: it is not ``I/N``, with I from 1 to N.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"The shard {text!r} is not a valid value: use I/N, with I from 1 to N, such as 2/8.")
        return cls(int(found[1]), int(found[2]))

    def holds(self, place: str) -> bool:
        """Whether the file at ``place``, relative to the inputs, belongs to this part.

        Only its name decides, so that all machines agree, in whatever order they list a folder.
        """
        text = unicodedata.normalize("NFC", place.replace(os.sep, "/"))
        digest = blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


class CutFields(TypedDict, total=False):
    """Fields of :class:`Cut`, as keywords."""

    start: float | None
    end: float | None
    fps: float | None
    duration: float | None


@dataclass(frozen=True, kw_only=True)
class Work(Group):
    """How the work is done, and what is done again.

    Args:
        workers: processes that decode pictures, 0: a thread of this process; or threads that decode a video.
        ahead: batches that each stage prepares ahead.
        overwrite: translate again what is up to date, and replace files that cgpipe did not make.
        checksum: detect changed inputs by content instead of size and modification time.
        recursive: include subfolders.
        shard: do only one part, ``I/N`` with I from 1: the same job started N times, anywhere, does all of it.
        ray: address of the Ray cluster that does the work: ``local``, ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.
    """

    workers: int | None = option(None, counts="never")
    ahead: int = option(2, counts="never")
    overwrite: bool = option(False, counts="never")
    checksum: bool = option(False, counts="never")
    recursive: bool = option(True, counts="never", kinds=_PICTURES)
    shard: str | None = option(None, counts="never")
    ray: str | None = option(None, counts="never")

    def __post_init__(self) -> None:
        _check_least("workers", self.workers, 0)
        _check_least("ahead", self.ahead, 1)
        if self.shard is not None:
            Shard.parse(self.shard)
        if self.ray is not None and not re.fullmatch(r"local|auto|(ray://)?[^/\s]+:\d+", self.ray):
            raise UsageError(
                f"The address {self.ray!r} is not that of a Ray cluster: use local, auto, HOST:PORT or ray://HOST:PORT."
            )

    @property
    def part(self) -> Shard | None:
        """The shard; None: the whole job."""
        return None if self.shard is None else Shard.parse(self.shard)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """All groups that a function takes, one per field."""

    @classmethod
    def defaults(cls) -> dict[str, Group]:
        """The groups with default values, by field name."""
        return vars(cls())

    @classmethod
    def gather(cls, given: Mapping[str, object], kind: Kind | None = None) -> Self:
        """Builds the groups from keywords: whole groups by field name, and single options, which take precedence.

        Raises:
            TypeError: no group of this kind of job has a keyword, or a value is not the group it should be.
            UsageError: a value is invalid.
        """
        groups = {home: _group(home, given.get(home), default) for home, default in cls.defaults().items()}
        homes = {option.name: home for home, group in groups.items() for option in group.options(kind)}
        for name in given:
            if name not in homes and name not in groups:
                near = difflib.get_close_matches(name, [*homes, *groups], n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"unexpected keyword argument {name!r}{hint}")
        for home, group in groups.items():
            own = {name: value for name, value in given.items() if homes.get(name) == home}
            groups[home] = replace(group, **own) if own else group  # type: ignore[type-var]
        return cls(**groups)


def _group(home: str, given: object, default: Group) -> Group:
    if given is None:
        return default
    if not isinstance(given, type(default)):
        raise TypeError(f"{home} must be a {type(default).__name__}, not a {type(given).__name__}")
    return given


@dataclass(frozen=True, kw_only=True)
class Options(Groups):
    """All groups of a translation job."""

    choice: ModelChoice = ModelChoice()
    look: Look = Look()
    hardware: Hardware = Hardware()
    encoding: Encoding = Encoding()
    cut: Cut = Cut()
    work: Work = Work()

    def fingerprint(self, model: Mapping[str, object], *, pictures_only: bool = False) -> str:
        """16 hex digits that are equal exactly if the results for the same input are.

        Args:
            model: the model's part (see :meth:`cgpipe.models.choose.Chosen.deciding`).
            pictures_only: omit options that change the file but not its pictures.
        """
        deciding = {f.name: getattr(self, f.name).deciding(pictures_only=pictures_only) for f in fields(self)}
        told = {"pixels": PIXELS_VERSION, "model": dict(model)} | {name: own for name, own in deciding.items() if own}
        return blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=8).hexdigest()


def takes_options(
    kind: Kind | None = None, all_groups: type[Groups] = Options, *, told: type[DataclassInstance] | None = None
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Lets a function that takes ``options`` (:class:`Options`, or other groups) take groups and fields as keywords.

    So ``translate_folder("photos", to="zebra", look=Look(strength=0.5))`` works, and help, notebooks and editors show
    every keyword.

    Args:
        kind: the kind of job, which may not have all options.
        all_groups: the class of ``options``.
        told: the class of the function's ``told``, if it has one: the job's callbacks, also each as a keyword.
    """
    groups, hearers = all_groups.defaults(), fields(told) if told else ()

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        own = inspect.signature(function)
        names = [name for name in own.parameters if name not in ("options", "told")]

        @functools.wraps(function)
        def with_keywords(*args: object, **given: object) -> Result:
            direct = {name: given.pop(name) for name in names if name in given}
            if told is not None:
                direct["told"] = told(**{f.name: given.pop(f.name) for f in hearers if f.name in given})
            try:
                options = all_groups.gather(given, kind)
            except TypeError as error:
                raise TypeError(f"{function.__name__}(): {error}") from None
            return function(*args, options=options, **direct)

        keywords = [(f.name, f.default, f.type) for f in hearers]
        keywords += [(f.name, f.default, f.type) for group in groups.values() for f in group.options(kind)]
        keywords += [(home, None, f"{type(group).__name__} | None") for home, group in groups.items()]
        shown = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, default, annotation in keywords
            if name not in names
        ]
        parameters = [*(own.parameters[name] for name in names), *shown]
        with_keywords.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return with_keywords

    return decorate
