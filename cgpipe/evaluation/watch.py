"""Measures a run's models as it goes, and keeps the best."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from cgpipe.data.loading import Form, forms_of
from cgpipe.data.pictures import Place
from cgpipe.errors import MissingDependencyError
from cgpipe.evaluation.evaluator import Evaluator
from cgpipe.evaluation.paired import PairedEvaluator
from cgpipe.models import Model, save_model


class Watch:
    """KID of a run's models on the test split, by EfficientNet-Lite2, which takes no part in training.

    Neither weights nor random numbers are touched: a run that is watched learns the same, to the bit.

    Args:
        size: side, in pixels, at which pictures are translated.

    Attributes:
        best: the best value of :attr:`figure` so far, by the name of the model's file.
        waited: measurements of the run since one of its models was last better than before.
    """

    figure, higher_is_better = "kid_x1000", False

    def __init__(self, size: int = 256) -> None:
        self.size = size
        self.best: dict[str, float] = {}
        self.waited = 0
        self._evaluators: dict[str, Evaluator | PairedEvaluator] = {}

    def prepare(self, path: Path, model: Model, folders: tuple[Place, Place], device: torch.device) -> None:
        """Opens what :meth:`check` measures a model with, so that a run without test pictures ends before it begins.

        Args:
            path: the model's file in the run's folder; its name says which model it is.
            folders: pictures to translate, and real ones of what the result should look like.

        Raises:
            DataError: there is no test split.
            MediaError: a picture of it cannot be read.
            MissingDependencyError: what measures is not installed.
        """
        # Networks draw random weights, on the CPU, before they are given their own.
        with torch.random.fork_rng(devices=[]):
            self._evaluators[path.name] = self._evaluator(folders, forms_of(model), device)

    def check(self, path: Path, model: Model) -> dict[str, float]:
        """Figures of a model now, by name; the best model so far is kept beside ``path``, with ``-best`` in its name.

        Args:
            path: the model's file, for which :meth:`prepare` was called.
        """
        with torch.random.fork_rng(devices=[]):
            figures = self._figures(self._evaluators[path.name], model)
        if self._is_best(figures[self.figure], self.best.get(path.name)):
            self.best[path.name] = figures[self.figure]
            save_model(path.with_stem(f"{path.stem}-best"), model)
        return figures

    def _is_best(self, value: float, best: float | None) -> bool:
        if best is None or math.isnan(best):
            return True
        return value >= best if self.higher_is_better else value <= best

    def _evaluator(
        self, folders: tuple[Place, Place], forms: tuple[Form, Form], device: torch.device
    ) -> Evaluator | PairedEvaluator:
        try:
            evaluator = Evaluator(*folders, size=self.size, networks=["lite2"], forms=forms, device=device)
        except MissingDependencyError as error:
            raise MissingDependencyError(f"{error}, or train without --watch-every.") from error
        evaluator.require_inputs()
        return evaluator

    def _figures(self, evaluator: Evaluator | PairedEvaluator, model: Model) -> dict[str, float]:
        assert isinstance(evaluator, Evaluator)
        return {"kid_x1000": evaluator.evaluate(model.generator).figures["lite2"].kid}


class PairedWatch(Watch):
    """How close translations come to their partners in the test split; the best has the highest PSNR."""

    figure, higher_is_better = "psnr", True

    def _evaluator(
        self, folders: tuple[Place, Place], forms: tuple[Form, Form], device: torch.device
    ) -> PairedEvaluator:
        return PairedEvaluator(*folders, size=self.size, forms=forms, device=device)

    def _figures(self, evaluator: Evaluator | PairedEvaluator, model: Model) -> dict[str, float]:
        assert isinstance(evaluator, PairedEvaluator)
        found = evaluator.evaluate(model.generator)
        return {"psnr": found.psnr, "ssim": found.ssim, "l1_of_255": found.l1}
