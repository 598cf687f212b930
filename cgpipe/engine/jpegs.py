"""JPEGs that a GPU decodes and encodes, so that only their files cross the bus."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, Protocol

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from cgpipe.engine.loader import attempt
from cgpipe.media.frames import LUMA, Batch, Batched, Decoded, Failed, Frame, JpegBatch, Origin

JPEG_VARIABLE = "CGPIPE_JPEG"
"""Environment variable: ``cpu`` leaves JPEG to the processor, for the same pixels on every machine."""

FEW = 32
"""Pictures of a job up to which the processor's codec is done before a GPU's is ready."""


NEAR = 1.0
"""Levels, on average over saturated colours, that a codec may be off."""

_HALVED = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420)
_RGB = 3
"""torchvision's ImageReadMode.RGB."""


class Codec(Protocol):
    """Decodes and encodes JPEG on a device.

    Attributes:
        device: where its pixels lie.
    """

    device: torch.device

    def decode(self, batch: JpegBatch[Origin]) -> torch.Tensor:
        """The upright pixels, (N, H, W, 3) uint8 on the device, when all work on them is done.

        Raises:
            Exception: it cannot decode one of them.
        """

    def encode(self, pixels: torch.Tensor, quality: int) -> Sequence[torch.Tensor]:
        """Files of pictures, (N, H, W, 3) uint8 on the device: each uint8 on the CPU, without subsampled chroma."""


class Smoothing(Codec, Protocol):
    """A codec that may interpolate chroma of 4:2:0 between lines.

    Attributes:
        smooths: whether it does.
    """

    smooths: bool


def find_codec(device: torch.device, pictures: int) -> Codec | None:
    """The codec of a GPU, if it has one and so many pictures are worth it."""
    if device.type != "cuda" or pictures <= FEW or os.environ.get(JPEG_VARIABLE) == "cpu":
        return None
    for load in (_load_operators, _import_operators):
        with suppress(Exception):  # torchvision without nvJPEG, or without a driver for it
            load()
            codec = NvJpeg(device)
            if _is_near(codec):
                return codec
    return None


def _is_near(codec: Smoothing) -> bool:
    """Whether what a codec decodes and encodes is as the processor has it; lets it smooth chroma if it comes nearer."""
    colours = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    content = cv2.imencode(".jpg", cv2.resize(colours, (72, 72)), _HALVED)[1]
    expected = torch.from_numpy(cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)).float()
    batch = replace(joined([torch.from_numpy(content.ravel())], (72, 72), (None,)), halved=True)
    gaps = {}
    for smooths in (False, True):
        codec.smooths = smooths
        gaps[smooths] = float((codec.decode(batch)[0].cpu().float() - expected).abs().mean())
    codec.smooths = gaps[True] < gaps[False]
    files = codec.encode(codec.decode(batch), 95)
    again = codec.decode(joined(files, (72, 72), (None,)))[0].cpu().float()
    return bool(min(gaps.values()) < NEAR and (again - expected).abs().mean() < 3 * NEAR)


def _load_operators() -> None:
    """Loads torchvision's operators alone: to import torchvision takes a second."""
    found = find_spec("torchvision")
    folders = (found.submodule_search_locations if found else None) or ()
    for path in (Path(folder, f"{name}.so") for folder in folders for name in ("image", "image_stable")):
        if path.exists():
            torch.ops.load_library(path)


def _import_operators() -> None:
    import torchvision.io  # noqa: F401


