"""Translates integer pictures to integer pictures; everything between runs on one device."""

from __future__ import annotations

import copy
import math
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from threading import Lock
from typing import TypedDict, Unpack, cast, overload

import numpy as np
import torch
from PIL import Image

from cgpipe.engine import yuv
from cgpipe.engine.autotune import DTYPES, batch_size
from cgpipe.engine.between import MAX_VALUES, can_fuse, kernels, prepare_kernels, without_kernels_at_first
from cgpipe.engine.cuda import MAX_GRAPH_PIXELS, CudaGpu, CudaGraphs, GpuPipeline, Graphs, Translated, Work
from cgpipe.engine.memory import is_out_of_memory
from cgpipe.engine.network import Network
from cgpipe.engine.regions import ByRegions
from cgpipe.engine.scale import (
    AT_ONCE_PIXELS,
    add_change,
    brought_up,
    enlarged,
    fitting_size,
    highest,
    levels,
    pad_to_multiple,
    resize,
    to_integer,
    working_size,
)
from cgpipe.engine.stream import IN_FLIGHT, stream
from cgpipe.engine.tiles.choice import NoRoomError, Tiles
from cgpipe.engine.vulkan import find_gpu, memory_of
from cgpipe.errors import CgpipeWarning, MediaError, UsageError
from cgpipe.media.frames import Batch, Failed, Origin, Pixels
from cgpipe.media.pictures.masks import Mask, fit, with_mask
from cgpipe.media.planar import Planar
from cgpipe.media.progress import Progress
from cgpipe.models import Model
from cgpipe.models.choose import choose_model
from cgpipe.notebook import html_table
from cgpipe.options import Direction, Engine, ModelChoice, Precision, Size, Tile, TileMode
from cgpipe.scratch import is_scratch

PROBE_SIDE = 1024
"""Side, in pixels, of the part of a large picture on which the dtype is chosen."""


class TranslatorOptions(TypedDict, total=False):
    """The options of :class:`Translator`, for functions that pass them on."""

    device: str
    precision: Precision
    size: Size
    strength: float
    engine: Engine
    tile: Tile
    tile_mode: TileMode


class FindOptions(TranslatorOptions, total=False):
    """The keywords of :meth:`Translator.find` beside those that select the model."""

    direction: Direction | None
    generator: str | None
    batch_statistics: bool
    model_inputs: Sequence[str]


