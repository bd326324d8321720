"""Gradient clipping: functions that change one replicate's gradients in place.

They get the gradients by parameter name, after masking, so pruned weights do not count in a norm.
Weights that are not trained, as under a learned supermask, do not count in it either.
On a GPU they are captured in the CUDA graph of a step, so the host must not wait for a number.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FAMILY = "clipping"  # the first part of these functions' names in stage keys; must never change


def norm(grads: Mapping[str, Tensor], *, limit: float) -> None:
    """Scale all gradients so that their total norm is at most `limit`, like `clip_grad_norm_`."""
    total = torch.nn.utils.get_total_norm(list(grads.values()))
    factor = (limit / (total + 1e-6)).clamp(max=1.0)
    # One kernel for many tensors: a stack has hundreds of them in every step.
    torch._foreach_mul_(list(grads.values()), factor)  # pyright: ignore[reportPrivateImportUsage]


def value(grads: Mapping[str, Tensor], *, limit: float) -> None:
    """Clamp every number of the gradients to [-limit, limit]."""
    tensors = list(grads.values())
    torch._foreach_clamp_min_(tensors, -limit)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_clamp_max_(tensors, limit)  # pyright: ignore[reportPrivateImportUsage]
