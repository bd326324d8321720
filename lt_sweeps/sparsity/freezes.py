"""Freezes (mask-0 actions): what a pruned weight is pinned to (arXiv:1905.01067, section 4).

A freeze is a function of one layer's weights that names the evidence it needs, as a reset does:
`init`, `final`, `kept`, `noise`, and `cut`, the weights that are pruned now. A weight gets its
value when it is pruned and keeps it at all later levels, unless the argument `pinned_too` is true:
then weights that were pruned earlier get a new value as well. If `kept_too` is true, kept weights
also get the freeze's value as their initial value, before the reset is applied.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAMILY = "freezes"  # the first part of these names in stage keys; never changes


def zero(final: Tensor) -> Tensor:
    """0: the weight is gone."""
    return torch.zeros_like(final)


def init(init: Tensor) -> Tensor:
    """The weight's initial value; with `reset.to`, its value at the time the reset goes back to.

    After `reset=keep` it is the value that the last training started from.
    """
    return init


def final(final: Tensor) -> Tensor:
    """The value that the weight was trained to."""
    return final


def variant(init: Tensor, final: Tensor, *, kept_too: bool = False) -> Tensor:
    """0 if training moved the weight towards 0, otherwise its initial value.

    Without `kept_too` this is the paper's variant 1. With it, variant 2: kept weights that moved
    towards 0 also start from 0, and are trained.
    """
    return torch.where(init.abs() > final.abs(), 0.0, init)


def reversed_variant(init: Tensor, final: Tensor) -> Tensor:
    """The control: 0 if training moved the weight away from 0, otherwise its initial value."""
    return torch.where(init.abs() < final.abs(), 0.0, init)


def random_zeros(
    init: Tensor,
    final: Tensor,
    kept: Tensor,
    cut: Tensor,
    noise: Tensor,
    *,
    pinned_too: bool = True,
) -> Tensor:
    """The control: as many new zeros as variant 1 has at this level, at random places.

    The places are drawn among all pruned weights, as in the released code, so a weight that was
    pruned earlier may become 0 now. Without `pinned_too` only weights pruned now are drawn.
    """
    zeros = int((init.abs() > final.abs())[cut].sum())
    among = ~kept if pinned_too else cut
    order = torch.where(among, noise, torch.inf).flatten().argsort(stable=True)
    values = torch.where(cut, init, final).flatten()  # weights pruned before keep their pin
    values[order[:zeros]] = 0.0
    return values.view_as(init)
