"""Evaluation: a stack on all of a split, in sums over examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from lt_sweeps.batches import Batches
from lt_sweeps.stack import Stack


class Score(NamedTuple):
    """One replicate's mean cross entropy, accuracy in [0, 1], and whether it predicts one class."""

    loss: float
    accuracy: float
    one_class: bool


def measure(stack: Stack, batches: Batches, split: str) -> list[Score]:
    """Every replicate on the whole of a split; leaves batch-norm statistics alone."""
    loss = torch.zeros(stack.replicates, dtype=torch.float64, device=stack.device)
    right, predictions, count = loss.clone(), None, 0
    for x, y in batches.evaluation(split):
        logits = stack.logits(x)
        labels = y.expand(len(logits), -1)
        loss += cross_entropy(logits.mT, labels, reduction="none").double().sum(1)
        predicted = logits.argmax(2)
        right += (predicted == labels).double().sum(1)
        seen = one_hot(predicted, logits.shape[2]).sum(1)
        predictions = seen if predictions is None else predictions + seen
        count += len(y)
    assert predictions is not None, f"{split} is empty"
    one_class = (predictions > 0).sum(1) == 1
    numbers = zip(
        (loss / count).tolist(), (right / count).tolist(), one_class.tolist(), strict=True
    )
    return [Score(*each) for each in numbers]


@contextmanager
def holding(stack: Stack, weights: Tensor, buffers: Mapping[str, Tensor]) -> Iterator[None]:
    """The stack with other weights `[R, P]` and buffers in it, and its own again afterwards."""
    mine = stack.weights.clone(), {name: each.clone() for name, each in stack.buffers.items()}
    _put(stack, weights, buffers)
    try:
        yield
    finally:
        _put(stack, *mine)


def _put(stack: Stack, weights: Tensor, buffers: Mapping[str, Tensor]) -> None:
    stack.weights.copy_(weights)
    for name, buffer in buffers.items():
        stack.buffers[name].copy_(buffer)
