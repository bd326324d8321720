"""Gradient clipping: functions that change a replicate's gradients in place, by parameter name.

They are called after the mask, so a pruned weight counts for nothing in a norm. On a GPU they are
captured in the graph of a step: they wait for no number.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FAMILY = "clipping"  # the first part of these names in stage keys, for ever


def norm(grads: Mapping[str, Tensor], *, limit: float) -> None:
    """Scale all gradients so that their norm together is at most `limit`, as torch's
    `clip_grad_norm_`."""
    total = torch.nn.utils.get_total_norm(list(grads.values()))
    factor = (limit / (total + 1e-6)).clamp(max=1.0)
    # A kernel for many tensors, where a stack has hundreds in every step.
    torch._foreach_mul_(list(grads.values()), factor)  # pyright: ignore[reportPrivateImportUsage]


def value(grads: Mapping[str, Tensor], *, limit: float) -> None:
    """Bring every number of the gradients into [-limit, limit]."""
    tensors = list(grads.values())
    torch._foreach_clamp_min_(tensors, -limit)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_clamp_max_(tensors, limit)  # pyright: ignore[reportPrivateImportUsage]