class Translator:
    """A model ready to translate pictures of any size.

    A picture larger than the model's scales is reduced for the generator, and the change is upsampled and added to
    the picture (see :mod:`cgpipe.engine.scale`). Sides that the network does not accept are padded by reflection and
    cropped back. A batch that does not fit in memory is halved; one whose result in half precision is not finite is
    translated again in fp32.

    Args:
        model: from :func:`cgpipe.load_model`; :meth:`find` looks one up by domain.
        device: ``auto`` (CUDA if available), ``cpu``, ``cuda``, ``cuda:N``, ``mps``, ``xpu`` or ``vulkan``
            (any GPU by ncnn's Vulkan); of several, separated by commas, the first is used for calls, and all share the
            batches of a stream.
        precision: dtype of the network: ``fp32``, ``fp16`` (not on a CPU), ``bf16``, or ``auto`` (see
            :func:`cgpipe.engine.autotune.choose_precision`).
        size: short side at which the generator works: pixels, ``full`` for the picture's own, or ``auto`` for one of
            the model's scales (see :func:`cgpipe.engine.scale.working_size`). An upscaler needs ``output``: the result
            has the size that the network gives it.
        strength: blend strength, 0 to 2: 0 = original, 1 = full translation.
        engine: the engine that runs the network: ``eager``, ``compile``, ``torchscript``, ``onnx``, ``openvino`` or
            ``ncnn``; ``auto`` is ``eager``, or ``ncnn`` where that is faster (see
            :func:`cgpipe.engine.backends.auto_engine`).
        tile: side in pixels, at the working size, of the tiles in which the network processes larger pictures;
            ``auto``: if the whole does not fit in memory; ``off``: never.
        tile_mode: ``exact`` or ``fast`` (see :class:`cgpipe.engine.regions.ByRegions`).

    Raises:
        UsageError: an option is invalid here, such as a GPU that does not exist, or tiles for a network that cannot
            run in tiles.
        MissingDependencyError: the engine needs a package that is not installed.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        size: Size = "auto",
        strength: float = 1.0,
        engine: Engine = "auto",
        tile: Tile = "auto",
        tile_mode: TileMode = "exact",
    ) -> None:
        _check(model, size, strength)
        self.model = model
        self.size = size
        self.strength = strength
        first, *others = device.split(",")
        named = choose_device(first)
        self.device = memory_of(named)
        self.network = Network(model.generator, named, precision=precision, engine=engine)
        self.replicas = [
            Translator(
                replace(model, generator=copy.deepcopy(model.generator)),
                device=name,
                precision=precision,
                size=size,
                strength=strength,
                engine=engine,
                tile=tile,
                tile_mode=tile_mode,
            )
            for name in others
        ]
        """Translators of the other devices."""
        self._exact: Network | None = None
        self._largest: int | None = None
        self._tiles = Tiles(model.generator, self.device, self.network.engine, tile)
        self._fast_tiles = tile_mode == "fast"
        self._threads = torch.get_num_threads()
        self._begin()

    def _begin(self) -> None:
        """Creates the state of one look: its clock, and on a GPU its graphs and pipeline."""
        self._busy = Lock()
        self._busy_seconds = 0.0
        self._progress = Progress()
        self._work: Work = self._translate_on_device
        self._pipeline: GpuPipeline[torch.cuda.Stream, torch.cuda.Event] | None = None
        if self.device.type == "cuda":
            if not self.model.generator.runtime:
                prepare_kernels(self.device)
                self._work = Graphs(self._translate_soon, CudaGraphs(self.device), self._is_small)
            self._pipeline = GpuPipeline(
                CudaGpu(self.device), self._within_memory, IN_FLIGHT, self.enlarges, self.model.generator.channels[1]
            )

    def with_look(self, *, size: Size, strength: float) -> Translator:
        """A translator with another size and strength that shares this one's network, without loading it again.

        Raises:
            UsageError: an option has a value that cannot be used.
        """
        _check(self.model, size, strength)
        other = copy.copy(self)
        other.size, other.strength = size, strength
        other.replicas = [replica.with_look(size=size, strength=strength) for replica in self.replicas]
        other._begin()
        return other

    @classmethod
    def find(
        cls,
        to: str | None = None,
        *,
        source: str | None = None,
        model: str | os.PathLike[str] | None = None,
        file: str | os.PathLike[str] | None = None,
        **options: Unpack[FindOptions],
    ) -> Translator:
        """A translator by target domain, such as ``Translator.find("zebra")``; without arguments, the default model.

        Args:
            to: the target domain, which also selects the generator of another project's file that holds both.
            source: the source domain, if ``to`` alone is ambiguous.
            model: a model file of any known format, an address, or a model's name.
            file: the same as ``model``.
            options: of :class:`Translator`, and for files of other projects ``direction``, ``generator``,
                ``batch_statistics`` and ``model_inputs`` (see :class:`cgpipe.ModelChoice`).

        Raises:
            ModelNotFoundError: no model, or more than one, matches.
            ModelError: the file cannot be read as a model.
            UsageError: ``model`` and ``file`` are both given, or ``to`` or ``source`` contradicts the file's card.
        """
        if model is not None and file is not None and os.fspath(model) != os.fspath(file):
            raise UsageError("`model` and `file` are the same option: give one of them.")
        choice = ModelChoice(
            to=to,
            source=source,
            model=file if model is None else model,
            direction=options.pop("direction", None),
            generator=options.pop("generator", None),
            batch_statistics=options.pop("batch_statistics", False),
            model_inputs=tuple(options.pop("model_inputs", ())),
        )
        return cls(choose_model(choice).load(), **options)  # type: ignore[misc]  # what is left is the translator's

    def __repr__(self) -> str:
        card = self.model.card
        return (
            f"<Translator {card.source} to {card.target} ({card.architecture}) on {self.devices}, "
            f"precision {self.precision}, engine {self.engine}, size {self.size}, strength {self.strength:g}>"
        )

    def _repr_html_(self) -> str:
        card = self.model.card
        rows = [
            ("Translates", f"{card.source} to {card.target}"),
            ("Architecture", card.architecture),
            ("Size", self.size),
            ("Strength", f"{self.strength:g}"),
            *((name.replace("_", " ").capitalize(), value) for name, value in self.describe().items()),
        ]
        return html_table("Translator", rows)

    @contextmanager
    def telling(self, progress: Progress) -> Iterator[None]:
        """Within the body, pictures that are translated part by part report to ``progress`` and stop when it does."""
        members = (self, *self.replicas)
        before = [member._progress for member in members]
        for member in members:
            member._progress = progress
        try:
            yield
        finally:
            for member, its in zip(members, before, strict=True):
                member._progress = its

    @property
    def precision(self) -> Precision:
        """The dtype of the network; ``auto`` until it is chosen on the first picture."""
        return self.network.precision

    @property
    def engine(self) -> Engine:
        """The engine that runs the network."""
        return self.network.engine

    @property
    def enlarges(self) -> int:
        """How many times as high and wide results are."""
        return self.model.generator.enlarges

    @property
    def takes(self) -> int:
        """Channels of the pixels that it takes, without a mask: 3, also of a model of gray pictures."""
        return self.model.generator.channels[0]

    @property
    def devices(self) -> str:
        """The devices, as text."""
        return ",".join(str(member.network.device) for member in (self, *self.replicas))

    @property
    def overlaps(self) -> bool:
        """Whether :meth:`launch` returns before the batch is done."""
        return self._pipeline is not None

    def takes_planes(self, planar: Planar) -> bool:
        """Whether frames of this layout had better stay planes of YUV until they are on the device."""
        return self.enlarges == 1 and (self._pipeline is not None or self._adds_to_planes(planar))

    def _adds_to_planes(self, planar: Planar) -> bool:
        """Whether frames need no RGB of their own size, since a processor reduces them for the network."""
        reduces = self._working_size(planar.height, planar.width)[0] < planar.height
        return self.device.type == "cpu" and reduces and planar.is_whole and self.model.generator.channels == (3, 3)

    @property
    def parallel(self) -> bool:
        """Whether several threads may translate at once."""
        # Compiled code is for a fixed number of threads.
        return self.device.type == "cpu" and self.engine != "compile"

    def describe(self) -> dict[str, object]:
        """The choices and their reasons, for a report; the precision per device if they differ."""
        told = {"device": self.devices} | self.network.describe()
        precisions = [member.precision for member in (self, *self.replicas)]
        return told | ({"precision": ",".join(precisions)} if len({*precisions} - {"auto"}) > 1 else {})

    @property
    def busy_seconds(self) -> float:
        """Seconds that batches were in flight, summed over parallel ones."""
        return self._busy_seconds + sum(replica.busy_seconds for replica in self.replicas)

    def batch_size(self, height: int, width: int) -> int:
        """The batch size for pictures of ``height`` x ``width`` pixels (see :mod:`cgpipe.engine.autotune`)."""
        rows, columns = (self.enlarges * side for side in self._working_size(height, width))
        return batch_size(self.device, height * width, rows * columns)

    @overload
    def __call__(self, pixels: Pixels, mask: Mask | None = None) -> Pixels: ...
    @overload
    def __call__(self, pixels: Image.Image, mask: Mask | None = None) -> Image.Image: ...
    def __call__(self, pixels: Pixels | Image.Image, mask: Mask | None = None) -> Pixels | Image.Image:
        """Translates one picture (height, width, 3) or a stack (count, height, width, 3), uint8 or uint16 RGB.

        Models of other pictures take and give other channels, except that those of gray pictures take and give RGB.

        Args:
            pixels: the pixels, or a PIL image, for which a PIL image of mode RGB is returned.
            mask: (height, width), uint8, of the pictures' size or the same aspect ratio; confines the change, with soft
                edges: 255 translates, 0 keeps the original bit for bit.

        Raises:
            TypeError: an array has another dtype.
            ValueError: an array has another shape.
            UsageError: the model takes other channels.
            MediaError: the mask's aspect ratio differs from the picture's, the picture does not fit in memory, or
                the network's result is not finite.
        """
        if isinstance(pixels, Image.Image):
            return Image.fromarray(self(np.array(pixels.convert("RGB")), mask))
        if pixels.shape[-1] != self.takes:
            if self.takes != 3:
                raise UsageError(f"This model takes pictures of {self.takes} channels, not of {pixels.shape[-1]}.")
            raise ValueError(f"pixels must have shape (height, width, 3), not {pixels.shape}")
        whole = pixels if pixels.ndim == 4 else pixels[None]
        if mask is not None:
            masked = [with_mask(picture, fit(mask, *picture.shape[:2])) for picture in whole]
            whole = cast(Pixels, np.stack(masked))
        stack = torch.from_numpy(np.require(whole, requirements=("C", "W")))  # torch warns of read-only arrays
        result = self.translate(Batch(pixels=stack, origins=(None,) * len(stack)))
        translated: Pixels = result.pixels.numpy()
        return translated if pixels.ndim == 4 else translated[0]

    def translate(self, batch: Batch[Origin]) -> Batch[Origin]:
        """Translates a batch; the result is of the same size (or enlarged) and type, on the CPU.

        Of pixels on this translator's GPU, all work on them done, it stays there, unless they are translated in parts.

        Raises:
            MediaError: there is no memory for a single picture, or the network's result is not finite.
        """
        return self.launch(batch)()

    def stream(
        self, items: Iterable[Batch[Origin] | Failed[Origin]], on_batch: Callable[[], object] | None = None
    ) -> Generator[Batch[Origin] | Failed[Origin], None, None]:
        """Translates the batches among ``items`` and passes the failures through, in order.

        A picture that fails is given as such, with the reason, and the others continue; see
        :func:`cgpipe.engine.stream.stream`.
        """
        return stream([self, *self.replicas], items, self._threads, on_batch)

    def pixels(self, batch: Batch[Origin]) -> int:
        """How many pixels of a batch the generator sees."""
        return self._seen_pixels(batch.pixels, batch.planar)

    @torch.inference_mode()
    def launch(self, batch: Batch[Origin], count: int = 0) -> Callable[[], Batch[Origin]]:
        """Starts a batch, on a GPU padded to ``count`` pictures, and returns a function that waits for its result."""
        started = time.perf_counter()
        if self.enlarges > 1 and is_scratch(batch.pixels):
            raise MediaError("The picture is too large to be enlarged in memory: cut it into smaller ones.")
        if (tile := self._tile_for(batch.pixels, batch.planar)) or is_scratch(batch.pixels):
            return self._launch_by_regions(batch, tile)
        with suppress(NoRoomError):
            return self._launch_whole(batch, count, started)
        # The error and its frames are gone, and with them what the network held: now it is seen how much is free.
        tile = self._tiles.after_out_of_memory(self._seen_pixels(batch.pixels[:1], batch.planar))
        if not tile:
            raise MediaError(self._no_room(*_sides(batch.pixels, batch.planar)))
        warnings.warn(f"Out of memory: continuing with tiles of {tile} pixels.", CgpipeWarning, stacklevel=2)
        return self._launch_by_regions(batch, tile)

    def _launch_whole(self, batch: Batch[Origin], count: int, started: float) -> Callable[[], Batch[Origin]]:
        if self._pipeline is None:
            translated = Translated(*(part.cpu() for part in self._within_memory(batch.pixels, batch.planar)))
            self._count_busy(started)
            return lambda: self._finished(batch, translated)
        try:
            if batch.pixels.device.type == "cpu":
                fetch = self._pipeline.send(batch.pixels, count, batch.planar)
            else:
                fetch = self._pipeline.send_there(batch.pixels, count)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            raise NoRoomError from error

        def wait() -> Batch[Origin]:
            translated = fetch()
            self._count_busy(started)
            return self._finished(batch, translated)

        return wait

    def _count_busy(self, started: float) -> None:
        with self._busy:
            self._busy_seconds += time.perf_counter() - started

    def _finished(self, batch: Batch[Origin], translated: Translated) -> Batch[Origin]:
        """The result of a batch, computed again in fp32 if half precision overflowed."""
        if not math.isfinite(translated.sums.sum()):
            translated = self._in_fp32(batch.pixels, batch.planar)
        return replace(batch, pixels=translated.pixels)

    @torch.inference_mode()
    def _in_fp32(self, pixels: torch.Tensor, planar: Planar | None) -> Translated:
        if self.precision != "fp32":
            network = self._fp32_network()
            # One by one, which takes less memory than half as many bits of all did.
            each = [self._one_in(network, picture, planar) for picture in pixels.split(1)]
            translated = Translated(*(torch.cat(part) for part in zip(*each, strict=True)))
            if translated.sums.isfinite().all():
                return translated
        raise MediaError("The network's output is not finite.")

    def _one_in(self, network: Network, picture: torch.Tensor, planar: Planar | None) -> Translated:
        try:
            return Translated(*(part.cpu() for part in self._translate_on_device(picture, planar, network=network)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise MediaError(self._no_room(*_sides(picture, planar))) from error

    def _fp32_network(self) -> Network:
        if self._exact is None:
            warnings.warn(
                f"The network's output in {self.precision} is not finite for some pictures. They are translated "
                "again in fp32 (--precision fp32 avoids the first try).",
                CgpipeWarning,
                stacklevel=2,
            )
            self._exact = Network(self.model.generator, self.device, precision="fp32")
        return self._exact

    def _within_memory(self, pixels: torch.Tensor, planar: Planar | None = None) -> Translated:
        """Translates a batch on the device, split into as many parts as its memory requires."""
        if self._largest and len(pixels) > self._largest:
            parts = [self._within_memory(part, planar) for part in pixels.split(self._largest)]
            return Translated(*(torch.cat(part) for part in zip(*parts, strict=True)))
        try:
            return self._work(pixels, planar)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            half = len(pixels) // 2
            if half == 0:
                raise NoRoomError from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._largest = half
        warnings.warn(f"Out of memory: continuing with batches of {half}.", CgpipeWarning, stacklevel=2)
        return self._within_memory(pixels, planar)

    def _tile_for(self, pixels: torch.Tensor, planar: Planar | None) -> int | None:
        """Side of the tiles for pictures of this size; None if the network sees them whole.

        Raises:
            MediaError: the whole certainly does not fit in memory, and tiles are off or impossible.
        """
        sides = _sides(pixels, planar)
        try:
            return self._tiles.side_for(self._working_size(*sides), len(pixels), fast=self._fast_tiles)
        except NoRoomError as error:
            raise MediaError(self._no_room(*sides)) from error

    def _launch_by_regions(self, batch: Batch[Origin], tile: int | None) -> Callable[[], Batch[Origin]]:
        started = time.perf_counter()
        pictures = batch.pixels.cpu() if batch.planar is None else yuv.to_rgb(batch.pixels, batch.planar)
        parts = [self._by_regions(picture, tile) for picture in pictures]
        translated = Translated(*(torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True)))
        pixels = translated.pixels if batch.planar is None else yuv.from_rgb(translated.pixels, batch.planar)
        self._count_busy(started)
        return lambda: replace(batch, pixels=pixels)

    def _by_regions(self, picture: torch.Tensor, tile: int | None) -> Translated:
        """Translates one picture, on the CPU, part by part; in fp32 if half precision overflows."""
        size = self._working_size(*picture.shape[:2])
        precision = self.network.ready_for(self._middle(picture))
        for attempt in dict.fromkeys((precision, "fp32")):
            way = self._regions(picture.dtype, attempt)
            translated = way.translate(picture, size, tile)
            if translated.sums.isfinite().all():
                return translated
        raise MediaError("The network's output is not finite.")

    def _regions(self, dtype: torch.dtype, precision: Precision) -> ByRegions:
        card = self.model.card
        network = self.network if precision == self.precision else self._fp32_network()
        return ByRegions(
            network=self._tiles.network,
            whole=lambda x: self._generate(x.to(self.device), network).cpu(),
            seen_range=levels(card, card.source, dtype),
            made_range=levels(card, card.target, dtype),
            strength=self.strength,
            fast=self._fast_tiles,
            precision=precision,
            progress=self._progress,
        )

    def _middle(self, picture: torch.Tensor) -> torch.Tensor:
        """A part of a large picture as network input, to choose the dtype on."""
        top, left = (max(0, side - PROBE_SIDE) // 2 for side in picture.shape[:2])
        part = picture[top : top + PROBE_SIDE, left : left + PROBE_SIDE, : self.takes].to(self.device)
        low, high = levels(self.model.card, self.model.card.source, picture.dtype)
        scaled = ((part.permute(2, 0, 1)[None].float() - low) / ((high - low) / 2) - 1).clamp_(-1, 1)
        generator = self.model.generator
        return pad_to_multiple(scaled, generator.multiple, generator.least_side)

    def _no_room(self, height: int, width: int) -> str:
        rows, columns = self._working_size(height, width)
        memory = "memory" if self.device.type == "cpu" else "GPU memory"
        smaller = max(1, min(1024, min(rows, columns) // 2))
        return (
            f"Not enough {memory} for a picture of {width}x{height}, which the network sees at {columns}x{rows}"
            f"{self._tiles.needed(rows * columns)}. Use a smaller size, such as --size {smaller}"
            f"{self._tiles.hint}."
        )

    def _translate_on_device(
        self, pixels: torch.Tensor, planar: Planar | None = None, *, network: Network | None = None
    ) -> Translated:
        """Translates (N, H, W, C) integers, with a mask as one channel more or without, or planes, on the device."""
        pixels = pixels.to(self.device)
        if planar is not None and not self._adds_to_planes(planar):
            translated = self._translate_on_device(yuv.to_rgb(pixels, planar), network=network)
            return Translated(yuv.from_rgb(translated.pixels, planar), translated.sums)
        network = network or self.network
        if planar is None and self._takes_directly(pixels, network):
            return self._translate_directly(pixels, network)
        mask = pixels[..., -1] if pixels.shape[3] > self.takes else None
        pixels = pixels[..., : self.takes]
        height, width = _sides(pixels, planar)
        size = self._working_size(height, width)
        if planar is not None:
            seen = yuv.seen_at(size, pixels, planar)
        else:
            # A view: interleaved pixels are torch's channels_last.
            seen = pixels.permute(0, 3, 1, 2).float() if size == (height, width) else resize(pixels, size)
        card = self.model.card
        low, high = levels(card, card.source, pixels.dtype)
        scaled = ((seen - low) / ((high - low) / 2) - 1).clamp_(-1, 1)
        result = self._generate(scaled, network)
        sums = result.sum((1, 2, 3))
        low, high = levels(card, card.target, pixels.dtype)
        result.add_(1).mul_((high - low) / 2).add_(low)
        if planar is not None:
            return Translated(yuv.add_change(pixels, planar, seen, result, self.strength), sums)
        if self.enlarges > 1:
            return Translated(enlarged(pixels, result, self.strength, mask), sums)
        if result.shape[1] != self.takes:
            return Translated(brought_up(pixels, result), sums)
        if size == (height, width) and self.strength == 1 and mask is None:
            return Translated(to_integer(result, pixels.dtype).permute(0, 2, 3, 1).contiguous(), sums)
        return Translated(add_change(pixels, seen, result, self.strength, mask), sums)

    def _translate_soon(self, pixels: torch.Tensor, planar: Planar | None = None) -> Translated:
        """:meth:`_translate_on_device` that does not wait for kernels with a first small batch."""
        with without_kernels_at_first() if self._is_small(pixels, planar) else nullcontext():
            return self._translate_on_device(pixels, planar)

    def _is_small(self, pixels: torch.Tensor, planar: Planar | None = None) -> bool:
        """Whether a batch takes longer to launch than to run, and all of it is done at once."""
        height, width = _sides(pixels, planar)
        # Beyond, changes are added by weights that the cache of :func:`resampling` may drop, but not a graph.
        at_once = len(pixels) * height * width <= AT_ONCE_PIXELS
        return at_once and self._seen_pixels(pixels, planar) <= MAX_GRAPH_PIXELS

    def _takes_directly(self, pixels: torch.Tensor, network: Network) -> bool:
        """Whether the network sees the pictures as they are, and what it makes is the result, by kernels of our own."""
        size, generator = tuple(pixels.shape[1:3]), self.model.generator
        unchanged = self.strength == 1 and self.enlarges == 1 and self._working_size(*size) == size
        alike = pixels.shape[3] == generator.channels[0] == generator.channels[1]
        small = pixels[0].numel() <= MAX_VALUES
        return unchanged and alike and small and network.precision != "auto" and can_fuse(self.device)

    def _translate_directly(self, pixels: torch.Tensor, network: Network) -> Translated:
        """:meth:`_translate_on_device` with one kernel before the network and one after it."""
        card, dtype = self.model.card, DTYPES[network.precision]
        black, white = levels(card, card.source, pixels.dtype)
        seen = kernels().from_pixels(pixels, black=black, white=white, dtype=dtype)
        black, white = levels(card, card.target, pixels.dtype)
        made = self._generate(seen, network.run)
        most = highest(pixels.dtype)
        return Translated(*kernels().to_pixels(made, black=black, white=white, most=most, dtype=pixels.dtype))

    def _working_size(self, height: int, width: int) -> tuple[int, int]:
        if fixed := self.model.generator.fixed_size:
            return fitting_size(height, width, fixed)
        card = self.model.card
        return working_size(height, width, self.size, card.working_scales, card.large_side)

    def _seen_pixels(self, pixels: torch.Tensor, planar: Planar | None = None) -> int:
        height, width = self._working_size(*_sides(pixels, planar))
        return len(pixels) * height * width

    def _generate(self, x: torch.Tensor, network: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Runs the network on (N, C, H, W) in [-1, 1] of any size."""
        height, width = x.shape[2:]
        generator = self.model.generator
        padded = pad_to_multiple(x, generator.multiple, generator.least_side)
        return network(padded)[:, :, : self.enlarges * height, : self.enlarges * width]


