"""Initial logits of a learned mask: each option is a function of one layer.

The function names the evidence it needs: `kept` (the mask so far), `logits` (those at the end of
the previous training), `noise` (uniform in [0, 1)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

FAMILY = "logits"  # the first part of these names in stage keys; never changes

Grain = Literal["weight", "channel", "layer"]
"""Which weights share a logit: none, the weights of a channel, or all weights of a layer."""


def constant(kept: Tensor, *, value: float = 0.0, grain: Grain = "weight") -> Tensor:
    """The same logit for all weights: each is kept with probability sigmoid(value)."""
    return torch.full(grained(kept.shape, grain), float(value))


def normal(
    kept: Tensor, noise: Tensor, *, mean: float, std: float, grain: Grain = "weight"
) -> Tensor:
    """Logits drawn from a normal distribution."""
    uniform = first(noise, grained(kept.shape, grain)).double().clamp(min=2.0**-25)
    return (mean + std * torch.special.ndtri(uniform)).float()


def by_mask(kept: Tensor, *, strength: float = 2.0) -> Tensor:
    """`strength` for a weight that the mask keeps, -`strength` for any other."""
    return torch.where(kept, float(strength), -float(strength))


def reopened(logits: Tensor, *, beta: float, highest: float) -> Tensor:
    """min(beta s, highest), for another round of Continuous Sparsification (arXiv:1912.04427).

    If `beta` is the final beta, a suppressed weight stays suppressed. If `highest` is the initial
    s, a weight that survived starts from that s again, and may be pruned in this round.
    """
    return (beta * logits).clamp(max=float(highest))


def none(kept: Tensor) -> Tensor:
    """No logits, for masks that depend on the weights alone."""
    return torch.zeros(0)


def carried(logits: Tensor) -> Tensor:
    """The logits at the end of the previous training."""
    return logits


def grained(shape: Sequence[int], grain: Grain) -> tuple[int, ...]:
    """The shape of a layer's logits, which broadcasts to that of its weights.

    A channel is a column of a matrix (an input of a linear layer), and a row of any other weight:
    an output feature map of a convolution, or an input of a transposed one.
    """
    if grain == "weight":
        return tuple(shape)
    ones = (1,) * (len(shape) - 1)
    if grain == "layer":
        return (1, *ones)
    return (1, shape[1]) if len(shape) == 2 else (shape[0], *ones)


def first(values: Tensor, shape: Sequence[int]) -> Tensor:
    """The leading entries of `values`: its last dimensions are cut to `shape`."""
    return values[(..., *[slice(size) for size in shape])]
