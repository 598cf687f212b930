"""The loop of all jobs: source, batches, translator, sink."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from typing import Protocol, cast, runtime_checkable

from cgpipe.engine.jpegs import JpegStages
from cgpipe.engine.loader import load
from cgpipe.engine.prefetch import prefetch
from cgpipe.engine.translator import Translator
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.media.frames import Batch, Batched, Coded, Decoded, Failed, Origin, Sink, Source, batched
from cgpipe.media.progress import Progress
from cgpipe.models.choose import Chosen
from cgpipe.options import Options


@runtime_checkable
class Divisible(Protocol[Origin]):
    """A source whose frames can be read independently, in any process."""

    def tasks(self) -> Iterable[Origin]:
        """Origins of the frames, in order."""

    def read(self, task: Origin, /) -> Coded[Origin]:
        """The frame of a task; an exception is that frame's failure."""


class Pipeline:
    """A loaded model, ready to translate any number of sources.

    Args:
        chosen: the model.
        options: the options of the job.
        watch: counts the steps until the model is ready.
        like: a pipeline of the same model, hardware and tiles, whose network is shared.
        video: whether the pictures are frames of videos.
    """

    def __init__(
        self,
        chosen: Chosen,
        options: Options,
        watch: Stopwatch,
        like: Pipeline | None = None,
        *,
        video: bool = False,
    ) -> None:
        hardware, look = options.hardware, options.look
        self.translator: Translator
        if like is not None:
            self.translator = like.translator.with_look(size=look.size, strength=look.strength)
        else:
            model = chosen.load().for_videos() if video else chosen.load()
            watch.reached("load")
            self.translator = Translator(
                model,
                device=hardware.device,
                precision=hardware.precision,
                engine=hardware.engine,
                size=look.size,
                strength=look.strength,
                tile=look.tile,
                tile_mode=look.tile_mode,
            )
        self.batch_size = hardware.batch_size
        self._ahead = options.work.ahead
        watch.reached("prepare")

    def batch_size_for(self, height: int, width: int) -> int:
        """The batch size for pictures of a size: the requested one, or the fastest."""
        return self.batch_size or self.translator.batch_size(height, width)

    def run(
        self,
        source: Source[Origin],
        sink: Sink[Origin],
        watch: Stopwatch,
        *,
        batch_size: int,
        first: int = 0,
        workers: int = 0,
        progress: Progress | None = None,
        jpegs: JpegStages[Origin] | None = None,
    ) -> None:
        """Translates every frame of ``source`` into ``sink``, which gets a :class:`Failed` for each that fails.

        Args:
            watch: counts ``inference``, and ends the steps up to it.
            batch_size: frames per batch.
            first: index of the first frame.
            workers: processes that decode, if the source is :class:`Divisible`.
            progress: follows pictures that are translated in parts; stopped when the run ends early.
            jpegs: decodes what the source leaves coded, and encodes what the sink takes coded.

        Raises:
            CgpipeError: errors that are not a picture's fault.
        """
        busy, progress = self.translator.busy_seconds, progress or Progress()
        batches = self._batches(source, batch_size, first, workers)
        items = self._translated(batches, jpegs, partial(watch.reached, "decode"))
        with self.translator.telling(progress), closing(prefetch(items, self._ahead, progress.stopped)) as ready:
            for item in ready:
                if isinstance(item, Failed):
                    sink.fail(item)
                    continue
                watch.reached("inference")
                if isinstance(item, Batch):
                    for frame in item.frames():
                        sink.write(frame)
                elif jpegs:
                    jpegs.write(item)
        watch.add("inference", self.translator.busy_seconds - busy)

    def _translated(
        self,
        batches: Generator[Batched[Origin], None, None],
        jpegs: JpegStages[Origin] | None,
        on_batch: Callable[[], object],
    ) -> Generator[Batched[Origin], None, None]:
        """The translations of batches, each stage of which runs in a thread of its own."""
        if jpegs is None:  # then no source leaves anything coded
            return self.translator.stream(cast(Generator[Decoded[Origin], None, None], batches), on_batch)
        pixels = prefetch(jpegs.decoded(batches), self._ahead)
        return jpegs.encoded(prefetch(self.translator.stream(pixels, on_batch), self._ahead))

    def _batches(
        self, source: Source[Origin], batch_size: int, first: int, workers: int
    ) -> Generator[Batched[Origin], None, None]:
        if workers and isinstance(source, Divisible):
            return load(source.tasks(), source.read, batch_size=batch_size, workers=workers, ahead=self._ahead)
        return prefetch(batched(source.frames(first), batch_size), self._ahead)

    def settings(self) -> dict[str, object]:
        """The requested and chosen settings, for a report; complete once a picture has been translated."""
        translator = self.translator
        card = translator.model.card
        asked = {"size": translator.size, "scales": card.working_scales, "large_side": card.large_side}
        return asked | {"strength": translator.strength} | translator.describe()
