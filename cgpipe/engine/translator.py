"""Integer pictures in, translated integer pictures out; everything between happens on the device."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from functools import partial
from itertools import cycle
from threading import Lock
from typing import Any, TypedDict, TypeVar, Unpack

import numpy as np
import torch

from cgpipe.engine.backends import Engine
from cgpipe.engine.cuda import Conveyor, CudaGpu
from cgpipe.engine.lanes import lanes
from cgpipe.engine.network import Network
from cgpipe.engine.precision import Precision
from cgpipe.engine.scale import Size, add_change, highest, pad_to_multiple, resize, to_integer, working_size
from cgpipe.errors import CgpipeError, CgpipeWarning, ModelError, UsageError
from cgpipe.media.frames import Batch, Pixels
from cgpipe.media.pictures.masks import Mask, fit, with_mask
from cgpipe.models import Model, find_model, load_any
from cgpipe.models.foreign import Direction

T = TypeVar("T")

IN_FLIGHT = 2
"""Batches given to a GPU before the first result is waited for."""

LANE_PIXELS = 1 << 20
"""Pixels up to which a batch is small: it then shares a CPU with others, one thread each."""


class TranslatorOptions(TypedDict, total=False):
    """The options of :class:`Translator`, for functions that pass them on."""

    device: str
    precision: Precision
    size: Size
    strength: float
    engine: Engine


class Translator:
    """A model ready to translate pictures of any size.

    A picture larger than the model knows is reduced for the generator, and the change is brought up to the picture's
    own size and added to it (see :mod:`cgpipe.engine.scale`). Sides that the network cannot take are padded by
    reflection and cropped back. A batch for which a GPU has no room is halved.

    Args:
        model: from :func:`cgpipe.load_model`; :meth:`find` looks one up by domain.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda`` or ``cuda:N``; several with commas between them
            take the batches of a stream in turn.
        precision: of the network: ``fp32``, ``fp16`` (CUDA only), ``bf16``, or ``auto``, which tries.
        size: short side at which the generator works: pixels, ``full`` for the picture's own, or ``auto`` for one
            of the model's scales (see :func:`cgpipe.engine.scale.working_size`).
        strength: multiplies the change; 0 gives the original, 1 the translation.
        engine: what runs the network: ``eager``, ``compile``, ``torchscript``, ``onnx``, ``openvino``, or ``auto``,
            which runs eagerly until another pays (see :class:`cgpipe.engine.network.Network`).

    Raises:
        UsageError: an option has a value that cannot be used here, such as a GPU that is not there.
        MissingDependencyError: the engine needs a package that is not installed.
        ModelError: the model takes or gives other than three channels.
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
    ) -> None:
        if isinstance(size, int) and size < 1:
            raise UsageError(f"The size must be at least 1 pixel, not {size}.")
        if not 0 <= strength <= 2:
            raise UsageError(f"The strength must be between 0 and 2, not {strength}.")
        if {model.card.settings.get(name, 3) for name in ("in_channels", "out_channels")} != {3}:
            raise ModelError(
                "This model does not translate colour pictures: it has other channels than red, green, blue."
            )
        self.model = model
        first, *others = device.split(",")
        self.device = choose_device(first)
        # One translator a device; this one shares out the batches among them.
        self._team = [self]
        for name in others:
            alike = replace(model, generator=copy.deepcopy(model.generator))
            self._team.append(
                Translator(alike, device=name, precision=precision, size=size, strength=strength, engine=engine)
            )
        self.size = size
        self.strength = strength
        self.asked = f"precision {precision}, engine {engine}, size {size}"
        """What was asked for of all that decides how fast it is, in words."""
        self.network = Network(model.generator, self.device, precision=precision, engine=engine)
        self._multiple, self._least_side = model.generator.multiple, model.generator.least_side
        self._largest: int | None = None
        self._threads = torch.get_num_threads()
        self._busy = Lock()
        self._busy_seconds = 0.0
        cuda = self.device.type == "cuda"
        self._conveyor = Conveyor(CudaGpu(self.device), self._within_memory, IN_FLIGHT) if cuda else None

    @classmethod
    def find(
        cls,
        to: str | None = None,
        *,
        source: str | None = None,
        file: str | os.PathLike[str] | None = None,
        direction: Direction | None = None,
        batch_statistics: bool = False,
        **options: Unpack[TranslatorOptions],
    ) -> Translator:
        """A translator by target domain, such as ``Translator.find("zebra")``; without arguments, the default model.

        Args:
            to: what the result shows.
            source: what the pictures show, where ``to`` alone is not clear.
            file: a model file of any known format, or a model's name.
            direction: ``AtoB`` or ``BtoA``, for files of other projects that hold both.
            batch_statistics: for batch-norm models of other projects: normalise each picture by its own statistics.
            options: of :class:`Translator`.

        Raises:
            ModelNotFoundError: none or several models answer.
            ModelError: the file cannot be read as a model.
        """
        found = find_model(to, source=source, file=file)
        model = load_any(found.path, direction=direction, batch_statistics=batch_statistics)
        return cls(model, **options)

    @property
    def precision(self) -> Precision:
        """What the network is computed in; ``auto`` until the first picture, on which that is tried."""
        return self.network.precision

    @property
    def engine(self) -> Engine:
        """What runs the network; for ``auto``, what ran the last picture."""
        return self.network.engine

    @property
    def devices(self) -> str:
        """Where it runs, in words."""
        return ",".join(str(member.device) for member in self._team)

    def describe(self) -> dict[str, Any]:
        """What was chosen and why, for a report; the precision of each device where they differ."""
        told = {"device": self.devices} | self.network.describe()
        precisions = [member.precision for member in self._team]
        return told | ({"precision": ",".join(precisions)} if len({*precisions} - {"auto"}) > 1 else {})

    @property
    def busy_seconds(self) -> float:
        """Seconds that batches were under way, added up over all that ran side by side."""
        return sum(member._busy_seconds for member in self._team)

    def __call__(self, pixels: Pixels, mask: Mask | None = None) -> Pixels:
        """Translates one picture (height, width, 3) or a stack (count, height, width, 3), uint8 or uint16 RGB.

        Args:
            mask: confines the change, softly: (height, width), uint8, of the pictures' size or another of the same
                ratio of sides; 255 translates, 0 keeps the original to the bit.

        Raises:
            TypeError, ValueError: an array is of another type or shape.
            MediaError: the mask has another ratio of sides than the picture.
        """
        if pixels.shape[-1] != 3:
            raise ValueError(f"pixels must have shape (height, width, 3), not {pixels.shape}")
        whole: Any = pixels if pixels.ndim == 4 else pixels[None]
        if mask is not None:
            whole = np.stack([with_mask(picture, fit(mask, *picture.shape[:2])) for picture in whole])
        stack = torch.from_numpy(np.ascontiguousarray(whole))
        result = self.translate(Batch(pixels=stack, origins=(None,) * len(stack)))
        translated: Pixels = result.pixels.numpy()
        return translated if pixels.ndim == 4 else translated[0]

    def translate(self, batch: Batch) -> Batch:
        """Translates a batch; the result is of the same size and type, on the CPU."""
        return self._launch(batch)()

    def stream(self, items: Iterable[Batch | T]) -> Generator[Batch | T, None, None]:
        """Translates the batches among ``items`` and passes everything else through, in order.

        On CUDA copies and computing overlap (see :class:`cgpipe.engine.cuda.Conveyor`): up to :data:`IN_FLIGHT` batches
        are under way on each GPU before a result is given.
        On a CPU as many batches run side by side as torch has threads, one thread each: for small networks and large
        that is faster than all threads on one, since they never wait for one another. Only large pictures run alone.
        """
        # The thread of a pipeline's stage may have been told of fewer.
        torch.set_num_threads(self._threads)
        # What is compiled is so for a number of threads, and does not run in lanes. ``auto`` heeds that by itself.
        compiled = self.engine == "compile" and not self.network.auto
        on_devices = self._conveyor is not None or len(self._team) > 1
        width = 1 if on_devices or compiled else self._threads
        # While a result is with whoever asked for it, every lane has work.
        depth = IN_FLIGHT * len(self._team) if on_devices else width if width > 1 else 0
        turns = cycle(self._team)
        before = torch.Size((0,))
        under_way: deque[Callable[[], Batch | T]] = deque()
        try:
            with lanes(width) as pool:
                for item in items:
                    if not isinstance(item, Batch):
                        under_way.append(partial(_itself, item))
                    elif width > 1 and self._pixels(item) <= LANE_PIXELS:
                        under_way.append(pool.submit(self.translate, item).result)
                    else:
                        while under_way and width > 1:
                            yield under_way.popleft()()
                        shape = item.pixels.shape
                        # The last batch of a clip is filled up to the shape of the others.
                        short = shape[1:] == before[1:] and len(item) < before[0]
                        before = before if short else shape
                        under_way.append(next(turns)._launch(item, before[0]))
                    while len(under_way) > depth:
                        yield under_way.popleft()()
                while under_way:
                    yield under_way.popleft()()
        finally:
            # At once, and not when nothing refers to it any more: the stage before has a thread and an open file.
            if isinstance(items, Generator):
                items.close()

    def forget_limit(self) -> None:
        """Tries whole batches again, where memory had no room for one before."""
        self._largest = None

    def _pixels(self, batch: Batch) -> int:
        """How many pixels of a batch the generator will see."""
        height, width = batch.pixels.shape[1:3]
        height, width = working_size(height, width, self.size, self.model.card.working_scales)
        return len(batch) * height * width

    @torch.inference_mode()
    def _launch(self, batch: Batch, count: int = 0) -> Callable[[], Batch]:
        """Starts on a batch, on a GPU as one of ``count``, and gives a function that waits for its result."""
        started = time.perf_counter()
        if self._conveyor is None:
            translated = self._within_memory(batch.pixels)
            self._count_busy(started)
            return lambda: replace(batch, pixels=translated)
        fetch = self._conveyor.send(batch.pixels, count)

        def wait() -> Batch:
            pixels = fetch()
            self._count_busy(started)
            return replace(batch, pixels=pixels)

        return wait

    def _count_busy(self, started: float) -> None:
        with self._busy:
            self._busy_seconds += time.perf_counter() - started

    def _within_memory(self, pixels: torch.Tensor) -> torch.Tensor:
        """Translates a batch on the device in as many parts as its memory asks for."""
        if self._largest and len(pixels) > self._largest:
            return torch.cat([self._within_memory(part) for part in pixels.split(self._largest)])
        try:
            return self._translate_on_device(pixels)
        except torch.OutOfMemoryError as error:
            half = len(pixels) // 2
            if half == 0:
                raise CgpipeError(
                    "The GPU has no room for a single picture of this size: use a smaller --size, or --device cpu."
                ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._largest = half
        warnings.warn(f"The GPU is out of memory: going on with batches of {half}.", CgpipeWarning, stacklevel=2)
        return self._within_memory(pixels)

    def _translate_on_device(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) integers in and out, on the device; going in they may have a mask as fourth channel."""
        pixels, mask = pixels[..., :3], pixels[..., 3] if pixels.shape[3] > 3 else None
        height, width = pixels.shape[1:3]
        size = working_size(height, width, self.size, self.model.card.working_scales)
        # A view: rows of interleaved RGB are what torch calls channels_last.
        seen = pixels.permute(0, 3, 1, 2).float() if size == (height, width) else resize(pixels, size)
        half_range = highest(pixels.dtype) / 2
        result = self._generate(seen / half_range - 1).add_(1).mul_(half_range)
        if size == (height, width) and self.strength == 1 and mask is None:
            return to_integer(result, pixels.dtype).permute(0, 2, 3, 1).contiguous()
        return add_change(pixels, seen, result, self.strength, mask)

    def _generate(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the network on (N, 3, H, W) in [-1, 1] of any size; float32 in and out."""
        height, width = x.shape[2:]
        return self.network(pad_to_multiple(x, self._multiple, self._least_side))[:, :, :height, :width]


def _itself(item: T) -> T:
    return item


def choose_device(name: str) -> torch.device:
    """The device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UsageError: the name is unknown, or there is no such GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"Unknown device {name!r}: use auto, cpu, cuda or cuda:N.") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"Device {name!r} is not supported: use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"Device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs on this machine. "
            "Use --device cpu, or install a build of torch with CUDA."
        )
    return device
