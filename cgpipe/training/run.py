"""What a training run does around its steps: it logs, shows, saves, and stops when it is asked to."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch

from cgpipe.data.dataset import sides_of
from cgpipe.engine.compiling import compiled_or_eager
from cgpipe.engine.memory import FOR_TRAINING, keep_freed_memory
from cgpipe.errors import MediaError, ModelError, TrainingError
from cgpipe.evaluation.grids import grid_of, save_grid
from cgpipe.evaluation.watch import Watch
from cgpipe.models import Model, ModelCard, save_model, user_models_folder
from cgpipe.parallel import any_of, in_all, is_first, require_alike
from cgpipe.recipe import plain_settings
from cgpipe.training.board import Board
from cgpipe.training.device import Arithmetic
from cgpipe.training.metrics_log import MetricsLog
from cgpipe.training.signals import stop_on_signals
from cgpipe.training.state import KEPT, load_state, save_state

STATE_NAME = "state.pt"
METRICS_NAME = "metrics.jsonl"
EXPLODED = 1e6
"""A loss of this size, finite or not, is that of a run that has gone wrong."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, given to whoever watches it after every step.

    ``losses`` are means since the last line of the metrics file; ``seconds_a_step`` is measured in this process;
    ``pictures`` counts those that a step learns from, of both domains and of all processes; ``warnings`` say what was
    noticed at this step.
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
    """How a run, or the part of it that one call did, ended."""

    finished: bool
    step: int
    model_files: tuple[Path, ...]
    losses: dict[str, float]


class RunConfig(Protocol):
    """What every run is told; intervals are in steps."""

    @property
    def dataset_dir(self) -> Path: ...
    @property
    def checkpoint_dir(self) -> Path: ...
    @property
    def results_dir(self) -> Path: ...
    @property
    def publish(self) -> bool: ...
    @property
    def tensorboard(self) -> bool: ...
    @property
    def histograms(self) -> bool: ...
    @property
    def log_every(self) -> int: ...
    @property
    def sample_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def watch_every(self) -> int: ...


