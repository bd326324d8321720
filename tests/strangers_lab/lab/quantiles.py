"""A loss and a metric for predicted quantiles of each number."""

from __future__ import annotations

import torch
from torch import Tensor


def pinball(outputs: Tensor, targets: Tensor, *, quantile: float = 0.9) -> Tensor:
    """The pinball loss of each example, `[B, K]`."""
    error = targets - outputs
    return torch.maximum(quantile * error, (quantile - 1) * error)


def coverage(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether a target is below its predicted quantile."""
    return (targets <= outputs).double().flatten(1).mean(1)
