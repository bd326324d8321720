"""`TaskLoss`: the loss of one replicate, for any task, and what a metric says of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lt_sweeps.plan.stages.task_kind import CLASSIFICATION, Metric, TaskKind, measure_of

# They broadcast a target [B] against an output [B, 1] to B times B errors, with a warning at most.
_BY_PLACE = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "huber_loss", "l1_loss")
_BY_PLACE += ("mse_loss", "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss")


class TaskLoss:
    """The loss of a kind of task, to train by (`mean`) and to add up over a split (`total`).

    By default it is the cross entropy of classes, whose labels a training can smooth.
    """

    def __init__(self, kind: TaskKind = CLASSIFICATION, smoothing: float = 0.0) -> None:
        kind.check_smoothing(smoothing)
        self.kind, self.smoothing = kind, smoothing
        target = kind.loss.target
        self._function, self._named = measure_of(kind.loss), f"task.loss: `{target}`"
        self._by_place = target in {f"torch.nn.functional.{name}" for name in _BY_PLACE}

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the batch of one replicate, which is differentiated."""
        if self.kind.has_cross_entropy:
            return cross_entropy(outputs, targets, label_smoothing=self.smoothing)
        value = self._value(outputs, targets)
        if isinstance(value, Tensor):
            return value.mean()
        total, count = value
        return total / count

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over a batch and what it is divided by: `[2]`, float64; nothing is smoothed."""
        if self.kind.has_cross_entropy:
            return in_double(cross_entropy(outputs, targets, reduction="none"), targets)
        return in_double(self._value(outputs, targets), targets)

    def _value(self, outputs: Tensor, targets: Tensor) -> Any:
        if self._by_place and outputs.shape != targets.shape:
            raise ValueError(
                f"{self._named} takes outputs and targets of one shape, got {list(outputs.shape)} "
                f"and {list(targets.shape)}"
            )
        value = self._function(outputs, targets)
        _check(value, targets, self._named)
        return value


def measured(metric: Metric, outputs: Tensor, targets: Tensor) -> Tensor:
    """The sum and the count of a metric on a batch, or its value on a whole split: `[2]`."""
    value = measure_of(metric.call)(outputs, targets)
    _check(value, targets, f"task.metrics.{metric.name}: `{metric.call.target}`")
    return in_double(value, targets)


def in_double(value: Any, targets: Tensor) -> Tensor:
    """A sum and a count `[2]`, to be added to those of other batches."""
    if isinstance(value, tuple):
        total, count = value
    elif value.ndim:
        total, count = value.double().sum(), value.numel()
    else:  # the mean of a batch counts as that of its examples
        total, count = value.double() * len(targets), len(targets)
    pair = (torch.as_tensor(part, device=targets.device).double() for part in (total, count))
    return torch.stack(list(pair))


def _check(value: Any, targets: Tensor, where: str) -> None:
    """Raises: ValueError: what a function returned is none of the three that it may return."""
    if isinstance(value, tuple) and len(value) == 2:
        said = [list(part.shape) for part in value if isinstance(part, Tensor) and part.ndim]
    elif isinstance(value, Tensor):
        said = list(value.shape) if value.ndim and len(value) != len(targets) else []
    else:
        said = [type(value).__name__]
    if said:
        raise ValueError(
            f"{where} returned {said} for {len(targets)} examples; it may return a number, one for "
            "each example, or the two numbers (sum, count)"
        )
