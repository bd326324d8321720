"""Metrics: functions that measure how good one replicate's outputs are.

A metric gets outputs and targets, both `[B, ...]`. It returns one value for each example, or a pair
(sum, count); the mean over a split then does not depend on how the split is divided into batches. A
metric that returns a single number, or is marked by `whole_split`, is called once with a whole
split. A metric whose lower values are better is marked by `lower_is_better`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from lt_sweeps.training.losses import token_cross_entropy

FAMILY = "metrics"  # stage keys name these functions `metrics.accuracy`, ...: must never change

_Function = TypeVar("_Function", bound=Callable[..., Any])


def lower_is_better(metric: _Function) -> _Function:
    """Mark a metric whose lower values are better."""
    metric.lower_is_better = True  # type: ignore[attr-defined]
    return metric


def whole_split(metric: _Function) -> _Function:
    """Mark a metric that must be called once, with all outputs and targets of a split."""
    metric.whole_split = True  # type: ignore[attr-defined]
    return metric


def then(finish: Callable[[Tensor], Tensor]) -> Callable[[_Function], _Function]:
    """Mark a metric whose value is `finish` of the mean over a split, such as its square root."""

    def mark(metric: _Function) -> _Function:
        metric.then = finish  # type: ignore[attr-defined]
        return metric

    return mark


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the largest of the outputs `[B, K]` belongs to the target class `[B]`."""
    return (outputs.argmax(1) == targets).double()


def top_k(outputs: Tensor, targets: Tensor, *, k: int = 5) -> Tensor:
    """Whether the target class `[B]` is among the `k` largest of the outputs `[B, K]`."""
    return (outputs.topk(k, 1).indices == targets[:, None]).any(1).double()


@lower_is_better
def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error of each example, over all outputs for the example."""
    return _errors(outputs, targets).square().flatten(1).mean(1)


@lower_is_better
def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean absolute error of each example, over all outputs for the example."""
    return _errors(outputs, targets).abs().flatten(1).mean(1)


@whole_split
def r2(outputs: Tensor, targets: Tensor) -> Tensor:
    """The fraction of explained variance, averaged over the numbers of an example.

    It is 1 - (sum of squared errors) / (sum of squared distances from the mean of the split).
    """
    errors = _errors(outputs, targets).square().flatten(1).sum(0)
    targets = targets.double()
    return (1 - errors / (targets - targets.mean(0)).square().flatten(1).sum(0)).mean()


def token_accuracy(
    outputs: Tensor, targets: Tensor, *, ignore: int = -100
) -> tuple[Tensor, Tensor]:
    """The number of tokens that are predicted correctly, and the number of all tokens.

    Outputs are `[B, T, K]`, targets `[B, T]`. Targets equal to `ignore` do not count.
    """
    counts = targets != ignore
    return ((outputs.argmax(-1) == targets) & counts).sum(), counts.sum()


@lower_is_better
def bits_per_token(
    outputs: Tensor, targets: Tensor, *, ignore: int = -100
) -> tuple[Tensor, Tensor]:
    """The cross entropy of a token to the base 2: its sum, and the number of tokens."""
    total, count = token_cross_entropy(outputs, targets, ignore=ignore)
    return total / math.log(2), count


@lower_is_better
@then(lambda mean: mean.exp())
def perplexity(outputs: Tensor, targets: Tensor, *, ignore: int = -100) -> tuple[Tensor, Tensor]:
    """The perplexity: e to the power of the mean cross entropy of a token."""
    return token_cross_entropy(outputs, targets, ignore=ignore)


def exact_match(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether all labels `[B, K]` of an example are right; an output above 0 predicts a label."""
    return _right(outputs, targets).all(1).double()


def hamming_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The fraction of an example's labels `[B, K]` that are right; output > 0 predicts a label."""
    return _right(outputs, targets).double().mean(1)


def f1(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The F1 score over all labels `[B, K]` together (micro); output > 0 predicts a label.

    It is 2 * (true positives) / (predicted labels + target labels), as a pair (sum, count).
    """
    predicted, actual = outputs > 0, targets > 0.5
    return 2 * (predicted & actual).sum(), predicted.sum() + actual.sum()


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs > 0) == (targets > 0.5)).flatten(1)


def _errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs minus targets, in float64.

    Raises: ValueError: the shapes differ. Broadcasting [B, 1] and [B] would give [B, B] numbers.
    """
    if outputs.shape != targets.shape:
        raise ValueError(
            f"outputs have shape {list(outputs.shape)} and targets {list(targets.shape)}; give "
            "equal shapes"
        )
    return outputs.double() - targets.double()
