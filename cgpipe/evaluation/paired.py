"""Metrics of a generator on pairs: how close each translation is to the picture that it should be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cgpipe.data.pairs import find_pairs
from cgpipe.data.pictures import Place
from cgpipe.errors import UsageError
from cgpipe.evaluation.evaluator import Translation, evaluation_mode, load_picture, split_name
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
        left_out: pictures without a partner.
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
    left_out: int = 0

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON and for a model's card."""
        return asdict(self)

    def to_markdown(self) -> str:
        """A table: the translations, and the untranslated inputs."""
        left_out = f" {self.left_out} pictures have no partner and are left out." if self.left_out else ""
        return "\n".join(
            (
                f"{self.count} pairs of {self.inputs} and {self.reference} at {self.size}x{self.size}.{left_out}",
                "",
                "| | L1 of 255 | PSNR (dB) | SSIM |",
                "|---|---|---|---|",
                f"| translated | {self.l1:.2f} | {self.psnr:.2f} | {self.ssim:.4f} |",
                f"| untranslated | {self.unchanged_l1:.2f} | {self.unchanged_psnr:.2f} | |",
            )
        )


class PairedEvaluator:
    """Measures generators on one set of pairs.

    Args:
        inputs: pictures to translate: a folder or a list.
        reference: their targets (:func:`cgpipe.data.pairs.find_pairs`).
        size: pictures of another size are first resized (antialiased bicubic) to a square of this side, in pixels.
        channels: that the generators take and give.
        batch_size: pairs per batch.
        device: device of the generators.

    Raises:
        DataError: a set is missing or empty, or nothing is a pair.
    """

    def __init__(
        self,
        inputs: Place,
        reference: Place,
        *,
        size: int = 256,
        channels: tuple[int, int] = (3, 3),
        batch_size: int = 8,
        device: torch.device | str = "cpu",
    ) -> None:
        self.names = split_name([inputs]), split_name([reference])
        self.pairs = find_pairs(inputs, reference)
        self.channels = channels
        self.size, self.batch_size, self.device = size, batch_size, torch.device(device)

    @torch.inference_mode()
    def evaluate(self, generator: Translation) -> PairedFigures:
        """Translates every input and compares the results with their targets.

        Args:
            generator: on ``device``; modules are temporarily switched to eval mode.

        Raises:
            UsageError: ``size`` is not one that the generator accepts.
            MediaError: a picture cannot be read.
        """
        multiple = getattr(generator, "multiple", 1)
        if self.size % multiple:
            raise UsageError(f"This generator takes sides that are multiples of {multiple}, not a size of {self.size}.")
        with evaluation_mode(generator):
            rows = torch.cat([_compare(generator(a).clamp(-1, 1), a, b) for a, b in self._batches()])
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
            left_out=len(self.pairs.alone),
        )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for first in range(0, len(self.pairs.a), self.batch_size):
            part = slice(first, first + self.batch_size)
            yield self._loaded(self.pairs.a[part], self.channels[0]), self._loaded(self.pairs.b[part], self.channels[1])

    def _loaded(self, pictures: Sequence[Place], channels: int) -> Tensor:
        return torch.stack([load_picture(picture, self.size, channels) for picture in pictures]).to(self.device)


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

    one, other = (one + 1) / 2, (other + 1) / 2
    mean_one, mean_other = smooth(one), smooth(other)
    variances = smooth(one.square()) + smooth(other.square()) - mean_one.square() - mean_other.square()
    covariance = smooth(one * other) - mean_one * mean_other
    luminance = (2 * mean_one * mean_other + 0.01**2) / (mean_one.square() + mean_other.square() + 0.01**2)
    return (luminance * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean(dim=(1, 2, 3))
