"""Measures a run's models as it goes, and keeps the best."""

from __future__ import annotations

from pathlib import Path

import torch

from cgpipe.errors import DataError, MissingDependencyError
from cgpipe.evaluation.evaluator import Evaluator
from cgpipe.models import Model, save_model


class Watch:
    """KID of a run's models on the test split, by EfficientNet-Lite2, which takes no part in training.

    Neither weights nor random numbers are touched: a run that is watched learns the same, to the bit.
    """

    def __init__(self) -> None:
        self.best: dict[str, float] = {}
        self._evaluators: dict[str, Evaluator] = {}

    def check(self, path: Path, model: Model, folders: tuple[Path, Path], device: torch.device) -> float:
        """KID times 1000 of a model now; the best so far is kept beside ``path``, with ``-best`` in its name.

        Args:
            path: the model's file in the run's folder; its name says which model it is.
            folders: pictures to translate, and real ones of what the result should look like.

        Raises:
            DataError: there is no test split.
            MissingDependencyError: what measures is not installed.
        """
        # Networks draw random weights before they are given their own.
        with torch.random.fork_rng():
            if path.name not in self._evaluators:
                self._evaluators[path.name] = _evaluator(folders, device)
            figure = self._evaluators[path.name].evaluate(model.generator).figures["lite2"].kid
        if figure <= self.best.get(path.name, figure):
            self.best[path.name] = figure
            save_model(path.with_stem(f"{path.stem}-best"), model)
        return figure


def _evaluator(folders: tuple[Path, Path], device: torch.device) -> Evaluator:
    try:
        return Evaluator(*folders, networks=["lite2"], device=device)
    except DataError as error:
        raise DataError(f"--watch-every needs test pictures. {error}") from error
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{error}, or train without --watch-every.") from error
