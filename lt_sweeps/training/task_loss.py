"""`TaskLoss`: the loss of one replicate, for any task, and what a metric says of it."""

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

# They broadcast a target [B] against an output [B, 1] to B times B errors, with a warning at most.
_BY_PLACE = (
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.huber_loss, F.kl_div),
    *(F.l1_loss, F.mse_loss, F.multilabel_soft_margin_loss, F.poisson_nll_loss),
    *(F.smooth_l1_loss, F.soft_margin_loss),
    *(nn.BCELoss, nn.BCEWithLogitsLoss, nn.HuberLoss, nn.KLDivLoss, nn.L1Loss, nn.MSELoss),
    *(nn.MultiLabelSoftMarginLoss, nn.PoissonNLLLoss, nn.SmoothL1Loss, nn.SoftMarginLoss),
)

_IGNORED = -100  # the class that torch's cross entropy leaves out of its mean


class TaskLoss:
    """The loss of a kind of task, to train by (`mean`) and to add up over a split (`total`).

    By default it is the cross entropy of classes, whose labels a training can smooth.
    """

    def __init__(self, kind: TaskKind = CLASSIFICATION, smoothing: float = 0.0) -> None:
        kind.check_smoothing(smoothing)
        self.kind, self.smoothing = kind, smoothing
        self._function = measure_of(kind.loss)
        self._named = f"task.loss: `{kind.loss.target}`"
        self._by_place = _is_by_place(kind.loss)

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
    """The sum and the count of a metric on a batch, or its value on a whole split: `[2]`."""
    return in_double(_measure(metric, outputs, targets), targets)


def is_one_number(metric: Metric, outputs: Tensor, targets: Tensor) -> bool:
    """Whether a metric is one number of all that it is given, such as a root or a correlation.

    The mean of such numbers of the batches of a split is another than that of the split.
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
    except Exception as error:  # it is the user's, or was given what it does not take
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
    """Copies for a user's function: in an evaluation other metrics read the same outputs, and the
    targets are those of the data set itself, which a change in place would spoil.
    """
    known = call.ours or call.target.startswith("torch.")
    return tensors if known else tuple(tensor.clone() for tensor in tensors)


def in_double(value: Any, targets: Tensor) -> Tensor:
    """A sum and a count `[2]`, to be added to those of other batches."""
    if isinstance(value, tuple):
        total, count = value
    elif value.ndim:
        total, count = value.double().sum(), value.numel()
    else:  # the mean of a batch counts as that of its examples
        total, count = value.double() * len(targets), len(targets)
    # A number is filled in by a kernel: a copy from the host would wait for the device.
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
    """Raises: ValueError: what a function returned is none of the three that it may return."""
    if isinstance(value, tuple) and len(value) == 2:
        said = [list(part.shape) for part in value if isinstance(part, Tensor) and part.ndim]
    elif isinstance(value, Tensor):
        # Outputs [B, 1] less targets [B] are B times B numbers, most of them of two examples.
        many = value.numel() > max(outputs.numel(), targets.numel())
        said = list(value.shape) if value.ndim and (many or len(value) != len(targets)) else []
    else:
        said = [type(value).__name__]
    if said:
        raise ValueError(
            f"{where} returned {said} for {len(targets)} examples; it may return a number, one for "
            "each example, or the two numbers (sum, count)"
        )
