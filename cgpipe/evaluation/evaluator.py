"""Metrics of a generator: compares translated with real pictures by a classifier.

Baselines on horse2zebra at 256x256, by Lite0 (and Lite2): untranslated horses are classified as zebras 0% (0%) of the
time and have KID x1000 219.4 (133.8) against testB; real zebras of testB are classified as zebras 95.0% (94.3%) of the
time and have KID x1000 -0.2 (-0.1) against trainB.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cgpipe.data.loading import RGB, Form, naming, read_named, to_network_range
from cgpipe.data.pictures import Half, Place, path_of, pictures_at
from cgpipe.data.settings import VIEWABLE
from cgpipe.errors import DataError, UsageError
from cgpipe.evaluation.inception import Inception, has_inception
from cgpipe.evaluation.scores import fid, kid, top1_share
from cgpipe.media.frames import Pixels
from cgpipe.media.pictures.masks import PictureMasks, require_same_aspect
from cgpipe.networks.channels import as_rgb
from cgpipe.networks.efficientnet import EfficientNetLite

Translation = Callable[[Tensor], Tensor]
"""Maps (N, C, H, W) in [-1, 1] to the same: a generator, or any function."""

ClassifierName = Literal["lite0", "lite2", "inception"]
Folders = Place | str | Sequence[Place | str]
"""A folder of pictures, or several that form one set."""


def available_classifiers() -> tuple[ClassifierName, ...]:
    """EfficientNet-Lite0 and Lite2, and Inception if torch-fidelity or clean-fid is installed."""
    return ("lite0", "lite2", "inception") if has_inception() else ("lite0", "lite2")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The metrics of a set of translated pictures by one classifier.

    Args:
        weights: name of the classifier's file.
        resolution: side of its input in pixels.
        class_share: fraction, 0 to 1, of pictures whose top-1 class is the requested one; None without one.
        kid: kernel distance (KID) to the reference, times 1000 (:func:`cgpipe.evaluation.scores.kid`).
        fid: Fréchet distance to the reference on the same features; not the Inception FID of papers.
    """

    weights: str
    resolution: int
    class_share: float | None
    kid: float
    fid: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of a generator, with everything needed to interpret them.

    Args:
        inputs: folder of the translated pictures: its name and its parent's.
        input_count: their number.
        reference: folder of the real pictures of the target domain.
        reference_count: their number.
        size: side, in pixels, at which pictures are translated and compared.
        class_name: the ImageNet class of ``class_share``; None without one.
        figures: metrics by classifier.
        mean_change: mean absolute difference between input and output, in levels of 255.
        cycle_error: the same between input and its reconstruction; None without a reverse generator.
        background_change: ``mean_change`` outside the masks; None without masks.
    """

    inputs: str
    input_count: int
    reference: str
    reference_count: int
    size: int
    class_name: str | None
    figures: Mapping[str, Figures]
    mean_change: float
    cycle_error: float | None
    background_change: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON and for a model's card."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A table with one row per classifier, with the sets above and the changes below."""
        inputs = f"{self.input_count} pictures of {self.inputs} translated at {self.size}x{self.size}"
        lines = [
            f"{inputs}, against {self.reference_count} of {self.reference}:",
            "",
            f"| weights | seen as {self.class_name or 'class'} | KID x1000 | FID (these features) |",
            "|---|---|---|---|",
        ]
        for row in self.figures.values():
            share = "" if row.class_share is None else f"{row.class_share:.1%}"
            lines.append(
                f"| {row.weights} at {row.resolution}x{row.resolution} | {share} | {row.kid:.1f} | {row.fid:.1f} |"
            )
        cycle = "" if self.cycle_error is None else f", cycle error {self.cycle_error:.1f} of 255"
        outside = "" if self.background_change is None else f", outside the masks {self.background_change:.1f}"
        lines += ["", f"Mean change {self.mean_change:.1f} of 255{outside}{cycle}."]
        return "\n".join(lines)


