"""Freezes (mask-0 actions): what a pruned weight is pinned to (arXiv:1905.01067, section 4).

A freeze is a function of one layer's weights that names the evidence it needs, as a reset does:
`init`, `final`, `kept`, `noise`, and `cut`, the weights that are pruned now. A weight gets its
value when it is pruned, and keeps it at all later levels, unless the argument `pinned_too` is true:
then the freeze gives weights that were pruned before a value again. Where `kept_too` is true, kept
weights get the freeze's value as their initial value too, from which the reset goes on.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAMILY = "freezes"  # the first part of these names in stage keys, for ever


def zero(final: Tensor) -> Tensor:
    """0: the weight is gone."""
    return torch.zeros_like(final)


def init(init: Tensor) -> Tensor:
    """The weight's initial value, or with `reset.to` that of the time that is gone back to."""
    return init


def final(final: Tensor) -> Tensor:
    """The value that the weight was trained to."""
    return final


def variant(init: Tensor, final: Tensor, *, kept_too: bool = False) -> Tensor:
    """0 for a weight that training moved towards 0, its initial value for any other.

    Without `kept_too` it is the paper's variant 1. With it variant 2: kept weights that moved
    towards 0 start from 0 as well, and are trained.
    """
    return torch.where(init.abs() > final.abs(), 0.0, init)


def reversed_variant(init: Tensor, final: Tensor) -> Tensor:
    """The control: 0 for a weight that moved away from 0."""
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
    """The control: as many new zeros as variant 1 has at this level, anywhere.

    Anywhere among all pruned weights, as in the released code: so a weight that was pruned before
    may become 0 now. Without `pinned_too` the zeros lie among the weights pruned now.
    """
    zeros = int((init.abs() > final.abs())[cut].sum())
    among = ~kept if pinned_too else cut
    order = torch.where(among, noise, torch.inf).flatten().argsort(stable=True)
    values = torch.where(cut, init, final).flatten()  # one pruned before is as it was pinned
    values[order[:zeros]] = 0.0
    return values.view_as(init)