class Run(ABC):
    """A run that can be killed at any moment and taken up again.

    A kind of run says what its batches, its step and its state are; ``step`` counts the steps done, ``epoch`` the
    passes over the data.
    """

    config: RunConfig
    arithmetic: Arithmetic
    total_steps: int
    step: int = 0
    epoch: int = 0
    notices: tuple[str, ...] = ()
    """What is to be said of how a new run begins, with its first step."""

    def __init__(self) -> None:
        keep_freed_memory(FOR_TRAINING)
        self.watch = Watch()
        self.board: Board | None = None

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """The rest of the run's batches on the device; moves the step and the epoch on as each is done."""

    @abstractmethod
    def train_step(self, batch: Any) -> dict[str, torch.Tensor]:
        """Learns from a batch; the losses, still on the device."""

    @abstractmethod
    def learning_rate(self) -> float:
        """That of this step."""

    @abstractmethod
    def write_samples(self) -> tuple[str, ...]:
        """Shows what the generators do, and says what is wrong with it."""

    @abstractmethod
    def models(self) -> Iterator[tuple[Path, Model]]:
        """The generators as they would ship, each with its file in the run's folder."""

    @abstractmethod
    def weights(self) -> Iterable[tuple[str, torch.Tensor]]:
        """All that must stay finite, with names."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the run goes on."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave; RuntimeError or ValueError where it does not fit."""

    def test_folders(self, card: ModelCard) -> tuple[Path, Path]:
        """Of a model of this run: pictures to translate, and real ones of what the result should look like."""
        first, second = (self.config.dataset_dir / f"test{side}" for side in sides_of(card, self.config.dataset_dir))
        return first, second

    def start(self, *, resume: bool, on_progress: Callable[[Progress], None] | None = None) -> TrainReport:
        """Begins, or goes on exactly where the run was; steps until the end or until SIGINT or SIGTERM, and saves.

        Of several processes all make the steps, and the first writes and reports.

        Raises:
            TrainingError: there is nothing to resume or it does not fit, another run is in the way, the losses
                explode, or a picture cannot be read or a file written, as on a full disk.
        """
        if resume:
            self._resume()
            self.notices = ()
        else:
            self._refuse_to_overwrite()
        require_alike(self.step, self.total_steps)
        try:
            with self._showing():
                return self._steps(on_progress or (lambda progress: None))
        except (MediaError, ModelError, OSError) as error:
            raise TrainingError(f"{error}. {KEPT}") from error

    @contextmanager
    def _showing(self) -> Iterator[None]:
        """Keeps the event files for TensorBoard open, where they are asked for."""
        config = self.config
        if not (config.tensorboard or config.histograms) or not is_first():
            yield
            return
        self.board = Board(config.results_dir / "tensorboard", self.step, plain_settings(config))
        try:
            yield
        finally:
            self.board.close()

    def _steps(self, on_progress: Callable[[Progress], None]) -> TrainReport:
        config = self.config
        first = is_first()
        log = MetricsLog(config.checkpoint_dir / METRICS_NAME if first else None, self.step)
        started, first_step = time.monotonic(), self.step
        with stop_on_signals() as stop_asked:
            for batch in self.batches():
                losses = compiled_or_eager(partial(self.train_step, batch))
                warnings, self.notices = self.notices, ()
                log.add(losses)
                if self.step % config.log_every == 0:
                    log.write(self.step, self.epoch, self.learning_rate())
                    self._require_sound(log.means.values())
                    self._show({"learning_rate": self.learning_rate()} | log.means)
                if first and (self.finished or self.step % config.sample_every == 0):
                    warnings += self.write_samples()
                    if self.board and config.histograms:
                        self.board.add_histograms(self.weights(), self.step)
                for warning in warnings:
                    log.write_warning(self.step, self.epoch, warning)
                if first and config.watch_every and (self.finished or self.step % config.watch_every == 0):
                    figures = self._measure()
                    log.write_figures(self.step, self.epoch, figures)
                    self._show(figures)
                stops = any_of(stop_asked())
                if self.finished or stops or self.step % config.save_every == 0:
                    self._require_sound(float(loss) for loss in losses.values())
                    self.save()
                if first:
                    seconds = (time.monotonic() - started) / (self.step - first_step)
                    pictures = in_all(sum(len(pictures) for pictures in batch.values()))
                    on_progress(self._progress(log.means, seconds, pictures, warnings))
                if stops:
                    break
        files = tuple(path for path, _ in self.models())
        return TrainReport(finished=self.finished, step=self.step, model_files=files, losses=log.means)

    def _show(self, figures: dict[str, float]) -> None:
        if self.board:
            self.board.add_figures(figures, self.step)

    def show_grid(self, name: str, rows: Sequence[torch.Tensor]) -> None:
        """Writes rows of pictures, each (N, 3, H, W) in [-1, 1], to the results, with the step in the file's name."""
        grid = grid_of(rows)
        save_grid(self.config.results_dir / f"{name}-{self.step:07d}.jpg", grid)
        if self.board:
            self.board.add_grid(name, grid, self.step)

    @property
    def finished(self) -> bool:
        """Whether every step is done."""
        return self.step >= self.total_steps

    def _measure(self) -> dict[str, float]:
        """KID of each model; the best so far are kept."""
        return {
            f"kid_x1000_{path.stem}": self.watch.look(
                path, model, self.test_folders(model.card), self.arithmetic.device
            )
            for path, model in self.models()
        }

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

    def _require_sound(self, losses: Iterable[float]) -> None:
        if worst := [loss for loss in losses if not abs(loss) < EXPLODED]:  # NaN is not less than anything
            self._give_up(f"A loss is {worst[0]:g}")

    def _give_up(self, why: str) -> NoReturn:
        raise TrainingError(
            f"{why} at step {self.step}: training has exploded. The last good state is kept in "
            f"{self.config.checkpoint_dir}: resume with a smaller --lr, or with --precision fp32."
        )

    def save(self) -> None:
        """The state, and the model files, which ``--to`` finds."""
        # Model files hold half precision: what overflows there has exploded already.
        if not all(bool(weight.half().isfinite().all()) for _, weight in self.weights()):
            self._give_up("Weights are no longer finite")
        if not is_first():
            return
        for path, model in self.models():
            save_model(path, model)
            if self.config.publish:
                save_model(user_models_folder() / path.name, model)
        # Last, so that a run whose models could not be written is resumed before them.
        save_state(self.config.checkpoint_dir / STATE_NAME, {**self.state_dict(), "best": self.watch.best})

    def _refuse_to_overwrite(self) -> None:
        if (self.config.checkpoint_dir / STATE_NAME).exists():
            raise TrainingError(
                f"{self.config.checkpoint_dir} already holds a run: go on with --resume, choose another "
                "--checkpoint-dir, or remove it."
            )

    def _resume(self) -> None:
        path = self.config.checkpoint_dir / STATE_NAME
        state = load_state(path)
        self.watch.best = dict(state.get("best", {}))
        try:
            self.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(f"{path} does not fit this recipe's networks: {str(error).splitlines()[-1]}") from error
