"""Logits: what a learned mask starts from, one function of a layer each.

They name the evidence they need: `kept` (the mask so far), `logits` (those that the training before
ended with), `noise` (uniform in [0, 1)).
"""

from __future__ import annotations

import torch
from torch import Tensor


def constant(kept: Tensor, *, value: float = 0.0) -> Tensor:
    """The same for all weights: each is kept with the chance sigmoid(value)."""
    return torch.full(kept.shape, float(value))


def by_mask(kept: Tensor, *, strength: float = 2.0) -> Tensor:
    """`strength` where the mask keeps a weight, minus that where it does not."""
    return torch.where(kept, float(strength), -float(strength))