class NvJpeg:
    """nvJPEG, through torchvision, which uses one decoder and one encoder at a time, each in a stream of its own.

    Neither waits for the caller's stream, so all work on what they are given must be done (pytorch/vision #9606), and
    each call here ends with its own work. The encoder's files lie in order with the default stream.

    Attributes:
        device: the GPU.
        smooths: interpolate chroma of 4:2:0 between lines, which nvJPEG does only within them.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.smooths = False
        self._decoding, self._encoding = torch.cuda.Stream(device), torch.cuda.Stream(device)

    @torch.inference_mode()
    def decode(self, batch: JpegBatch[Origin]) -> torch.Tensor:
        with torch.cuda.stream(self._decoding):
            planes = torch.ops.image.decode_jpegs_cuda(list(batch.contents()), _RGB, self.device)
            stacked = torch.stack(planes)
            if batch.halved and self.smooths:
                stacked = smoothed(stacked)
            pixels = upright(stacked, batch.orientation).permute(0, 2, 3, 1).contiguous()
            self._decoding.synchronize()
        return pixels

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor, quality: int) -> Sequence[torch.Tensor]:
        with torch.cuda.stream(self._encoding):
            planes = pixels.permute(0, 3, 1, 2).contiguous()
            self._encoding.synchronize()
            files = torch.ops.image.encode_jpegs_cuda(list(planes), quality)
            torch.cuda.default_stream(self.device).synchronize()
            there = torch.cat(files).cpu()
        return list(there.split([len(file) for file in files]))


def smoothed(planes: torch.Tensor) -> torch.Tensor:
    """Planes of RGB (N, 3, H, W), uint8, two lines of which share their chroma, with it interpolated as in libjpeg.

    A line's own pair weighs three quarters, the nearer pair beside it one.
    """
    height = planes.shape[2]
    x = F.pad(planes.float(), (0, 0, 0, height % 2), mode="replicate").unflatten(2, (-1, 2))
    pairs = x.mean(3)
    luma = (pairs * pairs.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    colour = pairs - luma
    above = torch.cat([colour[:, :, :1], colour[:, :, :-1]], 2)
    below = torch.cat([colour[:, :, 1:], colour[:, :, -1:]], 2)
    x = x + torch.stack([above - colour, below - colour], 3) / 4
    result: torch.Tensor = x.flatten(2, 3)[:, :, :height].round().clamp(0, 255).to(torch.uint8)
    return result


def upright(planes: torch.Tensor, orientation: int) -> torch.Tensor:
    """Planes (N, C, H, W) of an EXIF orientation, 1 to 8, turned upright."""
    if orientation >= 5:
        planes = planes.transpose(2, 3)
    mirrored = {2: (3,), 3: (2, 3), 4: (2,), 6: (3,), 7: (2, 3), 8: (2,)}.get(orientation)
    return planes.flip(mirrored) if mirrored else planes


@dataclass(frozen=True)
class JpegStages(Generic[Origin]):
    """The stages before and after a translator for files that a codec decodes and encodes.

    Args:
        codec: the device's.
        read: reads a picture that the codec could not decode; an exception is that picture's failure.
        takes: whether a picture is to become a JPEG of 8 bits without opacity; others stay pixels.
        quality: of these files, 1 to 100.
        write: takes finished files.
    """

    codec: Codec
    read: Callable[[Origin], Frame[Origin]]
    takes: Callable[[Origin], bool]
    quality: int
    write: Callable[[JpegBatch[Origin]], None]

    def decoded(
        self, items: Generator[Batched[Origin], None, None]
    ) -> Generator[Batch[Origin] | Failed[Origin], None, None]:
        """The items with pixels in place of files, on the device."""
        with closing(items):
            for item in items:
                if isinstance(item, JpegBatch):
                    yield from self._decoded(item)
                else:
                    yield item

    def _decoded(self, batch: JpegBatch[Origin]) -> Iterable[Decoded[Origin]]:
        try:
            return [Batch(pixels=self.codec.decode(batch), origins=batch.origins)]
        except Exception:  # one of them, of which nvJPEG does not say which
            if len(batch) == 1:
                return [self._read(batch.origins[0])]
        return [found for one in batch.singles() for found in self._decoded(one)]

    def _read(self, origin: Origin) -> Decoded[Origin]:
        found = attempt(self.read, origin)
        if isinstance(found, Failed):
            return found
        return Batch(pixels=torch.from_numpy(found.pixels[None]), origins=(found.origin,))

    def encoded(
        self, items: Generator[Batch[Origin] | Failed[Origin], None, None]
    ) -> Generator[Batched[Origin], None, None]:
        """The items with files in place of pixels that lie on the device."""
        with closing(items):
            for item in items:
                if isinstance(item, Batch) and item.pixels.device.type == self.codec.device.type:
                    yield from self._encoded(item)
                else:
                    yield item

    def _encoded(self, batch: Batch[Origin]) -> Iterator[Batched[Origin]]:
        """The batch as files, and as pixels what is to be none, or cannot be encoded."""
        plain = batch.pixels.dtype == torch.uint8 and batch.pixels.shape[3] == 3
        chosen = [index for index, origin in enumerate(batch.origins) if plain and self.takes(origin)]
        try:
            if chosen:
                yield self._files(_some(batch, chosen))
        except Exception:  # a kind of picture that nvJPEG refuses
            chosen = []
        if rest := [index for index in range(len(batch)) if index not in chosen]:
            some = _some(batch, rest)
            yield replace(some, pixels=some.pixels.cpu())

    def _files(self, batch: Batch[Origin]) -> JpegBatch[Origin]:
        files = self.codec.encode(batch.pixels, self.quality)
        height, width = batch.pixels.shape[1:3]
        return joined(files, (height, width), batch.origins)


def _some(batch: Batch[Origin], indices: list[int]) -> Batch[Origin]:
    if len(indices) == len(batch):
        return batch
    return Batch(pixels=batch.pixels[indices], origins=tuple(batch.origins[index] for index in indices))


def joined(files: Sequence[torch.Tensor], size: tuple[int, int], origins: tuple[Origin, ...]) -> JpegBatch[Origin]:
    """Files, each uint8 on the CPU, as a batch."""
    return JpegBatch(content=torch.cat(list(files)), lengths=tuple(map(len, files)), size=size, origins=origins)
