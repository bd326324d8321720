"""Evaluation: the scores of a stack on all of a split, as sums over its examples.

Sums, so that a score does not depend on how a split is cut into batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy, one_hot

from lt_sweeps.data.batches import Batches
from lt_sweeps.training.stack import Stack


class Score(NamedTuple):
    """One replicate's mean cross entropy, its accuracy in [0, 1], and whether it is constant.

    `one_class` is true where it predicts one and the same class for every image.
    """

    loss: float
    accuracy: float
    one_class: bool


def measure(stack: Stack, batches: Batches, split: str) -> list[Score]:
    """Every replicate's score on the whole of a split; leaves batch-norm statistics alone."""
    loss = torch.zeros(stack.replicates, dtype=torch.float64, device=stack.device)
    correct, predictions, count = loss.clone(), None, 0
    for x, y in batches.evaluation(split):
        logits = stack.logits(x)
        labels = y.expand(len(logits), -1)
        loss += cross_entropy(logits.mT, labels, reduction="none").double().sum(1)
        predicted = logits.argmax(2)
        correct += (predicted == labels).double().sum(1)
        counts = one_hot(predicted, logits.shape[2]).sum(1)
        predictions = counts if predictions is None else predictions + counts
        count += len(y)
    assert predictions is not None, f"{split} is empty"
    one_class = (predictions > 0).sum(1) == 1
    numbers = zip(
        (loss / count).tolist(), (correct / count).tolist(), one_class.tolist(), strict=True
    )
    return [Score(*row) for row in numbers]


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
