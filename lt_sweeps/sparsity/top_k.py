"""Top k: the highest of some scores, exactly as many as are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lt_sweeps.config.seeds import Seed, generator
from lt_sweeps.models.network import Layer


def keep_top(scores: Tensor, count: int, ties: torch.Generator) -> Tensor:
    """Which of `scores` `[n]` are the `count` highest: bool `[n]`, exactly `min(count, n)` True.

    Scores that equal the lowest one kept are chosen among at random. NaN counts as -inf.
    """
    if count >= len(scores):
        return torch.ones_like(scores, dtype=torch.bool)
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    boundary = scores.kthvalue(len(scores) - count + 1).values
    keep = scores > boundary
    tied = (scores == boundary).nonzero().squeeze(1)
    need = count - int(keep.sum())
    # A threshold alone would keep all of the tied scores and with them more than `count`: after
    # pruning to 0 or with a criterion of few values, thousands. So only as many of them stay as
    # are missing. Drawing an order of them all takes time, and hardly ever do ties have to be cut.
    if need < len(tied):
        tied = tied[torch.randperm(len(tied), generator=ties)[:need]]
    keep[tied] = True
    return keep


def keep_top_of_each(
    scores: Tensor, counts: Sequence[int], seeds: Sequence[Seed], *index: int | str
) -> Tensor:
    """`keep_top` of every replicate: `[R, n]`. Its seed and the `index` draw among ties."""
    ties = [generator(seed.role("noise"), "ties", *index) for seed in seeds]
    return torch.stack([keep_top(*row) for row in zip(scores, counts, ties, strict=True)])


def by_layer(flat: Tensor, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """`flat` `[..., n]`, the weights of several layers one after another, as `[..., *shape]`."""
    parts = zip(layers, flat.split([layer.size for layer in layers], -1), strict=True)
    return {layer.name: part.view(*flat.shape[:-1], *layer.shape) for layer, part in parts}
