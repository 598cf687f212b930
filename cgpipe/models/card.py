"""The card of a model file: its metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields

from cgpipe.errors import ModelError

FORMAT_VERSION = 1
UNKNOWN = "unknown"
"""The domain or licence of a file that states none."""
GENERIC = "photo"
"""The source domain of models for any picture."""

_DOMAIN = re.compile(r"[a-z0-9][a-z0-9_-]*")
_LARGEST_SIZE = 65_535
_WHITE_IN_16_BITS = 65_535
_DEEPEST = 16
"""Most levels of nested mappings and lists in a field."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Everything needed to use a model, and to decide whether to use it.

    Args:
        architecture: a name in :data:`cgpipe.networks.GENERATORS`.
        settings: the architecture's keyword arguments.
        source: domain of the input: lowercase letters, digits, ``-`` and ``_``. ``photo`` stands for any picture.
        target: domain of the output.
        training_size: side of the training pictures in pixels; None if unknown.
        channels: of the pictures that it takes and gives: 1 gray, 3 RGB, 4 RGB and opacity, else those of TIFF stacks;
            by default as the settings say. A network on RGB may stand for one on gray.
        working_scales: smallest and largest short side, in pixels, at which the model was measured to work well; None
            if not measured.
        large_side: short side, in pixels, up to which larger pictures, but not videos, are reduced to no less than a
            third: for styles, whose strokes would be blots; None: to a short side as near to 256 as the working scales
            allow.
        made_by: provenance: recipe, steps, pictures seen, seed, version of cgpipe.
        quality: metrics, each under a name that states split, size and classifier.
        licence: an SPDX identifier, or "unknown".
        description: one line.
        notes: strengths and weaknesses.
        format_version: of the file; cgpipe reads versions up to :data:`FORMAT_VERSION`.

    Raises:
        ModelError: a field has an invalid value; the message begins with its name.
    """

    architecture: str
    settings: Mapping[str, object]
    source: str
    target: str
    training_size: int | None
    channels: tuple[int, int] = (3, 3)
    working_scales: tuple[int, int] | None = None
    large_side: int | None = None
    made_by: Mapping[str, object]
    quality: Mapping[str, object]
    licence: str
    description: str = ""
    notes: str = ""
    format_version: int = field(default=FORMAT_VERSION)

    def __post_init__(self) -> None:
        _check_version(self.format_version)
        for name in ("architecture", "licence"):
            _require(bool(_text(self, name)), name, "must not be empty")
        for name in ("source", "target"):
            check_domain(_text(self, name), name)
        for name in ("description", "notes"):
            _text(self, name)
        for name in ("settings", "made_by", "quality"):
            object.__setattr__(self, name, _plain(getattr(self, name), name))
        for name in ("training_size", "large_side"):
            side = getattr(self, name)
            fits = side is None or _is_size(side)
            _require(fits, name, f"must be a positive whole number of pixels or null, not {side!r}")
        object.__setattr__(self, "channels", _channels(self.channels, self.settings))
        object.__setattr__(self, "working_scales", _scales(self.working_scales))

    @property
    def pair(self) -> str:
        """Source and target as text: ``horse to zebra``."""
        return f"{self.source} to {self.target}"

    def value_range(self, domain: str) -> tuple[int, int] | None:
        """Black and white of a domain's 16-bit pictures in training, such as 0 and 4095; None if it is not known."""
        ranges = self.made_by.get("value_range")
        match ranges.get(domain) if isinstance(ranges, Mapping) else None:
            case [int(low), int(high)] if 0 <= low < high <= _WHITE_IN_16_BITS:
                return low, high
        return None

    @property
    def finished(self) -> bool:
        """Whether training was completed: ``made_by["finished"]``, by default true."""
        return self.made_by.get("finished", True) is not False

    @property
    def name(self) -> str:
        """The plain name of a model of this pair: ``horse2zebra``."""
        return plain_name(self.source, self.target)

    def to_json(self) -> str:
        """The card as JSON, for the header of a model file."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Parses the card in a header. Unknown fields are ignored.

        Raises:
            ModelError: it is not JSON or needs a newer cgpipe, or a field is missing or invalid.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"The header is not JSON ({error}).") from error
        if not isinstance(values, dict):
            raise ModelError("The header is not a JSON object.")
        _require("format_version" in values, "format_version", "is missing")
        _check_version(values["format_version"])
        known = fields(cls)
        for entry in known:
            _require(entry.name in values or entry.default is not MISSING, entry.name, "is missing")
        return cls(**{entry.name: values[entry.name] for entry in known if entry.name in values})


def plain_name(source: str, target: str) -> str:
    """The default name of a model of this pair, which takes precedence over others of the same pair."""
    return f"{source}2{target}"


def check_domain(domain: str, name: str) -> str:
    """Returns a valid ``domain``; raises ModelError, with ``name`` for the field, if it is invalid."""
    message = f"must consist of lowercase letters, digits, - and _, not {domain!r}"
    _require(is_domain(domain), name, message)
    return domain


def is_domain(text: str) -> bool:
    """Whether a domain may have this name."""
    return _DOMAIN.fullmatch(text) is not None


def _require(fits: bool, name: str, message: str) -> None:
    if not fits:
        raise ModelError(f"{name} {message}.")


def _check_version(version: object) -> None:
    whole = isinstance(version, int) and not isinstance(version, bool) and version > 0
    _require(whole, "format_version", f"must be a positive whole number, not {version!r}")
    if version != FORMAT_VERSION:
        raise ModelError(
            f"format_version is {version}, but this cgpipe reads version {FORMAT_VERSION}: update cgpipe to use it."
        )


def _text(card: ModelCard, name: str) -> str:
    value = getattr(card, name)
    _require(isinstance(value, str), name, f"must be text, not {value!r}")
    _require(_encodes(value), name, "holds half a character: it cannot be written anywhere")
    return str(value)


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode() or True)
    except UnicodeEncodeError:
        return False


def _plain(value: object, name: str) -> dict[str, object]:
    """A copy of a mapping after a round trip through JSON, so that a card equals itself read from a file."""
    _require(isinstance(value, Mapping), name, f"must be a mapping, not {value!r}")
    _require(not _deeper_than(value, _DEEPEST), name, f"has more than {_DEEPEST} levels")
    try:
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)  # type: ignore[call-overload]
        copy: dict[str, object] = json.loads(text.encode())
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} cannot be stored as JSON: {error}.") from error
    return copy


def _deeper_than(value: object, levels: int) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return False
    return levels == 0 or any(_deeper_than(inner, levels - 1) for inner in value)


def _channels(value: object, settings: Mapping[str, object]) -> tuple[int, int]:
    named = (settings.get("in_channels", 3), settings.get("out_channels", 3))
    ends = named if value == (3, 3) else value
    fits = isinstance(ends, list | tuple) and len(ends) == 2 and all(_is_size(count) for count in ends)
    _require(fits, "channels", f"must be two numbers of channels, not {ends!r}")
    return ends[0], ends[1]  # type: ignore[index]


def _scales(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    fits = isinstance(value, list | tuple) and len(value) == 2 and all(_is_size(side) for side in value)
    if not fits or value[0] > value[1]:  # type: ignore[index]
        raise ModelError(f"working_scales must be two sides in pixels, the smaller first, or null, not {value!r}.")
    return value[0], value[1]  # type: ignore[index]


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_SIZE