class Evaluator:
    """Measures generators on one pair of folders; the reference is measured only once.

    ``evaluate(lambda pictures: pictures)`` measures untranslated pictures. Everything is deterministic: the same
    folders, sizes and batches give the same metrics.

    Args:
        inputs: folder of pictures to translate, or several.
        reference: folder of real pictures of the target domain, or several.
        class_name: an ImageNet class, such as ``zebra``, whose share among the results is measured.
        size: pictures of another size are first resized (antialiased bicubic) to a square of this side, in pixels.
        networks: the classifiers: variants of EfficientNet-Lite, and ``inception``.
        masks: a folder with a mask for each input, or one mask for all; white marks where changes belong.
        forms: how inputs and references are read; pictures of other channels are measured as RGB.
        batch_size: pictures per batch.
        device: device of classifiers and generators.

    Raises:
        DataError: a folder is missing or holds fewer than two pictures.
        UsageError: the class or the path of the masks does not exist, or pictures have channels that cannot be seen.
        MediaError: an input has no mask, or one that is unreadable or of another aspect ratio.
        MissingDependencyError: the classifiers' packages are missing.
    """

    def __init__(
        self,
        inputs: Folders,
        reference: Folders,
        *,
        class_name: str | None = None,
        size: int = 256,
        networks: Sequence[ClassifierName] = ("lite0", "lite2"),
        masks: Path | str | None = None,
        forms: tuple[Form, Form] = (RGB, RGB),
        batch_size: int = 16,
        device: torch.device | str = "cpu",
    ) -> None:
        _require_viewable(*(form.channels for form in forms))
        self.forms = forms
        self.class_index = None if class_name is None else imagenet_class(class_name)
        self.class_name = class_name
        self.inputs, self.reference = _folders(inputs), _folders(reference)
        self.input_paths, reference_paths = pictures_of(self.inputs), pictures_of(self.reference)
        for folders, paths in ((self.inputs, self.input_paths), (self.reference, reference_paths)):
            if len(paths) < 2:
                raise DataError(f"{split_name(folders)} holds one picture. KID and FID need at least two.")
        self._masks = None if masks is None else PictureMasks(masks)
        self.size, self.batch_size, self.device = size, batch_size, torch.device(device)
        self.networks = {name: _load_classifier(name).to(self.device) for name in networks}
        self._reference_count = len(reference_paths)
        with torch.inference_mode():
            outputs = _Outputs(self.networks)
            for pictures, _ in self._batches(reference_paths, forms[1]):
                outputs.add(as_rgb(pictures))
        self._reference_features = outputs.features()

    def require_inputs(self) -> None:
        """Raises MediaError if an input cannot be read, which :meth:`evaluate` would meet later."""
        for _ in self._batches(self.input_paths, self.forms[0], self._masks):
            pass

    @torch.inference_mode()
    def evaluate(self, generator: Translation, reverse: Translation | None = None) -> Evaluation:
        """Translates every input and compares the results with the reference.

        Args:
            generator: on ``device``; modules are temporarily switched to eval mode.
            reverse: the generator of the other direction, for the cycle error.

        Raises:
            UsageError: ``size`` is not one that a generator accepts.
        """
        outputs = _Outputs(self.networks)
        changed, cycled, background = 0.0, 0.0, _Background()
        with ExitStack() as stack:
            for translation in (generator, reverse):
                require_size(self.size, translation)
                stack.enter_context(evaluation_mode(translation))
            for pictures, outside in self._batches(self.input_paths, self.forms[0], self._masks):
                translated = generator(pictures).clamp(-1, 1)
                outputs.add(as_rgb(translated))
                change = as_rgb(translated) - as_rgb(pictures)
                changed += _levels(change)
                if outside is not None:
                    background.add(change, outside)
                if reverse is not None:
                    cycled += _levels(reverse(translated).clamp(-1, 1) - pictures)
        count = len(self.input_paths)
        return Evaluation(
            inputs=split_name(self.inputs),
            input_count=count,
            reference=split_name(self.reference),
            reference_count=self._reference_count,
            size=self.size,
            class_name=self.class_name,
            figures={variant: self._figures(variant, outputs) for variant in self.networks},
            mean_change=changed / count,
            cycle_error=None if reverse is None else cycled / count,
            background_change=background.mean_change(),
        )

    def _figures(self, variant: ClassifierName, outputs: _Outputs) -> Figures:
        network, features = self.networks[variant], outputs.features()[variant]
        reference = self._reference_features[variant]
        logits = outputs.logits()[variant]
        knows_classes = self.class_index is not None and logits.shape[1] > 0
        share = top1_share(logits, self.class_index) if knows_classes and self.class_index is not None else None
        return Figures(
            weights=network.weights_name,
            resolution=network.size,
            class_share=share,
            kid=1000 * kid(features, reference),
            fid=fid(features, reference),
        )

    def _batches(
        self, paths: Sequence[Place], form: Form, masks: PictureMasks | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Pictures (N, C, size, size) in [-1, 1], and what lies outside their masks: (N, 1, size, size), 0 to 1."""
        for start in range(0, len(paths), self.batch_size):
            pictures, outside = [], []
            for path in paths[start : start + self.batch_size]:
                pixels = read_named(path, form.channels)
                pictures.append(to_square(pixels, self.size, form))
                if masks is not None:
                    outside.append(self._outside(masks, path_of(path), pixels))
            yield torch.stack(pictures).to(self.device), torch.stack(outside).to(self.device) if outside else None

    def _outside(self, masks: PictureMasks, path: Path, pixels: Pixels) -> Tensor:
        """The inverted mask of an input, 0 to 1: (1, size, size)."""
        named = (folder for folder in map(path_of, self.inputs) if path.is_relative_to(folder))
        root = next(named, path.parent)  # a list names its pictures anywhere
        with naming(path):
            mask = masks.read(path.relative_to(root))
            require_same_aspect(mask, *pixels.shape[:2])
        resized = cv2.resize(mask, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(1 - resized.astype(np.float32) / 255)[None]


def _require_viewable(*channels: int) -> None:
    if not {*channels} <= {*VIEWABLE}:
        raise UsageError(
            f"KID, FID and classes are measured on gray, RGB and RGBA pictures, not on {max(channels)} channels."
        )


def imagenet_class(name: str) -> int:
    """The index of an ImageNet class by its name, such as 340 for ``zebra``.

    Raises:
        UsageError: there is none; the message names the nearest spellings.
    """
    from torchvision.models import EfficientNet_B0_Weights

    names: list[str] = [entry.lower() for entry in EfficientNet_B0_Weights.DEFAULT.meta["categories"]]
    if name.lower() not in names:
        near = ", ".join(difflib.get_close_matches(name.lower(), names)) or "none is near"
        raise UsageError(f"ImageNet has no class {name!r}. The closest: {near}.")
    return names.index(name.lower())


class _Background:
    """The mean change outside masks, accumulated over batches; pictures without background are ignored."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def add(self, change: Tensor, outside: Tensor) -> None:
        """``change`` (N, 3, H, W) in [-2, 2], ``outside`` (N, 1, H, W) in 0 to 1."""
        weight = outside.double().sum(dim=(1, 2, 3))
        change = (change.abs().mean(dim=1, keepdim=True) * outside).double().sum(dim=(1, 2, 3))
        there = weight > 0
        self._total += (change[there] / weight[there]).sum().item() * 127.5
        self._count += int(there.sum())

    def mean_change(self) -> float | None:
        """In levels of 255; None if nothing was added."""
        return self._total / self._count if self._count else None


class _Outputs:
    """Features and logits, collected over batches."""

    def __init__(self, networks: Mapping[ClassifierName, EfficientNetLite | Inception]) -> None:
        self._networks = networks
        self._outputs: dict[ClassifierName, list[tuple[Tensor, Tensor]]] = {variant: [] for variant in networks}

    def add(self, pictures: Tensor) -> None:
        for variant, network in self._networks.items():
            features, logits = network(pictures)
            self._outputs[variant].append((features.cpu(), logits.cpu()))

    def features(self) -> dict[ClassifierName, Tensor]:
        return {variant: torch.cat([features for features, _ in rows]) for variant, rows in self._outputs.items()}

    def logits(self) -> dict[ClassifierName, Tensor]:
        return {variant: torch.cat([logits for _, logits in rows]) for variant, rows in self._outputs.items()}


def require_size(size: int, translation: object) -> None:
    """Raises UsageError unless a generator accepts pictures of ``size`` pixels a side."""
    multiple = getattr(translation, "multiple", 1)
    if size % multiple:
        raise UsageError(f"This generator takes sides that are multiples of {multiple}, not a size of {size}.")


def load_picture(path: Place, size: int, form: Form = RGB) -> Tensor:
    """A picture as float (channels, size, size) in [-1, 1].

    Raises:
        MediaError: it cannot be read; the message names it.
    """
    return to_square(read_named(path, form.channels), size, form)


def to_square(pixels: Pixels, size: int, form: Form = RGB) -> Tensor:
    """Pixels (height, width, channels) of 8 or 16 bits as float (channels, size, size) in [-1, 1]."""
    if pixels.dtype == np.uint16 and form.values is not None:
        picture = to_network_range(form.values.scaled(pixels))
    else:
        picture = torch.from_numpy(pixels.astype(np.float32) / (np.iinfo(pixels.dtype).max / 2) - 1).movedim(2, 0)
    if picture.shape[1:] == (size, size):
        return picture
    resized = F.interpolate(picture[None], (size, size), mode="bicubic", align_corners=False, antialias=True)
    return resized[0].clamp(-1, 1)


def _levels(difference: Tensor) -> float:
    """Mean absolute difference of each picture, in levels of 255, summed over pictures."""
    return difference.abs().mean(dim=(1, 2, 3)).double().sum().item() * 127.5


def _load_classifier(name: ClassifierName) -> EfficientNetLite | Inception:
    return Inception() if name == "inception" else EfficientNetLite(name)


def _folders(folders: Folders) -> tuple[Place, ...]:
    several = (folders,) if isinstance(folders, Path | Half | str) else folders
    return tuple(Path(folder) if isinstance(folder, str) else folder for folder in several)


def pictures_of(folders: Folders) -> list[Place]:
    """All pictures of some folders, in order.

    Raises:
        DataError: one is missing or holds no picture.
    """
    return [path for folder in _folders(folders) for path in pictures_at(folder)]


def split_name(folders: Folders) -> str:
    """Name of a set beside its metrics: its folders' names with their parents'."""
    return " and ".join("/".join(path_of(folder).resolve().parts[-2:]) for folder in _folders(folders))


@contextmanager
def evaluation_mode(translation: object) -> Iterator[None]:
    """Switches to eval mode (no dropout, fixed batch statistics) during the body."""
    if not isinstance(translation, nn.Module):
        yield
        return
    modes = {module: module.training for module in translation.modules()}
    translation.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
