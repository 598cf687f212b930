"""Metrics of a generator on pairs: how close each translation is to the picture that it should be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cgpipe.data.loading import RGB, Form, read_pixels
from cgpipe.data.pairs import Pairs, find_pairs, require_same_shape
from cgpipe.data.pictures import Place, path_of
from cgpipe.errors import DataError, MediaError, UsageError
from cgpipe.evaluation.evaluator import Translation, evaluation_mode, require_size, split_name, to_square
from cgpipe.networks.channels import as_rgb

WINDOW, SPREAD = 11, 1.5
"""Side and standard deviation of the Gaussian window of SSIM, as in its paper."""

HIGHEST_PSNR = 100.0
"""That of equal pictures, in decibels."""


@dataclass(frozen=True, kw_only=True)
class PairedFigures:
    """How close translations are to their targets, as means over pairs.

    Args:
        inputs: folder of the translated pictures: its name and its parent's.
        reference: folder of their targets.
        count: pairs.
        size: side, in pixels, at which pictures are translated and compared.
        l1: mean absolute difference, in levels of 255.
        psnr: peak signal-to-noise ratio in decibels.
        ssim: structural similarity, at most 1 (:func:`ssim`).
        unchanged_l1, unchanged_psnr: the same of the untranslated inputs.
        left_out: why pictures were left out: without a partner, of other proportions than it, or unreadable.
    """

    inputs: str
    reference: str
    count: int
    size: int
    l1: float
    psnr: float
    ssim: float
    unchanged_l1: float
    unchanged_psnr: float
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON and for a model's card."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A table: the translations, and the untranslated inputs."""
        left_out = [f"Left out: {reason}" for reason in self.left_out]
        return "\n".join(
            (
                *([*left_out, ""] if left_out else ()),
                f"{self.count} pairs of {self.inputs} and {self.reference} at {self.size}x{self.size}:",
                "",
                "| | L1 of 255 | PSNR (dB) | SSIM |",
                "|---|---|---|---|",
                f"| translated | {self.l1:.2f} | {self.psnr:.2f} | {self.ssim:.4f} |",
                f"| untranslated | {self.unchanged_l1:.2f} | {self.unchanged_psnr:.2f} | |",
            )
        )


class PairedEvaluator:
    """Measures generators on one set of pairs.

    After the first measurement, ``pairs`` are those that can be used.

    Args:
        inputs: pictures to translate: a folder or a list.
        reference: their targets (:func:`cgpipe.data.pairs.find_pairs`).
        size: pictures of another size are first resized (antialiased bicubic) to a square of this side, in pixels.
        forms: how inputs and targets are read.
        batch_size: pairs per batch.
        device: device of the generators.

    Raises:
        DataError: a set is missing or empty, or nothing is a pair.
        UsageError: ``size`` is too small for SSIM.
    """

    def __init__(
        self,
        inputs: Place,
        reference: Place,
        *,
        size: int = 256,
        forms: tuple[Form, Form] = (RGB, RGB),
        batch_size: int = 8,
        device: torch.device | str = "cpu",
    ) -> None:
        if size < WINDOW:
            raise UsageError(f"SSIM compares windows of {WINDOW} pixels: pairs need at least that size, not {size}.")
        self.names = split_name([inputs]), split_name([reference])
        self.pairs = find_pairs(inputs, reference)
        self.forms = forms
        self.size, self.batch_size, self.device = size, batch_size, torch.device(device)

    @torch.inference_mode()
    def evaluate(self, generator: Translation) -> PairedFigures:
        """Translates every input and compares the results with their targets.

        Args:
            generator: on ``device``; modules are temporarily switched to eval mode.

        Raises:
            UsageError: ``size`` is not one that the generator accepts.
            DataError: no pair can be used.
        """
        require_size(self.size, generator)
        with evaluation_mode(generator):
            batches = [_compare(generator(a).clamp(-1, 1), a, b) for a, b in self._batches()]
        if not batches:
            raise DataError(f"No pair can be used: {next(reversed(self.pairs.alone.values()))}")
        rows = torch.cat(batches)
        kept = [pair for pair in zip(*self.pairs[:2], strict=True) if path_of(pair[0]) not in self.pairs.alone]
        self.pairs = Pairs([a for a, _ in kept], [b for _, b in kept], self.pairs.alone)
        l1, psnr, likeness, unchanged_l1, unchanged_psnr = rows.double().mean(dim=0).tolist()
        return PairedFigures(
            inputs=self.names[0],
            reference=self.names[1],
            count=len(rows),
            size=self.size,
            l1=l1,
            psnr=psnr,
            ssim=likeness,
            unchanged_l1=unchanged_l1,
            unchanged_psnr=unchanged_psnr,
            left_out=tuple(self.pairs.alone.values()),
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        usable = list(zip(self.pairs.a, self.pairs.b, strict=True))
        for first in range(0, len(usable), self.batch_size):
            part = [pair for files in usable[first : first + self.batch_size] if (pair := self._load(files))]
            if part:
                a, b = (torch.stack(side).to(self.device) for side in zip(*part, strict=True))
                yield a, b

    def _load(self, files: tuple[Place, Place]) -> list[Tensor]:
        """A pair, (channels, size, size) each; nothing if it cannot be used, with the reason among those left out."""
        try:
            pictures = [read_pixels(file, form.channels) for file, form in zip(files, self.forms, strict=True)]
            require_same_shape(files, pictures)
        except MediaError as error:
            self.pairs.alone[path_of(files[0])] = f"{path_of(files[0])}: {error}"
            return []
        return [to_square(pixels, self.size, form) for pixels, form in zip(pictures, self.forms, strict=True)]


def _compare(made: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """One row of figures for each picture of a batch."""
    if inputs.shape != targets.shape:
        made, inputs, targets = as_rgb(made), as_rgb(inputs), as_rgb(targets)
    columns = (
        *(l1_distance(made, targets), psnr(made, targets), ssim(made, targets)),
        *(l1_distance(inputs, targets), psnr(inputs, targets)),
    )
    return torch.stack(columns, dim=1)


def l1_distance(one: Tensor, other: Tensor) -> Tensor:
    """Mean absolute difference of each picture of (N, C, H, W) in [-1, 1], in levels of 255: (N,)."""
    return (one - other).abs().mean(dim=(1, 2, 3)) * 127.5


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture of (N, C, H, W) in [-1, 1], in decibels: (N,); at most 100."""
    error = ((one - other) / 2).square().mean(dim=(1, 2, 3)).clamp_min(10 ** (-HIGHEST_PSNR / 10))
    return -10 * error.log10()


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004) of each picture of (N, C, H, W) in [-1, 1], with at least 11 pixels a
    side: (N,), 1 for equal pictures; the mean over channels and places."""
    ramp = torch.arange(WINDOW, device=one.device, dtype=one.dtype) - WINDOW // 2
    weights = torch.softmax(-ramp.square() / (2 * SPREAD**2), dim=0)
    channels = one.shape[1]

    def smooth(pictures: Tensor) -> Tensor:
        rows = F.conv2d(pictures, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(rows, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    one, other = one / 2, other / 2  # around 0: differences of squares of larger values would be rounded more
    mean_one, mean_other = smooth(one), smooth(other)
    variances = smooth(one.square()) + smooth(other.square()) - mean_one.square() - mean_other.square()
    covariance = smooth(one * other) - mean_one * mean_other
    mean_one, mean_other = mean_one + 0.5, mean_other + 0.5
    luminance = (2 * mean_one * mean_other + 0.01**2) / (mean_one.square() + mean_other.square() + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean(dim=(1, 2, 3))
