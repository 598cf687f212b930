"""The training loop: steps, logs, sample grids, checkpoints, and stopping on request."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from cgpipe.data.ahead import PicturesAhead, room_for_pictures
from cgpipe.data.pictures import Place
from cgpipe.data.settings import PictureSettings
from cgpipe.data.unpaired import Pictures, TrainingPictures, training_batches
from cgpipe.engine.compiling import compiled_or_eager
from cgpipe.engine.memory import FOR_TRAINING, keep_freed_memory
from cgpipe.errors import DataError, MediaError, ModelError, TrainingError, UsageError
from cgpipe.evaluation.grids import grid_of, save_grid
from cgpipe.evaluation.runs import snapshot_folder
from cgpipe.evaluation.watch import Watch
from cgpipe.models import Model, ModelCard, save_model
from cgpipe.parallel import any_rank, global_count, is_first, require_alike
from cgpipe.recipe import RECIPE_NAME, plain_settings, to_toml
from cgpipe.storage import atomic_write
from cgpipe.training.board import Board
from cgpipe.training.device_plan import plan_device
from cgpipe.training.metrics_log import MetricsLog
from cgpipe.training.publish import Published, publish
from cgpipe.training.resume import differences, settings_of, upgraded, whole_number
from cgpipe.training.settings import RunSettings
from cgpipe.training.signals import stop_on_signals
from cgpipe.training.state import STATE_NAME, load_state, locked, save_state, what_is_kept

METRICS_NAME = "metrics.jsonl"
EXPLODED = 1e6
"""A loss of this size means that training has exploded."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a run, passed to a callback after every step.

    ``losses`` are means since the last line of the metrics file; ``seconds_a_step`` is measured in this process;
    ``pictures`` is the number per step, of both domains and all processes; ``warnings`` are those of this step.
    """

    epoch: int
    step: int
    total_steps: int
    losses: dict[str, float]
    learning_rate: float
    seconds_a_step: float
    pictures: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """The result of a run, or of the part of it that one call did.

    Args:
        finished: whether the run is complete.
        step: total steps done.
        model_files: the models in the run's folder.
        losses: means since the last line of the metrics file.
        stopped_early: whether the run ended because its models had stopped getting better.
        stopped_by: the signal that stopped the run, if any.
        published: what became of each model in the user's models folder, if the run is complete and publishes.
        unreadable: training pictures that were excluded, with the reason.
    """

    finished: bool
    step: int
    model_files: tuple[Path, ...]
    losses: dict[str, float]
    stopped_early: bool = False
    stopped_by: int | None = None
    published: tuple[Published, ...] = ()
    unreadable: dict[Path, str]


class Run(ABC):
    """A run that can be killed at any moment and resumed exactly.

    Subclasses define the datasets, the step and the networks; progress is kept here.

    Attributes:
        step: steps done.
        epoch: epochs done.
        picture: pictures of each domain shown in this epoch.
        settings: how this epoch loads its pictures.
        pictures: the training sets.
        notices: notices for the first step.
        stopped_early: whether measurements have stopped getting better.
    """

    config: RunSettings
    pictures: TrainingPictures
    settings: PictureSettings
    watch: Watch

    def __init__(self, config: RunSettings) -> None:
        keep_freed_memory(FOR_TRAINING)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.plan = plan_device(config.gpu_ids, config.precision)
        self.scaler = self.plan.scaler()
        self.step = self.epoch = self.picture = self.total_steps = 0
        self.notices: tuple[str, ...] = ()
        self.published: dict[str, str] = {}
        self.stopped_early = False
        self.board: Board | None = None
        self.log = MetricsLog()

    # -- what each kind of run says ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the run is complete."""

    @abstractmethod
    def settings_at(self, epoch: int) -> PictureSettings:
        """The effective settings during ``epoch``, counted from 0."""

    @abstractmethod
    def steps_left(self) -> int:
        """Remaining steps."""

    def settings_ahead(self) -> tuple[PictureSettings, int]:
        """The effective settings of the next step, and for how many steps they hold at most."""
        return self.settings_at(self.epoch), self.steps_left()

    @abstractmethod
    def train_step(self, batch: Pictures) -> dict[str, torch.Tensor]:
        """Trains on a batch and returns the losses, still on the device."""

    @abstractmethod
    def learning_rate(self) -> float:
        """The learning rate of this step."""

    @abstractmethod
    def write_samples(self) -> tuple[str, ...]:
        """Writes sample grids, and returns warnings about them."""

    @abstractmethod
    def models(self) -> Iterator[tuple[Path, Model]]:
        """The generators as models, each with its path in the run's folder."""

    @abstractmethod
    def weights(self) -> Iterable[tuple[str, torch.Tensor]]:
        """All tensors that must stay finite, with names."""

    @abstractmethod
    def networks_state(self) -> dict[str, object]:
        """The state of networks, optimisers, pools and so on; the position in the run is not part of it."""

    @abstractmethod
    def load_networks_state(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`networks_state` returned; RuntimeError or ValueError if it does not fit."""

    @abstractmethod
    def test_folders(self, card: ModelCard) -> tuple[Place, Place]:
        """Test pictures for a model of this run: the source domain, and the target domain."""

    # -- the loop ----------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.config.checkpoint_dir

    def start(self, *, resume: bool, on_progress: Callable[[Progress], None] | None = None) -> TrainReport:
        """Starts the run, or resumes it from what was saved; trains to the end or until SIGINT or SIGTERM, and saves.

        With several processes all train, and the first writes and reports.

        Raises:
            TrainingError: what was saved does not fit, the folder already holds a run, the losses explode, or a file
                cannot be written, as on a full disk.
            DataError: no picture of a domain can be read, or there are no test pictures to measure on.
        """
        with locked(self.folder) if is_first() else nullcontext():
            if not resume:
                self._refuse_to_overwrite()
            elif (self.folder / STATE_NAME).is_file():
                self._resume()
            else:
                self.notices += (f"Nothing was saved yet in {self.folder}: the run starts.",)
            self.total_steps = self.step + self.steps_left()
            require_alike(self.step, self.total_steps)
            self._prepare_to_measure()
            try:
                self._write_recipe()
                with self._showing():
                    return self._steps(on_progress or (lambda progress: None))
            except (MediaError, ModelError, OSError) as error:
                raise TrainingError(f"{str(error).rstrip('.')}. {what_is_kept(self.folder)}") from error

    def batches(self) -> Iterator[Pictures]:
        """The remaining batches, on the device; advances step, picture and epoch with each."""
        loader = self._loader()
        while not self.finished:
            self.settings, steps = self.settings_ahead()
            size = self.settings.batch_size
            length = self.pictures.length(size)
            epoch, first = self.epoch, self.picture
            if first + size > length:  # resumed with larger batches, or fewer pictures, than it was stopped with
                self.epoch, self.picture = epoch + 1, 0
                continue
            end = min(length, first + size * steps)
            for batch in training_batches(
                *(self.pictures, self.settings), epoch=epoch, first=first, end=end, workers=self._workers, loader=loader
            ):
                self.step, self.picture = self.step + 1, self.picture + size
                if self.picture + size > length:
                    self.epoch, self.picture = epoch + 1, 0
                yield {domain: self.plan.place(pictures) for domain, pictures in batch.items()}
                if self.finished:
                    return

    @property
    def _workers(self) -> int:
        return self.plan.loaders(self.config.workers)

    def _loader(self) -> PicturesAhead | None:
        """What loads pictures to a GPU."""
        device = self.plan.device
        if device.type != "cuda":
            return None
        return PicturesAhead(self.pictures, device, room_for_pictures(device), self._workers)

    def progress_in_epoch(self) -> float:
        """Fraction of this epoch that is done, 0 to 1."""
        return min(1.0, self.picture / self.pictures.length(self.settings.batch_size))

    def _steps(self, on_progress: Callable[[Progress], None]) -> TrainReport:
        config, first = self.config, is_first()
        log = self.log
        log.open(self.folder / METRICS_NAME if first else None, self.step)
        started, first_step = time.monotonic(), self.step
        published: tuple[Published, ...] = ()
        with stop_on_signals() as request:
            for batch in self.batches():
                losses = compiled_or_eager(partial(self.train_step, batch))
                warnings = self._news()
                log.add(losses)
                if self.step % config.log_every == 0:
                    log.write(self.step, self.epoch, self.learning_rate())
                    self._require_sound(log.means.values())
                    self._show({"learning_rate": self.learning_rate()} | log.means)
                if first:
                    warnings += self._shown_and_measured(log)
                    for warning in warnings:
                        log.write_warning(self.step, self.epoch, warning)
                    self._keep_snapshot()
                    if self._shows():
                        warnings += self._write_page()
                self.stopped_early = self._stops_early()
                stops = any_rank(bool(request))
                if self.finished or stops or self.step % config.save_every == 0:
                    self._require_sound(float(loss) for loss in losses.values())
                    published = self.save()
                if first:
                    seconds = (time.monotonic() - started) / (self.step - first_step)
                    pictures = global_count(sum(len(pictures) for pictures in batch.values()))
                    on_progress(self._progress(log.means, seconds, pictures, warnings))
                if stops:
                    break
        if self.step == first_step and self.finished and config.publish and not self.published:
            published = self.save()  # at its end already, and to be published now
        return TrainReport(
            finished=self.finished,
            step=self.step,
            model_files=tuple(path for path, _ in self.models()),
            losses=log.means,
            stopped_early=self.stopped_early,
            stopped_by=request.signal,
            published=published,
            unreadable=dict(self.pictures.unreadable),
        )

    def _news(self) -> tuple[str, ...]:
        """The new notices of this step."""
        notices, self.notices = self.notices, ()
        unreadable = list(self.pictures.unreadable.values())
        notices += tuple(f"{reason} It is excluded from training." for reason in unreadable[self._unreadable_said :])
        self._unreadable_said = len(unreadable)
        return notices

    _unreadable_said = 0

    def _shown_and_measured(self, log: MetricsLog) -> tuple[str, ...]:
        """Writes grids and measures, if due; returns warnings about the grids."""
        config = self.config
        warnings: tuple[str, ...] = ()
        if self.finished or self.step % config.sample_every == 0:
            warnings = self.write_samples()
            if self.board and config.histograms:
                self.board.add_histograms(self.weights(), self.step)
        if config.watch_every and (self.finished or self.step % config.watch_every == 0):
            figures = self._measure()
            log.write_figures(self.step, self.epoch, figures)
            self._show(figures)
        return warnings

    def _shows(self) -> bool:
        """Whether grids or figures are due with this step."""
        intervals = filter(None, (self.config.sample_every, self.config.watch_every))
        return self.finished or any(self.step % every == 0 for every in intervals)

    def _write_page(self) -> tuple[str, ...]:
        """Writes the run's page; a failure is only a warning."""
        from cgpipe.pages.runs import write_run

        try:
            write_run(self.folder)
        except (UsageError, MediaError) as error:
            return (str(error),)
        return ()

    def _keep_snapshot(self) -> None:
        """Copies the models at the end of this epoch, if the recipe says so."""
        every = self.config.snapshot_every
        if every and self.picture == 0 and self.epoch % every == 0:
            for path, model in self.models():
                save_model(snapshot_folder(self.folder, self.epoch) / path.name, model)

    def _prepare_to_measure(self) -> None:
        """Opens the test set before the first step, rather than at the first measurement, hours later."""
        if not self.config.watch_every or not is_first() or self.finished:
            return
        try:
            for path, model in self.models():
                self.watch.prepare(path, model, self.test_folders(model.card), self.plan.device)
        except DataError as error:
            kind = type(error)  # a folder that does not exist has an exit code of its own
            raise kind(f"--watch-every needs test pictures: add them, or train without it. {error}") from error

    def _measure(self) -> dict[str, float]:
        """Measures each model, and keeps the best so far."""
        found: dict[str, float] = {}
        before = dict(self.watch.best)
        for path, model in self.models():
            figures = self.watch.check(path, model)
            found |= {f"{name}_{path.stem}": value for name, value in figures.items()}
        self.watch.waited = 0 if self.watch.best != before else self.watch.waited + 1
        return found

    def _stops_early(self) -> bool:
        """Whether so many measurements were no better; the first process, which measures, decides for all."""
        config = self.config
        if not config.patience or self.step % config.watch_every:
            return self.stopped_early
        return any_rank(self.watch.waited >= config.patience)

    def _progress(self, losses: dict[str, float], seconds: float, pictures: int, warnings: tuple[str, ...]) -> Progress:
        return Progress(
            epoch=self.epoch,
            step=self.step,
            total_steps=self.total_steps,
            losses=losses,
            learning_rate=self.learning_rate(),
            seconds_a_step=seconds,
            pictures=pictures,
            warnings=warnings,
        )

    # -- what is shown -----------------------------------------------------------------------------------------------

    @contextmanager
    def _showing(self) -> Iterator[None]:
        """Keeps TensorBoard's event files open, if the recipe asks for them."""
        config = self.config
        if not (config.tensorboard or config.histograms) or not is_first():
            yield
            return
        self.board = Board(config.results_dir / "tensorboard", self.step, plain_settings(config))
        try:
            yield
        finally:
            self.board.close()

    def _show(self, figures: dict[str, float]) -> None:
        if self.board:
            self.board.add_figures(figures, self.step)

    def show_grid(self, name: str, rows: Sequence[torch.Tensor]) -> None:
        """Writes rows of pictures, each (N, C, H, W) in [-1, 1], to the results folder; the file name has the step."""
        grid = grid_of(rows)
        save_grid(self.config.results_dir / f"{name}-{self.step:07d}.jpg", grid)
        if self.board:
            self.board.add_grid(name, grid, self.step)

    # -- what is kept ------------------------------------------------------------------------------------------------

    def _require_sound(self, losses: Iterable[float]) -> None:
        if worst := [loss for loss in losses if not abs(loss) < EXPLODED]:  # NaN is not less than anything
            self._give_up(f"A loss is {worst[0]:g}")

    def _give_up(self, why: str) -> NoReturn:
        raise TrainingError(
            f"{why} at step {self.step}: training has exploded. {what_is_kept(self.folder)} "
            "Try a smaller --lr, or --precision fp32."
        )

    def save(self) -> tuple[Published, ...]:
        """Writes the state and the model files; at the end of the run also publishes them, if the recipe says so."""
        # Model files hold half precision: weights that overflow it have exploded already.
        if not all(bool(weight.half().isfinite().all()) for _, weight in self.weights()):
            self._give_up("Weights are no longer finite")
        if not is_first():
            return ()
        for path, model in self.models():
            save_model(path, model)
        # After them, so that a run whose models could not be written resumes before that point.
        save_state(self.folder / STATE_NAME, self.state_dict())
        if not (self.finished and self.config.publish):
            return ()
        published = tuple(publish(path, self.published) for path, _ in self.models())
        save_state(self.folder / STATE_NAME, self.state_dict())
        return published

    def state_dict(self) -> dict[str, object]:
        """Everything that determines how the run continues."""
        return {
            "settings": json.dumps(settings_of(self.config)),
            "pictures": dict(self.pictures.counts),
            "step": self.step,
            "epoch": self.epoch,
            "picture": self.picture,
            "random": torch.get_rng_state(),
            "scaler": self.scaler.state_dict(),
            "best": dict(self.watch.best),
            "waited": self.watch.waited,
            "published": dict(self.published),
            "log": self.log.state_dict(),
            **self.networks_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.load_networks_state(state)
        self.step, self.epoch, self.picture = (whole_number(state, name) for name in ("step", "epoch", "picture"))
        self.settings, _ = self.settings_ahead()
        self.watch.best, self.published = dict(state["best"]), dict(state["published"])
        self.watch.waited = state.get("waited", 0)
        if "log" in state:
            self.log.load_state_dict(state["log"])
        self.stopped_early = 0 < self.config.patience <= self.watch.waited
        if state["scaler"] and self.scaler.is_enabled():  # that of a run in another type is empty
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])

    def _resume(self) -> None:
        path = self.folder / STATE_NAME
        state = load_state(path)
        try:
            state = upgraded(state, self._epoch)
            self.load_state_dict(state)
            changes = tuple(differences(state, self.config, self.pictures.counts))
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{path} does not fit this recipe's networks: {str(error).splitlines()[-1]}."
            ) from error
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise TrainingError(
                f"{path} is not the state of a run of this kind, or is damaged ({type(error).__name__}: {error}). "
                "Start again in another --checkpoint-dir."
            ) from error
        self.notices = tuple(f"The run continues with {change}" for change in changes)

    def _epoch(self, number: int) -> tuple[int, int]:
        """An epoch's batch size and number of steps."""
        size = self.settings_at(number).batch_size
        return size, self.pictures.length(size) // size

    def _refuse_to_overwrite(self) -> None:
        if (self.folder / STATE_NAME).exists():
            raise TrainingError(
                f"{self.folder} already holds a run: continue it with --resume, use another --checkpoint-dir, or "
                "remove it."
            )

    def _write_recipe(self) -> None:
        """Writes the run's settings to its folder, for ``--resume``."""
        if not is_first():
            return
        path = self.folder / RECIPE_NAME
        try:
            with atomic_write(path) as temporary:
                temporary.write_text(to_toml(self.config, leave_out=("checkpoint_dir",)), encoding="utf-8")
        except OSError as error:
            raise TrainingError(f"{path} cannot be written: {error.strerror}. {what_is_kept(self.folder)}") from error
