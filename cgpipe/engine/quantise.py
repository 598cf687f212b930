"""Exports generators to int8 ONNX files, for programs that gain by it, and measures the loss of quality."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cgpipe.engine.export import INPUT, extra, load_onnx, require_new, to_onnx
from cgpipe.engine.scale import MIDDLE_SCALE, levels, pad_to_multiple, resize, working_size
from cgpipe.errors import UsageError
from cgpipe.media.pictures.planes import read_planes
from cgpipe.models import Model
from cgpipe.storage import atomic_write

MOST_PICTURES = 48
"""Most pictures used: of every three, two calibrate the value ranges and one measures the loss."""


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """The result of :func:`export_int8`, and its distance from fp32.

    Attributes:
        psnr: mean over :attr:`measured` pictures that were not used for calibration, in dB; above 40 the difference is
            hard to see.
        lowest: the lowest of them, in dB.
        ranges: number of pictures used for calibration.
    """

    path: Path
    multiple: int
    psnr: float
    lowest: float
    measured: int
    ranges: int


def export_int8(
    model: Model, path: str | os.PathLike[str], pictures: Sequence[Path], *, overwrite: bool = False
) -> Quantised:
    """Exports a model's generator to an ONNX file with 8-bit integer convolutions: whole, or not at all.

    Quantisation is static (arXiv 1712.05877), with a scale per channel of the weights. The first and the last
    convolution stay in fp32, as does everything between convolutions. Input and output are those of
    :func:`cgpipe.engine.export.export_model`.

    Args:
        path: the file.
        pictures: at least 3, of the kind that will be translated; at most :data:`MOST_PICTURES` of them are used.
        overwrite: replace an existing file.

    Raises:
        MissingDependencyError: the packages of the extra ``onnx`` are not installed.
        MediaError: a picture cannot be read.
        UsageError: there are fewer than three pictures, or the file exists or cannot be written.
    """
    path = Path(path)
    if not overwrite:
        require_new(path)
    extra("onnxscript", "onnx")
    if len(pictures) < 3:
        raise UsageError(f"Calibrating int8 needs at least 3 pictures, not {len(pictures)}.")
    chosen = pictures[:: -(-len(pictures) // MOST_PICTURES)]
    measured = chosen[2::3]
    ranges = [picture for index, picture in enumerate(chosen) if index % 3 < 2]
    try:
        with atomic_write(path) as partial:
            _write(model, partial, _seen(model, ranges))
            ratios = list(_ratios(model, partial, _seen(model, measured)))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    return Quantised(
        path=path,
        multiple=max(2, model.generator.multiple),
        psnr=sum(ratios) / len(ratios),
        lowest=min(ratios),
        measured=len(measured),
        ranges=len(ranges),
    )


def _seen(model: Model, pictures: Iterable[Path]) -> Iterator[torch.Tensor]:
    """The generator's input for each picture: (1, C, H, W) in [-1, 1], with sides that it accepts."""
    card, generator = model.card, model.generator
    scales = card.working_scales or (MIDDLE_SCALE, MIDDLE_SCALE)
    for picture in pictures:
        pixels = torch.from_numpy(np.ascontiguousarray(read_planes(picture, generator.channels[0]).pixels))[None]
        height, width = pixels.shape[1:3]
        size = working_size(height, width, "auto", scales, card.large_side)
        low, high = levels(card, card.source, pixels.dtype)
        seen = ((resize(pixels, size) - low) / ((high - low) / 2) - 1).clamp_(-1, 1)
        yield pad_to_multiple(seen, max(2, generator.multiple), generator.least_side)


def _write(model: Model, path: Path, pictures: Iterator[torch.Tensor]) -> None:
    quantisation = extra("onnxruntime.quantization", "onnx")
    network = to_onnx(model.generator.eval().requires_grad_(False))
    convolutions = [node.name for node in network.graph.node if node.op_type == "Conv"]
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "int8.onnx"
        quantisation.quantize_static(
            network,
            written,
            _Reader(pictures),
            per_channel=True,
            activation_type=quantisation.QuantType.QUInt8,
            weight_type=quantisation.QuantType.QInt8,
            nodes_to_quantize=convolutions[1:-1],
        )
        path.write_bytes(written.read_bytes())


class _Reader:
    """Calibration pictures, in ONNX Runtime's interface."""

    def __init__(self, pictures: Iterator[torch.Tensor]) -> None:
        self._pictures = pictures

    def get_next(self) -> dict[str, np.ndarray] | None:
        picture = next(self._pictures, None)
        return None if picture is None else {INPUT: picture.contiguous().numpy()}


@torch.inference_mode()
def _ratios(model: Model, path: Path, pictures: Iterator[torch.Tensor]) -> Iterator[float]:
    """PSNR of each picture's translation by the file against the network's, in dB."""
    run = load_onnx(path)
    for picture in pictures:
        gap = (run(picture).clamp(-1, 1) - model.generator(picture).clamp(-1, 1)) / 2
        yield float(-10 * torch.log10(gap.square().mean()))
