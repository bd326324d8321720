"""`TaskLoss`: the loss of one replicate for any task; `measured`: the value of a metric."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lt_sweeps.config.call import Call
from lt_sweeps.config.users_mistakes import told_by
from lt_sweeps.plan.stages.task_kind import CLASSIFICATION, Metric, TaskKind, measure_of

# Elementwise losses of torch. They broadcast targets [B] and outputs [B, 1] to [B, B] errors, with
# no more than a warning.
_BY_PLACE = (
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.huber_loss, F.kl_div),
    *(F.l1_loss, F.mse_loss, F.multilabel_soft_margin_loss, F.poisson_nll_loss),
    *(F.smooth_l1_loss, F.soft_margin_loss),
    *(nn.BCELoss, nn.BCEWithLogitsLoss, nn.HuberLoss, nn.KLDivLoss, nn.L1Loss, nn.MSELoss),
    *(nn.MultiLabelSoftMarginLoss, nn.PoissonNLLLoss, nn.SmoothL1Loss, nn.SoftMarginLoss),
)

_IGNORED = -100  # the class that torch's cross entropy leaves out of its mean


class TaskLoss:
    """The loss of a kind of task, for training (`mean`) and for sums over a split (`total`).

    The default is the cross entropy of classes. Label smoothing affects only the training.
    """

    def __init__(self, kind: TaskKind = CLASSIFICATION, smoothing: float = 0.0) -> None:
        kind.check_smoothing(smoothing)
        self.kind, self.smoothing = kind, smoothing
        self._function = measure_of(kind.loss)
        self._named = f"task.loss: `{kind.loss.target}`"
        self._by_place = _is_by_place(kind.loss)

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over one replicate's batch, for gradients."""
        if self.kind.has_cross_entropy:
            return cross_entropy(outputs, targets, label_smoothing=self.smoothing)
        value = self._value(outputs, targets)
        if isinstance(value, Tensor):
            return value.mean()
        total, count = value
        return total / count

    def total(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over a batch and the count to divide it by: `[2]`, float64; without smoothing."""
        if self.kind.has_cross_entropy:
            values = cross_entropy(outputs, targets, reduction="none")
            if targets.is_floating_point():  # a probability for each class
                return in_double(values, targets)
            return in_double((values.double().sum(), (targets != _IGNORED).sum()), targets)
        return in_double(self._value(*_own_copies(self.kind.loss, outputs, targets)), targets)

    def _value(self, outputs: Tensor, targets: Tensor) -> Any:
        if self._by_place:
            _check_shapes(outputs, targets, self._named)
        value = self._function(outputs, targets)
        _check(value, outputs, targets, self._named)
        return value


def measured(metric: Metric, outputs: Tensor, targets: Tensor) -> Tensor:
    """The sum and the count `[2]` of a metric on a batch, or on a whole split."""
    return in_double(_measure(metric, outputs, targets), targets)


def is_one_number(metric: Metric, outputs: Tensor, targets: Tensor) -> bool:
    """Whether a metric returns a single number for all examples, such as a root or a correlation.

    The mean of such numbers over batches differs from the number for the whole split.
    """
    value = _measure(metric, outputs, targets)
    return isinstance(value, Tensor) and not value.ndim


def _measure(metric: Metric, outputs: Tensor, targets: Tensor) -> Any:
    where = f"task.metrics.{metric.name}: `{metric.call.target}`"
    if _is_by_place(metric.call):
        _check_shapes(outputs, targets, where)
    try:
        value = measure_of(metric.call)(*_own_copies(metric.call, outputs, targets))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the function is user-defined, or does not accept these arguments
        hint = "; `whole_split` of `lt_sweeps.training.metrics` marks one that needs a whole split"
        raise ValueError(
            f"{where} of outputs {list(outputs.shape)} and targets {list(targets.shape)} failed: "
            f"{told_by(error)}{'' if metric.takes_whole_split or metric.call.ours else hint}"
        ) from None
    if isinstance(value, Real):  # as scikit-learn returns
        value = torch.tensor(float(value), dtype=torch.float64)
    _check(value, outputs, targets, where)
    return value


def _own_copies(call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Copy the tensors for a user-defined function, which might change them in place.

    In an evaluation other metrics read the same outputs, and the targets are the data set's own.
    """
    known = call.ours or call.target.startswith("torch.")
    return tensors if known else tuple(tensor.clone() for tensor in tensors)


def in_double(value: Any, targets: Tensor) -> Tensor:
    """Convert the return value of a loss or a metric to a sum and a count `[2]`, in float64."""
    if isinstance(value, tuple):
        total, count = value
    elif value.ndim:
        total, count = value.double().sum(), value.numel()
    else:  # a mean over the batch counts as the mean of its examples
        total, count = value.double() * len(targets), len(targets)
    # `full` fills a number in by a kernel; in a copy the host would wait for the device.
    pair = (
        part.to(targets.device)
        if isinstance(part, Tensor)
        else torch.full((), part, device=targets.device)
        for part in (total, count)
    )
    return torch.stack([part.double() for part in pair])


def _is_by_place(call: Call) -> bool:
    return any(call.function is one for one in _BY_PLACE)


def _check_shapes(outputs: Tensor, targets: Tensor, where: str) -> None:
    if outputs.shape != targets.shape:
        cure = ""
        if not targets.is_floating_point():
            cure = "; whole numbers are classes or tokens: choose task=classification or tokens"
        elif outputs.shape == (*targets.shape, 1):
            cure = f"; give the data set targets of {list(outputs.shape[1:])} for each example"
        raise ValueError(
            f"{where} takes outputs and targets of one shape, got {list(outputs.shape)} and "
            f"{list(targets.shape)}{cure}"
        )


def _check(value: Any, outputs: Tensor, targets: Tensor, where: str) -> None:
    """Raises: ValueError: a function returned none of: a number, one per example, (sum, count)."""
    if isinstance(value, tuple) and len(value) == 2:
        wrong = [list(part.shape) for part in value if isinstance(part, Tensor) and part.ndim]
    elif isinstance(value, Tensor):
        # Outputs [B, 1] minus targets [B] are [B, B] numbers, most of which mix two examples.
        many = value.numel() > max(outputs.numel(), targets.numel())
        wrong = list(value.shape) if value.ndim and (many or len(value) != len(targets)) else []
    else:
        wrong = [type(value).__name__]
    if wrong:
        raise ValueError(
            f"{where} returned {wrong} for {len(targets)} examples; it may return a number, one "
            "for each example, or the two numbers (sum, count)"
        )