def _sides(pixels: torch.Tensor, planar: Planar | None) -> tuple[int, int]:
    """Height and width of the pictures in a batch."""
    return (pixels.shape[1], pixels.shape[2]) if planar is None else (planar.height, planar.width)


def _check(model: Model, size: Size, strength: float) -> None:
    """Raises errors for a model or options that no translator supports."""
    if isinstance(size, int) and size < 1:
        raise UsageError(f"The size must be at least 1 pixel, not {size}.")
    if not 0 <= strength <= 2:
        raise UsageError(f"The strength must be between 0 and 2, not {strength}.")
    enlarges = model.generator.enlarges
    if enlarges > 1 and size != "output":
        raise UsageError(
            f"This network makes pictures {enlarges} times as high and wide: translate and video write them at that "
            "size with --size output."
        )
    if enlarges == 1 and size == "output":
        raise UsageError("This network keeps the size of pictures: --size output is for networks that enlarge them.")
    taken, given = model.generator.channels
    if taken != given and strength != 1:
        raise UsageError(f"This model makes {given} channels of {taken}, which cannot be blended: use strength 1.")


def choose_device(name: str) -> torch.device:
    """The device called ``auto``, ``cpu``, ``cuda``, ``cuda:N``, ``mps``, ``xpu``, ``vulkan`` or, with a number, as
    ``cuda:N``.

    Raises:
        MissingDependencyError: Vulkan needs ncnn, which is not installed.
        UsageError: the name is unknown, or the GPU does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"Unknown device {name!r}: use auto, cpu, cuda, cuda:N, mps, xpu or vulkan.") from error
    if device.type == "vulkan":
        return find_gpu(device)
    counts = {"cpu": lambda: 1, "cuda": torch.cuda.device_count, "mps": torch.mps.device_count, "xpu": _xpu_count}
    if device.type not in counts:
        raise UsageError(f"Device {name!r} is not supported: use auto, cpu, cuda, cuda:N, mps, xpu or vulkan.")
    count = counts[device.type]()
    if (device.index or 0) >= count:
        raise UsageError(
            f"Device {name!r} does not exist: torch sees {count} of them on this machine. "
            "Use --device cpu, or install a build of torch for your GPU."
        )
    return device


def _xpu_count() -> int:
    return torch.xpu.device_count() if hasattr(torch, "xpu") else 0
