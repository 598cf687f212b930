"""The one loop of all jobs: source, batches, translator, sink."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Protocol, runtime_checkable

from cgpipe.engine.loader import load
from cgpipe.engine.prefetch import prefetch
from cgpipe.engine.translator import Translator
from cgpipe.jobs.stopwatch import Stopwatch
from cgpipe.media.frames import Batch, Failed, Frame, Origin, Sink, Source, batched
from cgpipe.media.progress import Progress
from cgpipe.models.choose import Chosen
from cgpipe.options import Options


@runtime_checkable
class Divisible(Protocol[Origin]):
    """A source whose frames may be read in any process, each on its own."""

    def tasks(self) -> Iterable[Origin]:
        """Origins of the frames, in order."""

    def read(self, task: Origin) -> Frame[Origin]:
        """The frame of a task; whatever it raises is that frame's failure."""


class Pipeline:
    """A loaded model, ready to translate what one source after another gives.

    Args:
        chosen: the model.
        options: what was asked for.
        watch: told of each step until the model is ready.
        like: one of the same model, hardware and tiles, whose network is shared.
    """

    def __init__(self, chosen: Chosen, options: Options, watch: Stopwatch, like: Pipeline | None = None) -> None:
        hardware, look = options.hardware, options.look
        self.translator: Translator
        if like is not None:
            self.translator = like.translator.with_look(size=look.size, strength=look.strength)
        else:
            model = chosen.load()
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
        """How many pictures of a size are translated together: what was asked for, or what is fastest."""
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
    ) -> None:
        """Translates every frame of ``source`` into ``sink``; a frame that fails is told to it in the frame's place.

        Args:
            watch: counts ``inference``, and ends the steps up to it.
            batch_size: frames translated together.
            first: index of the frame to begin with.
            workers: processes that decode, where the source can be divided.
            progress: told of pictures that are translated part by part; stopped when the run ends before its time.

        Raises:
            CgpipeError: errors that are not a picture's fault.
        """
        busy, progress = self.translator.busy_seconds, progress or Progress()
        batches = watch.passing("decode", self._batches(source, batch_size, first, workers))
        translated = watch.passing("inference", self.translator.stream(batches))
        with (
            self.translator.telling(progress),
            closing(prefetch(translated, self._ahead, progress.stopped)) as items,
        ):
            for item in items:
                if isinstance(item, Failed):
                    sink.fail(item)
                else:
                    for frame in item.frames():
                        sink.write(frame)
        watch.add("inference", self.translator.busy_seconds - busy)

    def _batches(
        self, source: Source[Origin], batch_size: int, first: int, workers: int
    ) -> Generator[Batch[Origin] | Failed[Origin], None, None]:
        if workers and isinstance(source, Divisible):
            return load(source.tasks(), source.read, batch_size=batch_size, workers=workers, ahead=self._ahead)
        return prefetch(batched(source.frames(first), batch_size), self._ahead)

    def settings(self) -> dict[str, object]:
        """What was asked for and what was chosen, for a report; complete once a picture was translated."""
        translator = self.translator
        asked = {"size": translator.size, "scales": translator.model.card.working_scales}
        return asked | {"strength": translator.strength} | translator.describe()
