"""Ranking: which of some scores are the highest, exactly as many as are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lt_sweeps.config.seeds import Seed, generator


def keep_top(scores: Tensor, count: int, ties: torch.Generator) -> Tensor:
    """Which of `scores` `[n]` are the `count` highest: bool `[n]`, exactly `min(count, n)` True.

    Equal scores at the boundary are chosen among at random; NaN is the lowest score of all.
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
    # The order of ties is drawn only where it decides something: it hardly ever does.
    keep[tied if need == len(tied) else tied[torch.randperm(len(tied), generator=ties)[:need]]] = (
        True
    )
    return keep


def keep_top_of_each(
    scores: Tensor, counts: Sequence[int], seeds: Sequence[Seed], *index: int | str
) -> Tensor:
    """The same for every replicate, `[R, n]`; ties are drawn by its seed and the `index`."""
    drawn = [generator(seed.role("noise"), "ties", *index) for seed in seeds]
    return torch.stack([keep_top(*each) for each in zip(scores, counts, drawn, strict=True)])
