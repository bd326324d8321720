"""Metrics: how good the outputs of one replicate are.

A metric is a function of outputs and targets, both `[B, ...]`. It returns one value for each
example, or the pair of a sum and of what it is divided by; the mean over a whole split is then the
same however the split is cut into batches. One that returns a single number is called once with
all of a split, as `whole_split` marks it. Where a lower value is better, `lower_is_better` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from lt_sweeps.training.losses import token_cross_entropy

FAMILY = "metrics"  # the first part of these names in stage keys, for ever

_Function = TypeVar("_Function", bound=Callable[..., Any])


def lower_is_better(metric: _Function) -> _Function:
    """Mark a metric whose lowest value is the best."""
    metric.lower_is_better = True  # type: ignore[attr-defined]
    return metric


def whole_split(metric: _Function) -> _Function:
    """Mark a metric that is called once, with all outputs and targets of a split."""
    metric.whole_split = True  # type: ignore[attr-defined]
    return metric


def then(last: Callable[[Tensor], Tensor]) -> Callable[[_Function], _Function]:
    """Mark a metric that is `last` of the mean over the split, such as its root."""

    def mark(metric: _Function) -> _Function:
        metric.then = last  # type: ignore[attr-defined]
        return metric

    return mark


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the largest of the outputs `[B, K]` is that of the class `[B]`."""
    return (outputs.argmax(1) == targets).double()


def top_k(outputs: Tensor, targets: Tensor, *, k: int = 5) -> Tensor:
    """Whether the class `[B]` is among the `k` largest of the outputs `[B, K]`."""
    return (outputs.topk(k, 1).indices == targets[:, None]).any(1).double()


@lower_is_better
def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """The squared error, its mean over the numbers of an example."""
    return _apart(outputs, targets).square().flatten(1).mean(1)


@lower_is_better
def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """The absolute error, its mean over the numbers of an example."""
    return _apart(outputs, targets).abs().flatten(1).mean(1)


@whole_split
def r2(outputs: Tensor, targets: Tensor) -> Tensor:
    """The part of the variance that is explained, its mean over the numbers of an example.

    One less the squared errors over the squared distances from the mean of the split.
    """
    errors = _apart(outputs, targets).square().flatten(1).sum(0)
    targets = targets.double()
    return (1 - errors / (targets - targets.mean(0)).square().flatten(1).sum(0)).mean()


def token_accuracy(
    outputs: Tensor, targets: Tensor, *, ignore: int = -100
) -> tuple[Tensor, Tensor]:
    """How many tokens `[B, T]` have the largest of their outputs `[B, T, K]`, and of how many."""
    counts = targets != ignore
    return ((outputs.argmax(-1) == targets) & counts).sum(), counts.sum()


@lower_is_better
def bits_per_token(
    outputs: Tensor, targets: Tensor, *, ignore: int = -100
) -> tuple[Tensor, Tensor]:
    """The cross entropy of a token, to the base 2."""
    total, count = token_cross_entropy(outputs, targets, ignore=ignore)
    return total / math.log(2), count


@lower_is_better
@then(lambda mean: mean.exp())
def perplexity(outputs: Tensor, targets: Tensor, *, ignore: int = -100) -> tuple[Tensor, Tensor]:
    """e to the mean cross entropy of a token."""
    return token_cross_entropy(outputs, targets, ignore=ignore)


def exact_match(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether all labels `[B, K]` of an example are right: an output above 0 is a label."""
    return _right(outputs, targets).all(1).double()


def hamming_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The part of an example's labels `[B, K]` that are right: an output above 0 is a label."""
    return _right(outputs, targets).double().mean(1)


def f1(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Twice the labels `[B, K]` that were found, over those there are plus those that were said.

    Over all labels together (micro); an output above 0 says a label.
    """
    said, there = outputs > 0, targets > 0.5
    return 2 * (said & there).sum(), said.sum() + there.sum()


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs > 0) == (targets > 0.5)).flatten(1)


def _apart(outputs: Tensor, targets: Tensor) -> Tensor:
    """The errors; shapes that would be broadcast are a mistake, and give [B, B] numbers."""
    if outputs.shape != targets.shape:
        raise ValueError(
            f"outputs are {list(outputs.shape)} and targets {list(targets.shape)}; they must agree"
        )
    return outputs.double() - targets.double()
