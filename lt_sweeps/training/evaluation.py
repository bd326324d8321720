"""Evaluation: the scores of a stack on all of a split, as sums over its examples.

Sums, so that a score does not depend on how a split is cut into batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lt_sweeps.data.batches import EVALUATE_BATCH, Batches
from lt_sweeps.training.stack import Stack, graphed


class Score(NamedTuple):
    """One replicate's mean cross entropy, its accuracy in [0, 1], and whether it is constant.

    `one_class` is true where it predicts one and the same class for every image.
    """

    loss: float
    accuracy: float
    one_class: bool


class Evaluation:
    """Scores a stack on the splits of its data set; leaves batch-norm statistics alone.

    With `captures` the passes over the validation set, of which a training makes many, are one
    graph. The test set is evaluated once or twice, and images outside of the device are sent.
    `at_once` images take the forward pass together.
    """

    def __init__(
        self,
        stack: Stack,
        batches: Batches,
        *,
        captures: bool = False,
        at_once: int = EVALUATE_BATCH,
    ) -> None:
        self._stack, self._batches, self._at_once = stack, batches, at_once
        self._captures = captures and not batches.outside("val")
        self._replay: Callable[[], None] | None = None
        self._captured = torch.zeros(3, stack.replicates, dtype=torch.float64, device=stack.device)

    def measure(self, split: str) -> list[Score]:
        """Every replicate's score on the whole of a split."""
        return scores_of(self.totals(split).tolist())

    def totals(self, split: str) -> Tensor:
        """`[3, R]`, on the device: what the scores of all replicates are made of."""
        if split != "val" or not self._captures:
            return self._pass(split)
        if self._replay is None:
            self._replay = graphed(self._captured_pass, self._stack.device)
        self._replay()
        return self._captured

    def _captured_pass(self) -> None:
        self._captured.copy_(self._pass("val"))

    @torch.no_grad()
    def _pass(self, split: str) -> Tensor:
        stack = self._stack
        loss = torch.zeros(stack.replicates, dtype=torch.float64, device=stack.device)
        correct, count = loss.clone(), 0
        first, same = None, loss == 0
        for x, y in self._batches.evaluation(split):
            parts = [stack.logits(part) for part in x.split(self._at_once)]
            logits = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
            labels = y.expand(len(logits), -1)
            loss += cross_entropy(logits.mT, labels, reduction="none").double().sum(1)
            predicted = logits.argmax(2)
            correct += (predicted == labels).double().sum(1)
            first = predicted[:, :1] if first is None else first
            same &= (predicted == first).all(1)
            count += len(y)
        assert count, f"{split} is empty"
        return torch.stack([loss / count, correct / count, same.double()])


def scores_of(totals: Sequence[Sequence[float]]) -> list[Score]:
    """The scores that `Evaluation.totals` holds, once they are on the host."""
    return [Score(loss, accuracy, bool(same)) for loss, accuracy, same in zip(*totals, strict=True)]


def mean_scores(scores: Sequence[Sequence[Score]]) -> list[Score]:
    """Each replicate's mean score over several evaluations; that of an ensemble is another."""
    if len(scores) == 1:
        return list(scores[0])
    return [
        Score(
            fmean(score.loss for score in replicate),
            fmean(score.accuracy for score in replicate),
            all(score.one_class for score in replicate),
        )
        for replicate in zip(*scores, strict=True)
    ]
