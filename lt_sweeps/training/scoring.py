"""`Scorer`: score a stack on the validation set during its training, and test it at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lt_sweeps.config.seeds import draw
from lt_sweeps.training.evaluation import Evaluation, Score, mean_scores
from lt_sweeps.training.history import TrainingHistory
from lt_sweeps.training.mask_action import MaskAction


class Scorer:
    """Computes the stack's weights for an evaluation, and evaluates them."""

    def __init__(
        self, masking: MaskAction, evaluation: Evaluation, history: TrainingHistory
    ) -> None:
        self.masking, self.history = masking, history
        self.measure, self._evaluation = evaluation.measure, evaluation
        self.units = masking.units

    def validate(self, step: int) -> None:
        """Evaluate on the validation set, unless the restored history has this step already."""
        if self.history.step >= step:
            return
        self.masking.deploy([step] * len(self.units), self.keys("validate", step))
        # The host gets all numbers in one transfer, because it waits for the device in each one.
        totals, losses = self._evaluation.totals("val"), self.history.mean_train_loss(step)
        *scores, moved, losses = torch.cat(
            [totals, self.masking.moved()[None], losses[None].double()]
        ).tolist()
        if any(moved):
            self.masking.check(step)
        self.history.add(step, self._evaluation.scores(scores), losses)

    def results(self, step: int) -> list[dict[str, Any]]:
        """Each replicate's results at its best evaluation and at the end (`step`)."""
        self.validate(step)
        best = end = self._tested(step, [step] * len(self.units))
        hard = self._hard_scores(step)
        if any(at != step for at in self.history.best_step):
            with self.history.at_best():
                best = self._tested(step, self.history.best_step)
                at_best = self._hard_scores(step)
            for r, at in enumerate(self.history.best_step):
                if at != step:
                    hard[r] |= {f"best_{name}": score for name, score in at_best[r].items()}
        return [
            self.history.results(r, best[r], end[r])
            | {f"{name}_accuracy": score.accuracy for name, score in hard[r].items()}
            | self._metrics(r, {"best": best[r], "end": end[r]}, hard[r])
            for r in range(len(self.units))
        ]

    def keys(self, purpose: str, *index: int) -> list[int]:
        """The random keys of a learned mask's draws in an evaluation, one for each replicate."""
        if not self.units[0].stage.sparsifier.learns:
            return []
        return [draw(unit.seed.role("noise"), purpose, *index) for unit in self.units]

    def _tested(self, step: int, at: Sequence[int]) -> list[Score]:
        """Each replicate's scores on the test set, with the temperature of its step in `at`.

        If the sparsifier draws several networks for a test, their mean scores.
        """
        scores = []
        for sample in range(self.masking.samples):
            self.masking.deploy(at, self.keys("test", step, sample))
            scores.append(self.measure("test"))
        return mean_scores(scores)

    def _hard_scores(self, step: int) -> list[dict[str, Score]]:
        """Each replicate's scores under the hard mask, as `hard_val` and `hard_test`.

        Empty unless the mask is learned.
        """
        if not self.units[0].stage.sparsifier.learns:
            return [{} for _ in self.units]
        self.masking.deploy([step] * len(self.units), self.keys("test", step), hard=True)
        splits = {split: self.measure(split) for split in ("val", "test")}
        return [
            {f"hard_{split}": scores[r] for split, scores in splits.items()}
            for r in range(len(self.units))
        ]

    def _metrics(
        self, r: int, tested: Mapping[str, Score], hard: Mapping[str, Score]
    ) -> dict[str, Any]:
        """One replicate's metrics besides accuracy, with the name of the task's main metric.

        Empty for a classification with accuracy as its only metric.
        """
        kind = self.units[0].stage.training.task.kind
        if kind.is_default:
            return {}
        metrics: dict[str, float] = {}
        for name in (metric.name for metric in kind.others):
            for when, score in tested.items():
                metrics[f"{when}_val_{name}"] = self.history.validated(r, when)[f"val_{name}"]
                metrics[f"{when}_test_{name}"] = score.metrics[name]
            metrics |= {f"{of}_{name}": score.metrics[name] for of, score in hard.items()}
        main = kind.main_metric
        about = {"metric": main.name, "lower_is_better": main.lower_is_better}
        lower = [metric.name for metric in kind.others if metric.lower_is_better]
        facts = {"metrics": metrics, "lower_metrics": lower}
        return facts | ({} if main.is_accuracy else about)
