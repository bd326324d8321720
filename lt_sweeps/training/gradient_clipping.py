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
    for grad in grads.values():
        grad.mul_(factor)


def value(grads: Mapping[str, Tensor], *, limit: float) -> None:
    """Bring every number of the gradients into [-limit, limit]."""
    for grad in grads.values():
        grad.clamp_(-limit, limit)
